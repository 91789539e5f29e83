"""Bytes go in once and come out again, whole or in part."""

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator

import aiohttp
import pytest

TEN = b"0123456789"


async def chunks(*context: bytes) -> AsyncIterator[bytes]:
    """A body of unknown length: aiohttp sends it chunked."""
    for part in context:
        yield part


async def test_what_goes_in_comes_out_and_its_size_and_hashes_are_told(admin):
    data = os.urandom(300_001)
    image = await admin.create_bare()
    answer = await admin.upload(image["id"], data)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Content-Type"] == "text/html; charset=UTF-8"
    shown = await admin.show(image["id"])
    assert (shown["status"], shown["size"]) == ("active", len(data))
    assert shown["checksum"] == hashlib.md5(data).hexdigest()
    assert shown["os_hash_algo"] == "sha512"
    assert shown["os_hash_value"] == hashlib.sha512(data).hexdigest()
    down = await admin("GET", f"/v2/images/{image['id']}/file")
    assert (down.status, down.body) == (200, data)
    assert down.headers["Content-Type"] == "application/octet-stream"
    assert down.headers["Content-Length"] == str(len(data))
    assert down.headers["Content-MD5"] == shown["checksum"]
    assert down.headers["x-openstack-request-id"].startswith("req-")


async def test_a_body_of_unknown_length_is_taken(admin):
    image = await admin.create_bare()
    answer = await admin.upload(image["id"], chunks(b"abc", b"d" * 200_000, b"e"))
    assert answer.status == 204
    assert (await admin.show(image["id"]))["size"] == 200_004


async def test_no_bytes_at_all_make_an_active_image_of_size_zero(admin):
    for body in (b"", chunks()):
        image = await admin.create_bare()
        assert (await admin.upload(image["id"], body)).status == 204
        shown = await admin.show(image["id"])
        assert (shown["status"], shown["size"]) == ("active", 0)
        assert shown["checksum"] == hashlib.md5(b"").hexdigest()
        down = await admin("GET", f"/v2/images/{image['id']}/file")
        assert (down.status, down.body, down.headers["Content-Length"]) == (200, b"", "0")


@pytest.mark.parametrize("disk_format", ["qcow2", "iso", "vmdk", "vdi", "vhd", "vhdx"])
async def test_no_bytes_at_all_are_no_disk_of_a_format_that_has_a_header(cloud, disk_format):
    for body in (b"", chunks()):
        image = await cloud.admin.create(disk_format=disk_format, container_format="bare")
        assert (await cloud.admin.upload(image["id"], body)).status == 415
        shown = await cloud.admin.show(image["id"])
        assert (shown["status"], shown["size"], shown["checksum"]) == ("queued", None, None)
    assert cloud.stored() == []


async def test_a_second_upload_is_a_conflict_and_changes_nothing(admin):
    image = await admin.create_active(TEN)
    assert (await admin.upload(image["id"], b"other")).status == 409
    assert await admin.show(image["id"]) == image
    assert (await admin("GET", f"/v2/images/{image['id']}/file")).body == TEN


async def test_of_many_uploading_at_once_one_wins_and_the_bytes_are_the_winners(cloud):
    admin = cloud.admin
    image = await admin.create_bare()
    bodies = [bytes([65 + n]) * 50_000 for n in range(6)]
    answers = await asyncio.gather(*(admin.upload(image["id"], body) for body in bodies))
    statuses = [answer.status for answer in answers]
    assert sorted(statuses) == [204] + [409] * 5
    down = await admin("GET", f"/v2/images/{image['id']}/file")
    assert down.body == bodies[statuses.index(204)]
    await cloud.sweep()
    assert len(cloud.stored()) == 1


@pytest.mark.parametrize(
    "content_type", ["", "nonsense", "text/plain", "application/json", "application/octet-streams"]
)
async def test_data_of_another_content_type_is_refused_with_415(admin, content_type):
    image = await admin.create_bare()
    answer = await admin.upload(image["id"], TEN, Content_Type=content_type)
    assert answer.status == 415
    assert (await admin.show(image["id"]))["status"] == "queued"


async def test_parameters_of_the_content_type_do_not_matter(admin):
    image = await admin.create_bare()
    content_type = "application/octet-stream; charset=binary"
    assert (await admin.upload(image["id"], TEN, Content_Type=content_type)).status == 204


