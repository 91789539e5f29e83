"""Images are created, shown and deleted."""

import asyncio
import re
from uuid import uuid4

import pytest

SOME_ID = "3b2f0c7e-5d1a-4c68-9f27-6a0d8e4b1c95"
SOME_DIGITS = SOME_ID.replace("-", "")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
BASE_FIELDS = {
    "id", "name", "status", "visibility", "protected", "os_hidden", "owner", "disk_format",
    "container_format", "min_disk", "min_ram", "tags", "size", "virtual_size", "checksum",
    "os_hash_algo", "os_hash_value", "created_at", "updated_at", "self", "file", "schema",
}  # fmt: skip


async def test_an_image_made_of_nothing_has_every_base_field_at_its_default(admin):
    answer = await admin("POST", "/v2/images", json={})
    image = answer.json
    assert answer.status == 201
    assert set(image) == BASE_FIELDS
    path = f"/v2/images/{image['id']}"
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Location"] == str(admin.client.make_url(path))
    assert TIME.fullmatch(image["created_at"])
    assert image["updated_at"] == image["created_at"]
    expected = {
        "name": None, "status": "queued", "visibility": "shared", "protected": False,
        "os_hidden": False, "owner": "default", "disk_format": None, "container_format": None,
        "min_disk": 0, "min_ram": 0, "tags": [], "size": None, "virtual_size": None,
        "checksum": None, "os_hash_algo": None, "os_hash_value": None,
        "self": path, "file": f"{path}/file", "schema": "/v2/schemas/image",
    }  # fmt: skip
    assert {name: image[name] for name in expected} == expected


async def test_an_image_shows_what_it_was_created_with(admin):
    given = {
        "id": str(uuid4()), "name": "naïve ☃", "visibility": "private", "protected": True,
        "os_hidden": True, "owner": "another", "disk_format": "qcow2", "container_format": "bare",
        "min_disk": 7, "min_ram": 2147483647, "os_distro": "debian", "a/b~c": "Grüße",
        "kernel_id": None, "ramdisk_id": str(uuid4()),
    }  # fmt: skip
    created = await admin.create(**given, tags=["b", "a", "b"])
    shown = await admin.show(given["id"])
    assert created == shown
    assert {name: shown[name] for name in given} == given
    assert sorted(shown["tags"]) == ["a", "b"]


async def test_text_is_answered_as_utf_8_and_not_escaped(admin):
    image = await admin.create(name="Grüße")
    answer = await admin("GET", f"/v2/images/{image['id']}")
    assert "Grüße".encode() in answer.body


async def test_a_deleted_image_is_gone_and_its_id_stays_taken(admin):
    image = await admin.create()
    path = f"/v2/images/{image['id']}"
    answer = await admin("DELETE", path)
    assert (answer.status, answer.body) == (204, b"")
    for method, suffix in [("GET", ""), ("DELETE", ""), ("GET", "/file"), ("GET", "/members")]:
        assert (await admin(method, path + suffix)).status == 404
    assert (await admin.patch(image["id"])).status == 404
    assert (await admin.upload(image["id"], b"x")).status == 404
    assert (await admin("POST", "/v2/images", json={"id": image["id"]})).status == 409
    assert await admin.names() == []


async def test_an_id_is_kept_as_given_and_means_the_same_image_in_either_case(admin):
    upper = "ABCDEF01-2345-6789-ABCD-EF0123456789"
    assert (await admin.create(id=upper))["id"] == upper
    assert (await admin.show(upper))["id"] == upper
    assert (await admin.show(upper.lower()))["id"] == upper
    again = await admin("POST", "/v2/images", json={"id": upper.lower()})
    assert again.status == 409


async def test_of_two_creating_the_same_id_at_once_one_wins(admin):
    image_id = str(uuid4())
    wishes = [admin("POST", "/v2/images", json={"id": image_id, "name": str(n)}) for n in range(8)]
    statuses = sorted([answer.status for answer in await asyncio.gather(*wishes)])
    assert statuses == [201] + [409] * 7


