"""What image services were broken by before: none of it works here.

An advisory's number stands where it is certain; the others are of the same kind.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from calotype.commands.policy.actor import Actor, with_implied
from calotype.commands.policy.policy import DEFAULT_POLICY
from calotype.http.identity.identity import Identity

TEN = b"0123456789"


@pytest.fixture
def log_url(tmp_path: Path) -> str:
    """What is told here does not depend on the kind of log."""
    return f"sqlite:///{tmp_path / 'log.sqlite'}"


@pytest.fixture
async def shown(open_cloud: Any) -> Any:
    """A cloud of projects in which clients are shown places, and may change them."""
    http = {"show_multiple_locations": True, "show_image_direct_url": True}
    return await open_cloud(identity={"kind": "headers"}, http=http)


def patches(name: str, value: Any) -> list[tuple[str, dict[str, Any]]]:
    """Every way of setting a field by PATCH: `(media type's method, operation)`."""
    return [
        ("patch", {"op": "replace", "path": f"/{name}", "value": value}),
        ("patch", {"op": "add", "path": f"/{name}", "value": value}),
        ("old_patch", {"replace": f"/{name}", "value": value}),
        ("old_patch", {"add": f"/{name}", "value": value}),
    ]


class Slowly:
    """A body that waits in its middle."""

    def __init__(self, data: bytes = b"x" * 200_000) -> None:
        self.data = data
        self.go_on = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        middle = len(self.data) // 2
        yield self.data[:middle]
        await self.go_on.wait()
        yield self.data[middle:]


async def until_saving(caller: Any, image_id: str) -> None:
    async with asyncio.timeout(10):
        while (await caller.show(image_id))["status"] != "saving":  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# ---- whose image it is ----


async def test_nobody_deletes_what_belongs_to_others(projects):
    """OSSA-2012-017 (CVE-2012-4573, CVE-2012-5482)."""
    owner, stranger = projects.caller("red"), projects.caller("blue")
    operator = projects.caller("red", "admin")
    private = await owner.create_active(TEN, visibility="private")
    public = await operator.create_active(TEN, visibility="public")
    stored = projects.stored()
    assert (await stranger("DELETE", f"/v2/images/{private['id']}")).status == 404
    assert (await stranger("DELETE", f"/v2/images/{public['id']}")).status == 403
    reader = projects.caller("red", "reader")
    assert (await reader("DELETE", f"/v2/images/{private['id']}")).status == 403
    assert await owner.show(private["id"]) == private
    assert projects.stored() == stored


async def test_an_owner_cannot_be_forged(projects):
    member, operator = projects.caller("red"), projects.caller("cloud", "admin")
    for owner in ("blue", "", None):
        answer = await member("POST", "/v2/images", json={"name": "x", "owner": owner})
        assert answer.status == 403, owner
    theirs = await projects.caller("blue").create(name="theirs")
    await operator.share(theirs["id"], "red", "accepted")
    community = await projects.caller("blue").create(visibility="community")
    mine = await member.create(visibility="community")
    for image in (theirs, community, mine):
        for method, operation in patches("owner", "red" if image is not mine else "blue"):
            answer = await getattr(member, method)(image["id"], operation)
            assert answer.status in (403, 409), operation
        assert await member.show(image["id"]) == image


async def test_headers_of_the_old_api_set_nothing(projects):
    """OSSA-2015-019 (CVE-2015-5251): `x-image-meta-status` once did."""
    member = projects.caller("red")
    headers = {
        "x_image_meta_status": "queued",
        "x_image_meta_owner": "blue",
        "x_image_meta_is_public": "true",
        "x_image_meta_location": "file:///etc/passwd",
        "x_image_meta_size": "1",
        "x_image_meta_checksum": "0" * 32,
        "x_image_meta_deleted": "true",
        "x_image_meta_id": "00000000-0000-0000-0000-000000000001",
    }
    made = await member("POST", "/v2/images", json={"name": "x"}, **headers)
    assert (made.status, made.json["owner"], made.json["status"]) == (201, "red", "queued")
    assert made.json["id"] != headers["x_image_meta_id"]
    image = await member.create_bare()
    assert (await member.upload(image["id"], TEN, **headers)).status == 204
    before = await member.show(image["id"])
    assert (before["status"], before["size"], before["visibility"]) == ("active", 10, "shared")
    renamed = await member(
        "PATCH",
        f"/v2/images/{image['id']}",
        json=[{"op": "replace", "path": "/name", "value": "y"}],
        Content_Type="application/openstack-images-v2.1-json-patch",
        **headers,
    )
    changed = {"name": "y", "updated_at": renamed.json["updated_at"]}
    assert renamed.json == {**before, **changed}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "active"),
        ("status", "queued"),
        ("size", 1),
        ("virtual_size", 1),
        ("checksum", "0" * 32),
        ("created_at", "2020-01-01T00:00:00Z"),
        ("updated_at", "2020-01-01T00:00:00Z"),
        ("deleted", True),
        ("deleted_at", "2020-01-01T00:00:00Z"),
        ("self", "/v2/images/x"),
        ("file", "/etc/passwd"),
        ("schema", "/v2/schemas/other"),
        ("direct_url", "file:///etc/passwd"),
        ("location", "file:///etc/passwd"),
        ("os_glance_importing_to_stores", "default"),
        ("os_glance_failed_import", ""),
        ("os_glance_import_task", "x"),
        ("os_glance_stage_host", "http://example.org"),
        ("os_glance", "x"),
    ],
)
async def test_what_the_service_says_of_an_image_is_not_for_clients_to_set(projects, name, value):
    """Neither by a member nor by an administrator, at its making or later."""
    for caller in (projects.caller("red"), projects.caller("red", "admin")):
        made = await caller("POST", "/v2/images", json={"name": "x", name: value})
        assert made.status == 403, made.text
        for image in (await caller.create_bare(), await caller.create_active(TEN)):
            for method, operation in [
                *patches(name, value),
                ("patch", {"op": "remove", "path": f"/{name}"}),
                ("old_patch", {"remove": f"/{name}"}),
            ]:
                answer = await getattr(caller, method)(image["id"], operation)
                assert answer.status in (403, 409), (operation, answer.text)
            assert await caller.show(image["id"]) == image


@pytest.mark.parametrize("name", ["id", "os_hash_algo", "os_hash_value"])
async def test_an_id_and_hashes_are_not_for_clients_to_change(projects, name):
    member = projects.caller("red")
    image = await member.create_active(TEN)
    for method, operation in patches(name, "00000000-0000-0000-0000-000000000001"):
        answer = await getattr(member, method)(image["id"], operation)
        assert answer.status in (403, 409), operation
    assert await member.show(image["id"]) == image
    made = await member.create(os_hash_algo="md5", os_hash_value="0" * 32)
    assert (made["os_hash_algo"], made["os_hash_value"]) == (None, None)


@pytest.mark.parametrize("retention_seconds", [0, 3600])
async def test_the_id_of_a_deleted_image_is_never_given_again(open_cloud, retention_seconds):
    """OSSN-0075: who booted from an id would get what somebody else put there."""
    deletion = {"retention_seconds": retention_seconds}
    cloud = await open_cloud(identity={"kind": "headers"}, deletion=deletion)
    owner, operator = cloud.caller("red"), cloud.caller("cloud", "admin")
    image = await owner.create_active(TEN)
    assert (await owner("DELETE", f"/v2/images/{image['id']}")).status == 204
    purge = f"/log/v1/images/{image['id']}/purge"
    purged = await operator("POST", purge, json={"reason": "space"})
    assert purged.status == (204 if retention_seconds else 410)
    await cloud.sweep()
    for caller in (cloud.caller("blue"), owner, operator):
        for image_id in (image["id"], image["id"].upper()):
            answer = await caller("POST", "/v2/images", json={"id": image_id, "name": "other"})
            assert answer.status == 409, answer.text


# ---- who gets the bytes ----


async def test_a_download_that_is_refused_is_refused_however_often_others_had_it(
    open_cloud, tmp_path
):
    """OSSA-2013-027 (CVE-2013-4428): a copy near by was once handed out without asking."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("download_image: 'role:admin or (role:member and project_id:%(owner)s)'\n")
    cloud = await open_cloud(identity={"kind": "headers"}, policy={"file": str(policy)})
    owner, operator = cloud.caller("red"), cloud.caller("red", "admin")
    for fields in ({"visibility": "shared"}, {"visibility": "public"}):
        image = await operator.create_active(TEN, **fields)
        if fields["visibility"] == "shared":
            await operator.share(image["id"], "blue", "accepted")
        path = f"/v2/images/{image['id']}/file"
        for _ in range(2):
            assert (await owner("GET", path)).body == TEN
            for refused in (cloud.caller("blue"), cloud.caller("red", "reader")):
                assert (await refused("GET", path)).status == 403
                assert (await refused("GET", path, Range="bytes=0-0")).status == 403
                assert (await refused("GET", f"/v2.9{path.removeprefix('/v2')}")).status == 403