@pytest.mark.parametrize("announced", ["9", "11", "1000000000000"])
async def test_a_size_that_is_not_the_announced_one_is_refused_and_a_retry_works(cloud, announced):
    admin = cloud.admin
    image = await admin.create_bare()
    answer = await admin.upload(image["id"], TEN, x_openstack_image_size=announced)
    assert answer.status == 400
    shown = await admin.show(image["id"])
    assert (shown["status"], shown["size"], shown["checksum"]) == ("queued", None, None)
    await cloud.sweep()
    assert cloud.stored() == []
    assert (await admin.upload(image["id"], TEN)).status == 204
    assert (await admin("GET", f"/v2/images/{image['id']}/file")).body == TEN


@pytest.mark.parametrize("announced", ["ten", "-1", "1.0", "", "0x0a", "1_0", "9" * 5000])
async def test_an_announced_size_that_is_no_number_is_refused(admin, announced):
    image = await admin.create_bare()
    answer = await admin.upload(image["id"], TEN, x_openstack_image_size=announced)
    assert answer.status == 400
    assert (await admin.show(image["id"]))["status"] == "queued"


async def test_an_announced_size_of_zero_is_unknown_and_the_right_one_is_taken(admin):
    for announced in ("0", "10"):
        image = await admin.create_bare()
        answer = await admin.upload(image["id"], TEN, x_openstack_image_size=announced)
        assert answer.status == 204


async def test_content_md5_is_checked_in_both_spellings(cloud):
    admin = cloud.admin
    right = hashlib.md5(TEN)
    wrong = hashlib.md5(b"other")
    for digest, status in [(right, 204), (wrong, 400)]:
        for spelling in (
            digest.hexdigest(),
            digest.hexdigest().upper(),
            base64.b64encode(digest.digest()).decode(),
        ):
            image = await admin.create_bare()
            answer = await admin.upload(image["id"], TEN, Content_MD5=spelling)
            assert answer.status == status, spelling
    await cloud.sweep()
    assert len(cloud.stored()) == 3
    image = await admin.create_bare()
    assert (await admin.upload(image["id"], TEN, Content_MD5="nonsense")).status == 400


async def test_an_image_without_formats_takes_no_data(admin):
    image = await admin.create()
    assert (await admin.upload(image["id"], TEN)).status == 400
    assert (await admin.show(image["id"]))["status"] == "queued"
    await admin.patch(
        image["id"],
        {"op": "replace", "path": "/disk_format", "value": "raw"},
        {"op": "replace", "path": "/container_format", "value": "bare"},
    )
    assert (await admin.upload(image["id"], TEN)).status == 204


async def test_more_bytes_than_the_cap_are_refused_however_they_are_announced(open_cloud):
    cloud = await open_cloud(limits={"image_size_bytes": 10})
    admin = cloud.admin
    for body in (b"x" * 11, chunks(b"x" * 6, b"y" * 5)):
        image = await admin.create_bare()
        assert (await admin.upload(image["id"], body)).status == 413
        assert (await admin.show(image["id"]))["status"] == "queued"
    assert (await admin.upload(image["id"], TEN)).status == 204
    await cloud.sweep()
    assert len(cloud.stored()) == 1


async def test_an_image_without_data_answers_204(admin):
    image = await admin.create_bare()
    answer = await admin("GET", f"/v2/images/{image['id']}/file")
    assert (answer.status, answer.body) == (204, b"")


async def test_bytes_that_are_missing_in_the_store_answer_204_and_a_delete_works(cloud):
    admin = cloud.admin
    image = await admin.create_active(TEN)
    for path in cloud.stored():
        path.unlink()
    assert (await admin("GET", f"/v2/images/{image['id']}/file")).status == 204
    assert (await admin("DELETE", f"/v2/images/{image['id']}")).status == 204
    await cloud.sweep()
    assert (await cloud.sweep()).blobs_removed == 0