@pytest.mark.parametrize(
    "image_id",
    [
        "x",
        "8f0c1bb2",
        SOME_ID + "0",
        SOME_DIGITS,
        "%00",
        "%F0%9F%92%A9",
        "{" + SOME_ID,
    ],
)
async def test_what_is_no_uuid_names_no_image(admin, image_id):
    for method in ("GET", "DELETE"):
        assert (await admin(method, f"/v2/images/{image_id}")).status == 404


@pytest.mark.parametrize(
    "name",
    [
        "status", "size", "virtual_size", "checksum", "created_at", "updated_at", "direct_url",
        "self", "file", "schema", "stores", "location", "locations", "deleted", "deleted_at",
        "os_glance_x", "os_glanceless",
    ],
)  # fmt: skip
async def test_what_only_the_service_sets_is_refused_with_403(admin, name):
    answer = await admin("POST", "/v2/images", json={name: "x"})
    assert answer.status == 403
    assert name in answer.text
    assert await admin.names() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", 1), ("name", "x" * 256), ("name", ["x"]), ("name", "💩"), ("name", "a\x00b"),
        ("visibility", "secret"), ("visibility", None), ("protected", "true"), ("protected", 1),
        ("os_hidden", None), ("disk_format", "floppy"), ("disk_format", {}),
        ("container_format", "tar"), ("min_disk", -1), ("min_disk", 2147483648),
        ("min_disk", 10**40), ("min_ram", "1"), ("min_ram", 1.5), ("min_ram", True),
        ("min_ram", None), ("tags", "x"), ("tags", [1]), ("tags", ["x" * 256]), ("tags", ["💩"]),
        ("owner", "x" * 256), ("owner", 5), ("id", "x"), ("id", None), ("id", SOME_DIGITS),
        ("custom", 1), ("custom", True), ("custom", None), ("custom", {}), ("custom", ["x"]),
        ("custom", "💩"), ("custom", "\x00"), ("💩", "x"), ("x" * 256, "x"), ("\x00", "x"),
        ("kernel_id", "vmlinuz"), ("cinder_encryption_key_deletion_policy", "perhaps"),
        ("os_hash_algo", 1), ("os_hash_value", "x" * 129),
    ],
)  # fmt: skip
async def test_a_value_of_the_wrong_type_or_range_is_refused_with_400(admin, name, value):
    answer = await admin("POST", "/v2/images", json={name: value})
    assert answer.status == 400, answer.text
    assert await admin.names() == []


async def test_a_lone_surrogate_is_refused_with_400(admin):
    answer = await admin("POST", "/v2/images", data=b'{"name": "\\ud800"}')
    assert answer.status == 400


async def test_whole_floats_are_numbers_and_hashes_given_early_are_ignored(admin):
    image = await admin.create(min_disk=1.0, os_hash_algo="md5", os_hash_value="0" * 128)
    assert (image["min_disk"], image["os_hash_algo"], image["os_hash_value"]) == (1, None, None)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'[{"name": "x"}]', b"3", b'"x"', b"null", b"\xff", b'{"a": NaN}', b"{}{}"],
)
async def test_a_body_that_is_no_json_object_is_refused_with_400(admin, body):
    answer = await admin("POST", "/v2/images", data=body, Content_Type="application/json")
    assert answer.status == 400


async def test_nesting_without_end_is_refused_and_does_no_harm(admin):
    answer = await admin("POST", "/v2/images", data=b'{"a":' + b"[" * 100_000)
    assert answer.status == 400


async def test_the_content_type_of_json_calls_does_not_matter(admin):
    answer = await admin("POST", "/v2/images", data=b'{"name":"x"}', Content_Type="text/plain")
    assert answer.status == 201


async def test_limits_of_properties_and_tags_are_refused_with_413(open_cloud):
    admin = (await open_cloud(limits={"properties": 2, "tags": 2})).admin
    too_many = {"a": "1", "b": "2", "c": "3"}
    assert (await admin("POST", "/v2/images", json=too_many)).status == 413
    assert (await admin("POST", "/v2/images", json={"tags": list("abc")})).status == 413
    image = await admin.create(a="1", b="2", tags=["a", "b", "a"])
    more = {"op": "add", "path": "/c", "value": "3"}
    assert (await admin.patch(image["id"], more)).status == 413
    change = {"op": "replace", "path": "/a", "value": "changed"}
    assert (await admin.patch(image["id"], change)).status == 200
    swap = {"op": "remove", "path": "/b"}
    assert (await admin.patch(image["id"], swap, more)).status == 200
    assert (await admin("PUT", f"/v2/images/{image['id']}/tags/c")).status == 413
    assert (await admin("PUT", f"/v2/images/{image['id']}/tags/a")).status == 204


