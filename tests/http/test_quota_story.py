"""Projects have what they may have, to the byte, whoever asks and however it comes."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from calotype.commands.errors import LimitExceeded
from calotype.commands.images.image import Image
from calotype.commands.policy.actor import Cause
from calotype.projections.rebuild.usage import counters_and_totals

KB = 1024


@pytest.fixture
async def start(open_cloud: Any) -> Any:
    """Starts an application where everybody is in a project, with limits."""

    async def start(**tables: Any) -> Any:
        tables.setdefault("limits", {"user_storage": "10KB"})
        return await open_cloud(identity={"kind": "headers"}, **tables)

    return start


async def counted(cloud: Any, project: str = "red") -> Any:
    """What the project has, after a look that the counters are what the log says."""
    recorder = cloud.context.log.recorder
    there, expected = await asyncio.to_thread(counters_and_totals, recorder)
    assert sorted(there) == sorted(expected)
    return await cloud.context.quotas.counted(project)


class Body:
    """A body of unknown length that comes when it is told to, but for its first byte.

    The client holds back its headers until there is one.
    """

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.pieces.put_nowait(b"x")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.pieces.get():
            yield piece


async def _begun(cloud: Any, uploads: int, project: str = "red") -> None:
    """Waits until so many uploads of the project are on record."""
    async with asyncio.timeout(20):
        while (await cloud.context.quotas.counted(project)).uploading != uploads:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_data_fits_to_the_last_byte_and_not_one_more(start):
    cloud = await start()
    red, blue = cloud.caller("red"), cloud.caller("blue")
    await red.create_active(b"x" * 6 * KB)
    second = await red.create_bare()
    refused = await red.upload(second["id"], b"x" * (4 * KB + 1))
    assert refused.status == 413
    assert "may have 10240 bytes of image data. It has 6144" in refused.text
    assert "takes 4097 more" in refused.text
    assert (await red.show(second["id"]))["status"] == "queued"
    assert (await red.upload(second["id"], b"x" * 4 * KB)).status == 204
    assert (await counted(cloud)).bytes == 10 * KB
    assert (await blue.create_active(b"x" * 10 * KB))["size"] == 10 * KB  # Each has its own.
    empty = await red.create_bare()
    assert (await red.upload(empty["id"], b"")).status == 204  # Nothing fits always.
    assert len(cloud.stored()) == 4


async def test_an_announced_size_is_taken_at_once_and_given_back_with_a_failure(start):
    cloud = await start()
    red, body = cloud.caller("red"), Body()
    slow, fast = await red.create_bare(), await red.create_bare()
    sending = asyncio.create_task(red.upload(slow["id"], body, x_openstack_image_size=str(8 * KB)))
    await _begun(cloud, 1)
    assert (await counted(cloud))[1:] == (2, 1, 8 * KB, 8 * KB, 0)
    assert (await red.upload(fast["id"], b"x" * 3 * KB)).status == 413
    assert (await red.upload(fast["id"], b"x" * 2 * KB)).status == 204
    await body.pieces.put(b"x" * 10)
    await body.pieces.put(None)  # Fewer than it said.
    assert (await sending).status == 400
    assert (await counted(cloud))[1:] == (2, 0, 2 * KB, 0, 0)
    assert (await red.upload(slow["id"], b"x" * 8 * KB)).status == 204


async def test_of_a_size_that_nobody_said_what_came_decides_in_the_end(start):
    cloud = await start()
    red, body = cloud.caller("red"), Body()
    slow, fast = await red.create_bare(), await red.create_bare()
    sending = asyncio.create_task(red.upload(slow["id"], body))
    await _begun(cloud, 1)
    await body.pieces.put(b"x" * 6 * KB)
    assert (await red.upload(fast["id"], b"x" * 5 * KB)).status == 204
    await body.pieces.put(None)
    refused = await sending
    assert refused.status == 413
    assert (await red.show(slow["id"]))["status"] == "queued"
    assert len(cloud.stored()) == 1
    assert (await counted(cloud))[1:] == (2, 0, 5 * KB, 0, 0)


async def test_who_sends_without_end_is_stopped_and_who_gets_room_meanwhile_is_not(start):
    cloud = await start()
    red = cloud.caller("red")
    old = await red.create_active(b"x" * 6 * KB)
    image, endless = await red.create_bare(), Body()
    sending = asyncio.create_task(red.upload(image["id"], endless))
    await endless.pieces.put(b"x" * 3 * KB)
    await _begun(cloud, 1)
    assert (await red("DELETE", f"/v2/images/{old['id']}")).status == 204
    await endless.pieces.put(b"x" * 6 * KB)  # More than there was room for at first.
    await endless.pieces.put(None)
    assert (await sending).status == 204
    assert (await counted(cloud)).bytes == 9 * KB + 1
    more, endless = await red.create_bare(), Body()
    sending = asyncio.create_task(red.upload(more["id"], endless))
    while not sending.done():
        endless.pieces.put_nowait(b"x" * 512)
        await asyncio.sleep(0)
    assert (await sending).status == 413
    assert (await red.show(more["id"]))["status"] == "queued"


async def test_what_is_deleted_during_its_upload_gives_its_room_back_once(start):
    cloud = await start()
    red, body = cloud.caller("red"), Body()
    image = await red.create_bare()
    sending = asyncio.create_task(
        red.upload(image["id"], body, x_openstack_image_size=str(10 * KB))
    )
    await _begun(cloud, 1)
    await body.pieces.put(b"x" * KB)
    assert (await red("DELETE", f"/v2/images/{image['id']}")).status == 204
    assert (await counted(cloud))[1:] == (0, 0, 0, 0, 0)
    await red.create_active(b"x" * 7 * KB)
    await body.pieces.put(b"x" * (9 * KB - 1))
    await body.pieces.put(None)
    assert (await sending).status == 410
    assert (await counted(cloud))[1:] == (1, 0, 7 * KB, 0, 0)
    await cloud.sweep()
    assert (await counted(cloud))[1:] == (1, 0, 7 * KB, 0, 0)


async def test_images_and_uploads_of_a_project_are_counted_too(start):
    cloud = await start(limits={"project_images": 2, "project_uploads": 1})
    red, body = cloud.caller("red"), Body()
    image, other = await red.create_bare(), await red.create_bare()
    refused = await red("POST", "/v2/images", json={"name": "third"})
    assert refused.status == 413
    assert "may have 2 images, and has 2" in refused.text
    sending = asyncio.create_task(red.upload(image["id"], body))
    await _begun(cloud, 1)
    refused = await red.upload(other["id"], b"x")
    assert refused.status == 413
    assert "uploads 1." in refused.text
    await body.pieces.put(None)
    assert (await sending).status == 204
    assert (await red.upload(other["id"], b"x")).status == 204
    assert (await red("DELETE", f"/v2/images/{other['id']}")).status == 204
    await red.create(name="third")
    # A limit that is reached forbids no change that takes nothing.
    change = {"op": "replace", "path": "/name", "value": "n"}
    assert (await red.patch(image["id"], change)).status == 200


async def test_two_hundred_creates_at_once_make_as_many_images_as_fit(start):
    cloud = await start(limits={"project_images": 37})
    red = cloud.caller("red")
    answers = await asyncio.gather(
        *(red("POST", "/v2/images", json={"name": str(n)}) for n in range(200))
    )
    assert sorted(answer.status for answer in answers) == [201] * 37 + [413] * 163
    assert (await counted(cloud)).images == 37


async def test_what_comes_back_counts_again_and_must_fit(start):
    cloud = await start(deletion={"retention_seconds": 3600})
    red = cloud.caller("red")
    gone = await red.create_active(b"x" * 6 * KB)
    await red("DELETE", f"/v2/images/{gone['id']}")
    assert (await counted(cloud))[1:] == (0, 0, 0, 0, 0)  # What can come back takes nothing.
    new = await red.create_active(b"x" * 5 * KB)
    path = f"/log/v1/images/{gone['id']}/restore"
    refused = await red("POST", path)
    assert (refused.status, refused.json["status"]) == (413, 413)
    await red("DELETE", f"/v2/images/{new['id']}")
    assert (await red("POST", path)).status == 200
    assert (await counted(cloud))[1:] == (1, 0, 6 * KB, 0, 0)


async def test_an_image_that_changes_hands_must_fit_with_its_new_owner(start):
    cloud = await start()
    admin = cloud.caller("admin", "admin")
    image = await cloud.caller("red").create_active(b"x" * 6 * KB)
    await cloud.caller("blue").create_active(b"x" * 5 * KB)
    give = {"op": "replace", "path": "/owner", "value": "blue"}
    assert (await admin.patch(image["id"], give)).status == 413
    assert (await admin.show(image["id"]))["owner"] == "red"
    give["value"] = "green"
    assert (await admin.patch(image["id"], give)).status == 200
    assert (await counted(cloud, "red"))[1:] == (0, 0, 0, 0, 0)
    assert (await counted(cloud, "green"))[1:] == (1, 0, 6 * KB, 0, 0)


async def test_an_administrator_uploads_at_the_cost_of_the_owner(start):
    cloud = await start()
    image = await cloud.caller("red").create_bare()
    admin = cloud.caller("admin", "admin")
    assert (await admin.upload(image["id"], b"x" * (10 * KB + 1))).status == 413
    assert (await admin.upload(image["id"], b"x" * 10 * KB)).status == 204
    assert (await counted(cloud, "red")).bytes == 10 * KB
    assert (await counted(cloud, "admin"))[1:] == (0, 0, 0, 0, 0)


async def test_every_place_of_the_data_counts(start):
    cloud = await start()
    image = await cloud.caller("red").create_bare()
    nothing = {"checksum": None, "os_hash_algo": None, "os_hash_value": None}

    async def set_places(count: int) -> Any:
        urls = [f"s3+https://s/b/{number}" for number in range(count)]
        return await cloud.context.log.change(
            UUID(image["id"]),
            lambda image: None,
            Image.change_locations,
            Cause({"user": "u", "project": "red", "roles": []}, "req-1", None, "c"),
            locations=[{"url": url, "metadata": {}} for url in urls],
            stores=dict.fromkeys(urls, "default"),
            size=4 * KB,
            **nothing,
        )

    await set_places(1)
    await set_places(2)
    assert (await counted(cloud))[1:] == (1, 0, 8 * KB, 0, 0)
    with pytest.raises(LimitExceeded):
        await set_places(3)
    await set_places(1)
    assert (await counted(cloud))[1:] == (1, 0, 4 * KB, 0, 0)


async def test_counters_are_kept_before_there_is_any_limit(start):
    """So switching limits on is exact at once."""
    cloud = await start(limits={})
    await cloud.caller("red").create_active(b"x" * 6 * KB)
    assert (await counted(cloud))[1:] == (1, 0, 6 * KB, 0, 0)
    limited = await start()
    image = await limited.caller("red").create_bare()
    assert (await limited.caller("red").upload(image["id"], b"x" * 5 * KB)).status == 413


async def test_without_unified_limits_the_usage_call_tells_nothing(start):
    cloud = await start()
    red = cloud.caller("red")
    await red.create_active(os.urandom(100))
    answer = await red("GET", "/v2/info/usage")
    assert (answer.status, answer.json) == (200, {"usage": {}})
    assert (await red("POST", "/v2/info/usage")).status == 404
    assert (await red("DELETE", "/v2/info/usage")).status == 404
    assert (await red("OPTIONS", "/v2/info/usage")).status == 200


async def test_sizes_that_nobody_could_count_are_refused(start):
    cloud = await start(limits={"image_size_bytes": -1})
    red = cloud.caller("red")
    image = await red.create_bare()
    for size in (2**50 + 1, 2**63, 10**19 - 1):
        answer = await red.upload(image["id"], b"x", x_openstack_image_size=str(size))
        assert answer.status == 413
    assert (await counted(cloud))[1:] == (1, 0, 0, 0, 0)


async def test_a_refusal_is_told_to_the_operator_with_rule_and_actor(start, capfd):
    cloud = await start(limits={"project_images": 0})
    assert (await cloud.caller("red")("POST", "/v2/images", json={})).status == 413
    assert "quota:images" in "".join(capfd.readouterr())