@pytest.mark.parametrize(
    ("headers", "content_range", "body"),
    [
        ({"Range": "bytes=0-4"}, "bytes 0-4/10", b"01234"),
        ({"Range": "bytes=5-"}, "bytes 5-9/10", b"56789"),
        ({"Range": "bytes=9-9"}, "bytes 9-9/10", b"9"),
        ({"Range": "bytes=5-100"}, "bytes 5-9/10", b"56789"),
        ({"Range": "bytes=0-"}, "bytes 0-9/10", TEN),
        ({"Range": "bytes=-3"}, "bytes 7-9/10", b"789"),
        ({"Range": "bytes=-20"}, "bytes 0-9/10", TEN),
        ({"Content-Range": "bytes 0-4/10"}, "bytes 0-4/10", b"01234"),
        ({"Content-Range": "bytes 3-9/*"}, "bytes 3-9/10", b"3456789"),
    ],
)
async def test_one_range_is_answered_with_206(admin, headers, content_range, body):
    image = await admin.create_active(TEN)
    answer = await admin("GET", f"/v2/images/{image['id']}/file", **headers)
    assert (answer.status, answer.body) == (206, body)
    assert answer.headers["Content-Range"] == content_range
    assert answer.headers["Content-Length"] == str(len(body))
    assert answer.headers["Content-MD5"] == image["checksum"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Range": "bytes=0-1,3-4"}, 400),
        ({"Range": "bytes=10-"}, 416),
        ({"Range": "bytes=10-12"}, 416),
        ({"Range": "bytes=4-2"}, 416),
        ({"Range": "bytes=-0"}, 416),
        ({"Range": "bytes=-"}, 416),
        ({"Range": "bytes"}, 416),
        ({"Range": "bytes=a-b"}, 416),
        ({"Range": "bytes=--1"}, 416),
        ({"Range": "bytes=0-" + "9" * 5000}, 416),
        ({"Range": "bytes=\u0663-\u0664"}, 416),
        ({"Range": "items=0-4"}, 416),
        ({"Content-Range": "bytes 0-10/10"}, 416),
        ({"Content-Range": "bytes 0-4/3"}, 416),
        ({"Content-Range": "bytes 4-2/10"}, 416),
        ({"Content-Range": "bytes 4"}, 416),
    ],
)
async def test_a_range_that_cannot_be_had_is_refused(admin, headers, status):
    image = await admin.create_active(TEN)
    answer = await admin("GET", f"/v2/images/{image['id']}/file", **headers)
    assert answer.status == status
    again = await admin("GET", f"/v2/images/{image['id']}/file")
    assert again.body == TEN


async def test_no_range_of_an_empty_image_can_be_had(admin):
    image = await admin.create_active(b"")
    for value in ("bytes=0-", "bytes=-1", "bytes=0-0"):
        answer = await admin("GET", f"/v2/images/{image['id']}/file", Range=value)
        assert answer.status == 416


async def test_a_preferred_store_cannot_be_named_where_there_is_one_only(admin):
    image = await admin.create_active(TEN)
    answer = await admin("GET", f"/v2/images/{image['id']}/file?prefer=fast")
    assert answer.status == 400


async def test_who_may_download(projects):
    owner, other = projects.caller("mine"), projects.caller("yours")
    image = await owner.create_active(TEN)
    path = f"/v2/images/{image['id']}/file"
    assert (await other("GET", path)).status == 404
    await projects.caller("ops", "admin").share(image["id"], "yours")
    assert (await other("GET", path)).body == TEN
    assert (await projects.caller("mine", "reader")("GET", path)).status == 403


async def test_a_deactivated_image_is_downloaded_by_administrators_only(projects):
    owner, admin = projects.caller("mine"), projects.caller("ops", "admin")
    image = await owner.create_active(TEN)
    path = f"/v2/images/{image['id']}"
    assert (await owner("POST", f"{path}/actions/deactivate")).status == 204
    assert (await owner("GET", f"{path}/file")).status == 403
    assert (await owner("GET", f"{path}/file", Range="bytes=0-1")).status == 403
    assert (await admin("GET", f"{path}/file")).body == TEN
    assert (await owner("POST", f"{path}/actions/reactivate")).status == 204
    assert (await owner("GET", f"{path}/file")).body == TEN


async def test_a_deleted_image_leaves_no_bytes_even_when_it_was_deactivated(projects):
    owner = projects.caller("mine")
    for deactivated in (False, True):
        image = await owner.create_active(TEN)
        path = f"/v2/images/{image['id']}"
        if deactivated:
            await owner("POST", f"{path}/actions/deactivate")
        assert (await owner("DELETE", path)).status == 204
    assert len(projects.stored()) == 2
    assert (await projects.sweep()).blobs_removed == 2
    assert projects.stored() == []


