"""Images are changed by patches, each wholly or not at all."""

import asyncio

import pytest

V20 = "application/openstack-images-v2.0-json-patch"
V21 = "application/openstack-images-v2.1-json-patch"


def add(path, value):
    return {"op": "add", "path": path, "value": value}


def replace(path, value):
    return {"op": "replace", "path": path, "value": value}


def remove(path):
    return {"op": "remove", "path": path}


@pytest.fixture
async def image(admin):
    return await admin.create(name="before", os="linux", tags=["t"])


@pytest.mark.parametrize(
    ("operations", "changed"),
    [
        ([replace("/name", "after")], {"name": "after"}),
        ([add("/name", "after")], {"name": "after"}),
        ([replace("/name", None)], {"name": None}),
        ([replace("/os", "bsd")], {"os": "bsd"}),
        ([add("/os", "bsd")], {"os": "bsd"}),
        ([add("/new", "")], {"new": ""}),
        ([add("/a~1b", "x")], {"a/b": "x"}),
        ([add("/a~01", "x")], {"a~1": "x"}),
        ([add("/ padded ", "x")], {"padded": "x"}),
        ([add("/new", "1"), replace("/new", "2")], {"new": "2"}),
        ([add("/new", "1"), remove("/new")], {}),
        ([replace("/tags", ["b", "a", "b"])], {"tags": ["a", "b"]}),
        ([replace("/tags", [])], {"tags": []}),
        ([replace("/min_disk", 3), replace("/min_ram", 4.0)], {"min_disk": 3, "min_ram": 4}),
        ([replace("/protected", True)], {"protected": True}),
        ([replace("/os_hidden", True)], {"os_hidden": True}),
        ([replace("/visibility", "public")], {"visibility": "public"}),
        ([replace("/owner", "another")], {"owner": "another"}),
        ([replace("/disk_format", "raw")], {"disk_format": "raw"}),
        ([add("/container_format", "bare")], {"container_format": "bare"}),
        ([add("/kernel_id", None)], {"kernel_id": None}),
    ],
)
async def test_a_patch_answers_the_changed_image_and_it_stays_so(admin, image, operations, changed):
    answer = await admin.patch(image["id"], *operations)
    assert answer.status == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    after = {**answer.json, "tags": sorted(answer.json["tags"])}
    assert {**after, "updated_at": ""} == {**image, **changed, "updated_at": ""}
    assert await admin.show(image["id"]) == answer.json


async def test_a_custom_property_is_removed(admin, image):
    answer = await admin.patch(image["id"], remove("/os"))
    assert (answer.status, "os" in answer.json) == (200, False)
    assert "os" not in await admin.show(image["id"])


async def test_no_operations_change_nothing(admin, image):
    answer = await admin.patch(image["id"])
    assert (answer.status, answer.json) == (200, image)


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        ({"add": "/name", "value": "x"}, 409),
        ({"add": "/os", "value": "x"}, 409),
        ({"add": "/new", "value": "x"}, 200),
        ({"replace": "/name", "value": "x"}, 200),
        ({"replace": "/os", "value": "x"}, 200),
        ({"replace": "/new", "value": "x"}, 409),
        ({"remove": "/name"}, 403),
        ({"remove": "/os"}, 200),
        ({"remove": "/new"}, 409),
        ({"remove": "/os", "add": "/os", "value": "x"}, 400),
        ({"add": "/new"}, 400),
        ({"path": "/new", "value": "x"}, 400),
        (["add", "/new"], 400),
    ],
)
async def test_the_old_media_type_does_not_add_over_what_is_there(admin, image, operation, status):
    answer = await admin.old_patch(image["id"], operation)
    assert answer.status == status, answer.text
    if status != 200:
        assert await admin.show(image["id"]) == image


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (replace("/new", "x"), 409),
        (remove("/new"), 409),
        (remove("/name"), 403),
        (remove("/tags"), 403),
        (add("/id", "8f0c1bb2-3b6f-4c60-9a0f-5a7a5ab9e1c4"), 403),
        (replace("/status", "active"), 403),
        (add("/size", 5), 403),
        (replace("/checksum", "x"), 403),
        (replace("/os_hash_algo", "md5"), 403),
        (add("/os_hash_value", "x"), 403),
        (add("/stores", "x"), 403),
        (replace("/self", "x"), 403),
        (add("/direct_url", "x"), 403),
        (add("/location", "x"), 403),
        (add("/deleted", "true"), 403),
        (remove("/created_at"), 403),
        (add("/os_glance_x", "x"), 403),
        (replace("/name", 5), 400),
        (replace("/name", "💩"), 400),
        (replace("/name", "x" * 256), 400),
        (replace("/visibility", "secret"), 400),
        (replace("/protected", "true"), 400),
        (replace("/min_disk", -1), 400),
        (replace("/disk_format", "floppy"), 400),
        (replace("/tags", "x"), 400),
        (replace("/tags", [["x"]]), 400),
        (add("/tags/-", "x"), 400),
        (add("/new", 5), 400),
        (add("/new", None), 400),
        (add("/new", "\x00"), 400),
        (add("/" + "x" * 256, "x"), 400),
        (add("/💩", "x"), 400),
        (add("/a/b", "x"), 400),
        (add("new", "x"), 400),
        (add("", "x"), 400),
        (add("//", "x"), 400),
        (add("/a/", "x"), 400),
        (add("/a~2", "x"), 400),
        (add("/a~", "x"), 400),
        ({"op": "test", "path": "/name", "value": "before"}, 400),
        ({"op": "move", "path": "/name", "from": "/os"}, 400),
        ({"op": "copy", "path": "/name", "from": "/os"}, 400),
        ({"op": "add", "path": "/new"}, 400),
        ({"op": "add", "value": "x"}, 400),
        ({"path": "/new", "value": "x"}, 400),
        ({"op": ["add"], "path": "/new", "value": "x"}, 400),
        ({"op": {}, "path": "/new", "value": "x"}, 400),
        ("add", 400),
        (None, 400),
    ],
)
async def test_a_refused_operation_takes_the_whole_patch_with_it(admin, image, operation, status):
    good = replace("/name", "after")
    for operations in ([operation], [good, operation], [operation, good]):
        answer = await admin.patch(image["id"], *operations)
        assert answer.status == status, answer.text
        assert await admin.show(image["id"]) == image


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "application/json-patch+json", "text/plain",
     "application/openstack-images-v2.2-json-patch", "application/openstack-images-v2.1"],
)  # fmt: skip
async def test_another_media_type_is_refused_with_415_and_told_which_are_taken(
    admin, image, content_type
):
    path = f"/v2/images/{image['id']}"
    answer = await admin("PATCH", path, json=[add("/new", "x")], Content_Type=content_type)
    assert answer.status == 415
    for media in (V20, V21):
        assert media in answer.headers["Accept-Patch"]
    assert await admin.show(image["id"]) == image


