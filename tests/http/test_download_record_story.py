"""Downloads are events where the operator asks for it: how much went out, and to whom."""

import asyncio
from typing import Any

import orjson

STATES = "SELECT state FROM stored_events WHERE topic = 'image.data_sent' ORDER BY notification_id"


async def _recorded(cloud: Any, count: int) -> list[dict[str, Any]]:
    """The recorded downloads, once there are so many: clients do not wait for them."""
    async with asyncio.timeout(20):
        while len(rows := await cloud.context.log.recorder.fetch(STATES)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return [orjson.loads(bytes(row[0])) for row in rows]


async def test_whole_downloads_and_ranges_are_recorded_with_their_bytes(open_cloud: Any) -> None:
    cloud = await open_cloud(audit={"downloads": True})
    image = await cloud.admin.create_active(b"0123456789")
    path = f"/v2/images/{image['id']}/file"
    assert (await cloud.admin("GET", path)).body == b"0123456789"
    assert (await cloud.admin("GET", path, Range="bytes=2-4")).body == b"234"
    whole, part = await _recorded(cloud, 2)
    assert (whole["bytes_sent"], whole["bytes_asked"]) == (10, 10)
    assert (part["bytes_sent"], part["bytes_asked"]) == (3, 3)
    assert whole["image_id"] == image["id"]
    assert whole["owner"] == image["owner"]
    assert whole["actor"]["user"] == "admin"
    shown = await cloud.admin.show(image["id"])
    assert shown["updated_at"] == image["updated_at"]


async def test_a_download_that_breaks_off_is_recorded_with_what_went_out(open_cloud: Any) -> None:
    cloud = await open_cloud(audit={"downloads": True})
    size = 32 << 20  # More than what sockets hold by themselves.
    image = await cloud.admin.create_active(b"x" * size)
    async with cloud.client.get(f"/v2/images/{image['id']}/file") as answer:
        await answer.content.readexactly(1000)
        answer.close()
    (broken,) = await _recorded(cloud, 1)
    assert broken["bytes_asked"] == size
    assert 1000 <= broken["bytes_sent"] < size


async def test_nothing_is_recorded_unless_asked_for(cloud: Any) -> None:
    image = await cloud.admin.create_active(b"0123456789")
    assert (await cloud.admin("GET", f"/v2/images/{image['id']}/file")).status == 200
    assert await cloud.context.log.recorder.fetch(STATES) == []
    assert cloud.api.downloads is None