async def test_deleting_during_an_upload_answers_410_and_leaves_nothing(cloud):
    admin = cloud.admin
    image = await admin.create_bare()
    started, deleted = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        started.set()
        await deleted.wait()
        yield b"y" * 100_000

    upload = asyncio.create_task(admin.upload(image["id"], slowly()))
    await started.wait()
    await until(admin, image["id"], "saving")
    assert (await admin("DELETE", f"/v2/images/{image['id']}")).status == 204
    deleted.set()
    assert (await upload).status == 410
    await cloud.sweep()
    assert cloud.stored() == []
    assert (await admin("GET", f"/v2/images/{image['id']}")).status == 404


async def test_a_client_that_vanishes_leaves_a_queued_image_and_nothing_in_the_store(cloud):
    admin = cloud.admin
    image = await admin.create_bare()

    async def breaking() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        await until(admin, image["id"], "saving")
        raise ConnectionResetError("the client loses its network")

    with pytest.raises((aiohttp.ClientError, ConnectionResetError)):
        await admin.upload(image["id"], breaking())
    await until(admin, image["id"], "queued")
    await cloud.sweep()
    assert cloud.stored() == []
    assert (await admin.upload(image["id"], TEN)).status == 204


async def test_the_hash_that_the_operator_chose_is_told(open_cloud):
    admin = (await open_cloud(hashing_algorithm="sha256")).admin
    image = await admin.create_active(TEN)
    assert image["os_hash_algo"] == "sha256"
    assert image["os_hash_value"] == hashlib.sha256(TEN).hexdigest()


async def test_the_place_of_the_bytes_is_shown_only_where_the_operator_says_so(open_cloud):
    shown = (await open_cloud(http={"show_image_direct_url": True})).admin
    queued = await shown.create_bare()
    assert "direct_url" not in queued
    image = await shown.create_active(TEN)
    assert image["direct_url"]
    assert (await shown("GET", "/v2/images?status=active")).json["images"] == [image]
    hidden = (await open_cloud()).admin
    assert "direct_url" not in await hidden.show(image["id"])
    assert "locations" not in await hidden.show(image["id"])


async def test_locations_are_shown_and_a_deactivated_images_only_to_administrators(open_cloud):
    cloud = await open_cloud(identity={"kind": "headers"}, http={"show_multiple_locations": True})
    owner, admin = cloud.caller("mine"), cloud.caller("ops", "admin")
    assert (await owner.create())["locations"] == []
    image = await owner.create_active(TEN)
    assert image["locations"][0]["metadata"] == {"store": "default"}
    await owner("POST", f"/v2/images/{image['id']}/actions/deactivate")
    assert (await owner.show(image["id"]))["locations"] == []
    assert (await admin.show(image["id"]))["locations"] == image["locations"]


async def test_locations_are_not_changed_where_they_are_hidden(admin):
    image = await admin.create_active(TEN)
    location = {"url": "file:///etc/passwd", "metadata": {}}
    for operation in (
        {"op": "add", "path": "/locations/-", "value": location},
        {"op": "replace", "path": "/locations", "value": [location]},
        {"op": "remove", "path": "/locations/0"},
    ):
        assert (await admin.patch(image["id"], operation)).status == 403
    assert await admin.show(image["id"]) == image


async def until(caller, image_id, status):
    """Asks until the image has this status."""
    async with asyncio.timeout(10):
        while True:
            if (await caller.show(image_id))["status"] == status:
                return
            await asyncio.sleep(0.005)


async def test_content_of_another_format_is_415_and_the_image_takes_the_right_one(cloud):
    image = await cloud.admin.create(disk_format="qcow2", container_format="bare")
    path = f"/v2/images/{image['id']}"
    octets = "application/octet-stream"
    refused = await cloud.admin("PUT", f"{path}/file", data=b"x" * 5000, Content_Type=octets)
    assert refused.status == 415
    shown = (await cloud.admin("GET", path)).json
    assert (shown["status"], shown["size"], shown["checksum"]) == ("queued", None, None)
    assert cloud.stored() == []
    header = b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(16) + (1 << 30).to_bytes(8, "big")
    disk = header + bytes(100 - len(header)) + (104).to_bytes(4, "big") + bytes(65536)
    taken = await cloud.admin("PUT", f"{path}/file", data=disk, Content_Type=octets)
    assert taken.status == 204, taken.text
    assert (await cloud.admin("GET", path)).json["virtual_size"] == 1 << 30