@pytest.mark.parametrize("content_type", [V21 + "; charset=utf-8", V21.upper()])
async def test_parameters_and_case_of_the_media_type_do_not_matter(admin, image, content_type):
    path = f"/v2/images/{image['id']}"
    answer = await admin("PATCH", path, json=[add("/new", "x")], Content_Type=content_type)
    assert answer.status == 200


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'"x"', b"3", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_array_is_refused_with_400(admin, image, body):
    answer = await admin("PATCH", f"/v2/images/{image['id']}", data=body, Content_Type=V21)
    assert answer.status == 400


async def test_formats_stand_once_there_is_data(admin):
    image = await admin.create_active(b"bytes")
    for operation in (
        replace("/disk_format", "qcow2"),
        replace("/disk_format", "raw"),
        add("/container_format", "ova"),
        replace("/container_format", None),
    ):
        assert (await admin.patch(image["id"], operation)).status == 403
    assert await admin.show(image["id"]) == image
    assert (await admin.patch(image["id"], replace("/name", "after"))).status == 200


async def test_nobody_but_an_administrator_gives_an_image_away(projects):
    owner, admin = projects.caller("mine"), projects.caller("ops", "admin")
    for visibility in ("private", "shared", "community"):
        image = await owner.create(visibility=visibility)
        for change in (replace("/owner", "yours"), add("/owner", "yours"), add("/owner", None)):
            assert (await owner.patch(image["id"], change)).status == 403
        assert (await owner.show(image["id"]))["owner"] == "mine"
        assert (await admin.patch(image["id"], replace("/owner", "yours"))).status == 200
        expected = 200 if visibility == "community" else 404
        assert (await owner("GET", f"/v2/images/{image['id']}")).status == expected
        assert (await projects.caller("yours").show(image["id"]))["owner"] == "yours"


async def test_a_reader_of_the_owning_project_changes_nothing(projects):
    image = await projects.caller("mine").create()
    reader = projects.caller("mine", "reader")
    assert (await reader.patch(image["id"], replace("/name", "x"))).status == 403


async def test_changes_made_at_once_to_different_properties_are_all_kept(admin, image):
    changes = [admin.patch(image["id"], add(f"/p{n}", str(n))) for n in range(12)]
    assert {answer.status for answer in await asyncio.gather(*changes)} == {200}
    shown = await admin.show(image["id"])
    assert {f"p{n}": str(n) for n in range(12)}.items() <= shown.items()


async def test_an_image_that_is_not_there_cannot_be_changed(admin, image):
    await admin("DELETE", f"/v2/images/{image['id']}")
    for image_id in (image["id"], "8f0c1bb2-3b6f-4c60-9a0f-5a7a5ab9e1c4", "x"):
        assert (await admin.patch(image_id, replace("/name", "x"))).status == 404