async def test_a_protected_image_is_not_deleted(admin):
    image = await admin.create(protected=True)
    path = f"/v2/images/{image['id']}"
    assert (await admin("DELETE", path)).status == 403
    await admin.patch(image["id"], {"op": "replace", "path": "/protected", "value": False})
    assert (await admin("DELETE", path)).status == 204


async def test_calls_that_take_no_body_refuse_one(admin):
    image = await admin.create()
    path = f"/v2/images/{image['id']}"
    calls = [
        ("GET", path), ("DELETE", path), ("GET", f"{path}/file"), ("PUT", f"{path}/tags/x"),
        ("DELETE", f"{path}/tags/x"), ("POST", f"{path}/actions/deactivate"),
        ("POST", f"{path}/actions/reactivate"), ("GET", f"{path}/members"),
        ("GET", "/v2/schemas/image"), ("GET", "/v2/info/import"),
    ]  # fmt: skip
    for method, called in calls:
        assert (await admin(method, called, data=b"{}")).status == 400, (method, called)


async def test_who_creates_for_whom(projects):
    owner, admin = projects.caller("mine"), projects.caller("ops", "admin")
    assert (await owner.create())["owner"] == "mine"
    assert (await owner.create(owner="mine"))["owner"] == "mine"
    assert (await owner("POST", "/v2/images", json={"owner": "yours"})).status == 403
    assert (await admin.create(owner="yours"))["owner"] == "yours"
    reader = projects.caller("mine", "reader")
    assert (await reader("POST", "/v2/images", json={})).status == 403
    assert (await projects.caller(None).create())["owner"] is None


async def test_only_administrators_publish_and_every_owner_may_offer_to_the_community(projects):
    owner, admin = projects.caller("mine"), projects.caller("ops", "admin")
    assert (await owner("POST", "/v2/images", json={"visibility": "public"})).status == 403
    image = await owner.create(visibility="community")
    publish = {"op": "replace", "path": "/visibility", "value": "public"}
    assert (await owner.patch(image["id"], publish)).status == 403
    assert (await admin.patch(image["id"], publish)).json["visibility"] == "public"


async def test_an_image_that_others_may_see_is_theirs_to_look_at_only(projects):
    owner, other = projects.caller("mine"), projects.caller("yours")
    seen = (await owner.create(visibility="community"))["id"]
    unseen = (await owner.create(visibility="private"))["id"]
    tag = {"op": "replace", "path": "/name", "value": "x"}
    for image_id, status in [(seen, 403), (unseen, 404)]:
        assert (await other("DELETE", f"/v2/images/{image_id}")).status == status
        assert (await other.patch(image_id, tag)).status == status
        assert (await other.upload(image_id, b"x")).status == status
        assert (await other("PUT", f"/v2/images/{image_id}/tags/x")).status == status
    reader = projects.caller("mine", "reader")
    assert (await reader("DELETE", f"/v2/images/{unseen}")).status == 403
    assert (await owner.show(unseen))["tags"] == []


async def test_who_says_nothing_of_himself_is_refused_with_401(projects):
    stranger = projects.admin
    for method, path in [
        ("GET", "/v2/images"),
        ("POST", "/v2/images"),
        ("GET", "/v2/"),
        ("GET", "/v2/schemas/image"),
        ("GET", "/v2"),
    ]:
        assert (await stranger(method, path)).status == 401, path
    for path in ("/versions", "/healthcheck"):
        assert (await stranger("GET", path)).status == 200
    without_roles = projects.caller("mine", "")
    assert (await without_roles("GET", "/v2/images")).status == 403
    assert (await without_roles("GET", "/v2/schemas/image")).status == 200