async def test_no_answer_tells_where_the_bytes_are(projects):
    """OSSA-2013-007 (CVE-2013-1840): the place, with the store's credentials, was in a header."""
    owner, operator = projects.caller("red"), projects.caller("red", "admin")
    image = await owner.create_active(TEN)
    (stored,) = projects.stored()
    path = f"/v2/images/{image['id']}"
    for caller in (owner, operator):
        for asked in (path, f"{path}/file", "/v2/images", f"/log/v1{path[3:]}/history"):
            answer = await caller("GET", asked)
            assert answer.status == 200
            said = f"{dict(answer.headers)}{answer.text}"
            assert stored.name not in said
            assert str(projects.directory) not in said


# ---- places that clients name ----


async def test_a_place_is_never_looked_at_for_who_names_a_file_or_another_host(shown):
    """OSSA-2014-041 (CVE-2014-9493) and OSSA-2015-002 (CVE-2015-1195): files of the service were
    read and deleted; other hosts were asked for strangers."""
    visits = 0

    async def visited(_: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.close()

    server = await asyncio.start_server(visited, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    secret = shown.directory.parent / "secret"
    secret.write_bytes(b"not for you")
    other = await shown.caller("red").create_active(b"bytes of another image")
    urls = [
        f"file://{secret}",
        f"FILE://{secret}",
        f"filesystem://{secret}",
        "file:///etc/passwd",
        f"file://{shown.directory}/../secret",
        f"http://127.0.0.1:{port}/secret",
        f"http://localhost:{port}/secret",
        f"HTTP://127.0.0.1:{port}/secret",
        f"https://127.0.0.1:{port}/secret",
        f"swift+http://user:key@127.0.0.1:{port}/v1/container/object",
        f"swift+config://ref/container/object?{port}",
        f"s3://key:secret@127.0.0.1:{port}/bucket/object",
        "http://169.254.169.254/latest/meta-data",
        "gopher://127.0.0.1:6379/x",
        other["locations"][0]["url"],
        "",
    ]
    for caller in (shown.caller("blue"), shown.caller("red", "admin")):
        image = await caller.create_bare()
        for url in urls:
            place = {"url": url, "metadata": {}}
            for operation in (
                {"op": "add", "path": "/locations/-", "value": place},
                {"op": "add", "path": "/locations/0", "value": place},
                {"op": "replace", "path": "/locations", "value": [place]},
            ):
                answer = await caller.patch(image["id"], operation)
                assert answer.status in (400, 403), (url, answer.text)
        assert await caller.show(image["id"]) == image
        assert (await caller("DELETE", f"/v2/images/{image['id']}")).status == 204
    await shown.sweep()
    assert secret.read_bytes() == b"not for you"
    assert (await shown.caller("red")("GET", f"/v2/images/{other['id']}/file")).status == 200
    assert visits == 0
    server.close()


async def test_who_may_not_change_an_image_has_no_place_looked_at(shown, monkeypatch):
    """Else the answer would tell what is in the stores."""
    owner, operator = shown.caller("red"), shown.caller("red", "admin")
    image = await operator.create_bare(visibility="public")
    looked: list[str] = []
    (driver,) = shown.context.stores.values()
    monkeypatch.setattr(driver, "size", lambda url: looked.append(url) or 1)
    place = {"url": f"{driver.base_url}anything", "metadata": {}}
    operation = {"op": "add", "path": "/locations/-", "value": place}
    for caller in (shown.caller("blue"), shown.caller("red", "reader"), shown.caller(None, "")):
        assert (await caller.patch(image["id"], operation)).status in (403, 404)
    assert looked == []
    assert (await owner.show(image["id"]))["status"] == "queued"


async def test_an_active_image_never_takes_other_bytes(shown):
    """OSSA-2016-006 (CVE-2016-0757): without its last place an image was queued again."""
    owner, operator = shown.caller("red"), shown.caller("red", "admin")
    image = await owner.create_active(TEN)
    for caller in (owner, operator):
        for operation in (
            {"op": "remove", "path": "/locations/0"},
            {"op": "replace", "path": "/locations", "value": []},
        ):
            assert (await caller.patch(image["id"], operation)).status == 403
        assert (await caller.upload(image["id"], b"other bytes")).status == 409
    assert await owner.show(image["id"]) == image
    assert (await owner("GET", f"/v2/images/{image['id']}/file")).body == TEN


# ---- more than allowed ----


async def test_deleting_images_during_their_upload_does_not_fill_the_store(open_cloud):
    """OSSA-2015-003 (CVE-2014-9623): what was deleted while it came counted for nobody."""
    limits = {"user_storage": "1MB"}
    cloud = await open_cloud(identity={"kind": "headers"}, limits=limits)
    member = cloud.caller("red")
    for _ in range(3):
        images = [await member.create_bare() for _ in range(4)]
        bodies = [Slowly() for _ in images]
        uploads = [
            asyncio.create_task(member.upload(image["id"], body))
            for image, body in zip(images, bodies, strict=True)
        ]
        for image in images:
            await until_saving(member, image["id"])
            assert (await member("DELETE", f"/v2/images/{image['id']}")).status == 204
        for body in bodies:
            body.go_on.set()
        assert [answer.status for answer in await asyncio.gather(*uploads)] == [410] * 4
    await cloud.sweep()
    assert cloud.stored() == []
    assert (await member.create_active(b"x" * (1 << 20)))["size"] == 1 << 20
    image = await member.create_bare()
    assert (await member.upload(image["id"], b"x")).status == 413


async def test_a_token_that_ends_during_an_upload_leaves_nothing_uncounted(projects):
    """OSSA-2015-020 (CVE-2015-5286): the bytes stayed when the token ended before they did.

    Here the upload was decided when it began: it ends as if the token had not, and with 410 and
    without a trace where the image was deleted meanwhile.
    """
    lasting = projects.caller("red")
    kept, gone = await lasting.create_bare(), await lasting.create_bare()
    bodies = {kept["id"]: Slowly(), gone["id"]: Slowly()}
    by_headers = projects.api.identity
    ends = time.time() + 0.5
    brief = Actor(
        "somebody", "red", with_implied({"member"}), expires_at=ends, policy=DEFAULT_POLICY
    )

    class BriefWriters(Identity):
        def identify(self, request: Any) -> Actor:
            return brief if request.method == "PUT" else by_headers.identify(request)

    projects.api.identity = BriefWriters()
    uploads = {
        name: asyncio.create_task(lasting.upload(name, body)) for name, body in bodies.items()
    }
    for name in bodies:
        await until_saving(lasting, name)
    assert (await lasting("DELETE", f"/v2/images/{gone['id']}")).status == 204
    await asyncio.sleep(max(0.0, ends - time.time()) + 0.01)
    for body in bodies.values():
        body.go_on.set()
    assert (await uploads[kept["id"]]).status == 204
    assert (await uploads[gone["id"]]).status == 410
    await projects.sweep()
    assert len(projects.stored()) == 1
    assert (await lasting.show(kept["id"]))["size"] == 200_000


async def test_no_body_is_larger_than_an_image_may_be(open_cloud):
    """OSSA-2014-028 (CVE-2014-5356): the cap was not kept for bodies of unknown length."""
    cloud = await open_cloud(limits={"image_size_bytes": 100_000})
    image = await cloud.admin.create_bare()
    for headers in ({}, {"x_openstack_image_size": "10"}, {"x_openstack_image_size": "0"}):
        body = Slowly()
        body.go_on.set()
        answer = await cloud.admin.upload(image["id"], body, **headers)
        assert answer.status in (400, 413), headers
        assert (await cloud.admin.show(image["id"]))["status"] == "queued"
        await cloud.sweep()
        assert cloud.stored() == []
    assert (await cloud.admin.upload(image["id"], b"x" * 100_000)).status == 204


# ---- bytes that read other files ----


def qcow2(*, backing: bytes = b"", data_file: bool = False) -> bytes:
    """The beginning of a disk of 1 GiB that wants another file, in QEMU's format of version 3."""
    features = (0b100 if data_file else 0).to_bytes(8, "big")
    place = (512).to_bytes(8, "big") if backing else bytes(8)
    head = b"QFI\xfb" + (3).to_bytes(4, "big") + place + len(backing).to_bytes(4, "big")
    head += (16).to_bytes(4, "big") + (1 << 30).to_bytes(8, "big")
    head = head.ljust(72, b"\0") + features
    head = head.ljust(100, b"\0") + (104).to_bytes(4, "big")
    return head.ljust(512, b"\0") + backing.ljust(65536, b"\0")


@pytest.mark.parametrize("claimed", ["qcow2", "raw"])
@pytest.mark.parametrize("options", [{"backing": b"/etc/passwd"}, {"data_file": True}])
async def test_a_disk_that_reads_other_files_is_not_stored(cloud, claimed, options):
    """OSSA-2015-014 (CVE-2015-5163) and OSSA-2024-001 (CVE-2024-32498)."""
    for _ in range(2):
        image = await cloud.admin.create(disk_format=claimed, container_format="bare")
        answer = await cloud.admin.upload(image["id"], qcow2(**options))
        assert answer.status == 415, answer.text
        assert (await cloud.admin.show(image["id"]))["status"] == "queued"
    assert cloud.stored() == []
    good = await cloud.admin.create(disk_format="qcow2", container_format="bare")
    assert (await cloud.admin.upload(good["id"], qcow2())).status == 204
