"""The feed as Server-Sent Events: frames, coming back, keep-alives, snapshots, and the end."""

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from calotype.commands.policy.policy import Policy
from calotype.ops.wiring.composition import audience_follower, versions_follower

EVENTS = "/log/v1/events"
STREAM = {"Accept": "text/event-stream"}


@asynccontextmanager
async def followers(cloud: Any) -> AsyncIterator[Any]:
    tasks = [
        asyncio.create_task(versions_follower(cloud.context).run()),
        asyncio.create_task(audience_follower(cloud.context, cloud.api.feed.watcher).run()),
    ]
    yield cloud
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def told(projects: Any) -> AsyncIterator[Any]:
    """A cloud of several projects."""
    async with followers(projects):
        yield projects


async def settled(cloud: Any) -> None:
    """Waits until the feeds of projects have everything."""
    head = cloud.context.log.recorder.max_notification_id() or 0
    for _ in range(500):
        if (await cloud.api.feed._ends())[1] >= head:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the audience was not decided in time")


class Stream:
    """An open stream of events, read frame by frame as the HTML standard says."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.last_id = ""
        self._buffer = b""

    async def frame(self, seconds: float = 10.0) -> dict[str, str]:
        """The next frame with data; its fields by name."""
        async with asyncio.timeout(seconds):
            while True:
                while b"\n\n" not in self._buffer:
                    chunk = await self.response.content.readany()
                    assert chunk, "the stream ended"
                    self._buffer += chunk
                text, _, self._buffer = self._buffer.partition(b"\n\n")
                fields = {}
                for line in text.decode().split("\n"):
                    name, colon, value = line.partition(":")
                    assert colon, line
                    fields[name] = value.removeprefix(" ")
                self.last_id = fields.get("id", self.last_id)
                if "data" in fields:
                    return fields

    async def event(self) -> dict[str, Any]:
        frame = await self.frame()
        event: dict[str, Any] = json.loads(frame["data"])
        return event


@asynccontextmanager
async def streamed(caller: Any, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    sent = {**caller.headers, **STREAM, **{k.replace("_", "-"): v for k, v in headers.items()}}
    async with caller.client.get(EVENTS + query, headers=sent) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        yield Stream(response)


async def test_a_stream_frames_each_event_and_goes_on_where_it_was_left(told: Any) -> None:
    owner = told.caller("p1")
    first = await owner.create(name="line\nbreak")
    async with streamed(owner) as stream:
        event = await stream.event()
        assert event["subject"] == first["id"]
        assert event["data"]["fields"]["name"] == "line\nbreak"
        assert stream.last_id == event["id"]
        second = await owner.create()
        assert (await stream.event())["subject"] == second["id"]
        left_at = stream.last_id
    third = await owner.create()
    async with streamed(owner, Last_Event_ID=left_at) as stream:
        assert (await stream.event())["subject"] == third["id"]
    async with streamed(owner, f"?after={left_at}&types=image.created") as stream:
        assert (await stream.event())["subject"] == third["id"]


async def test_an_idle_stream_says_that_it_lives_and_moves_its_last_event_id(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calotype.http.log.event_stream.KEEP_ALIVE_SECONDS", 0.2)
    owner = told.caller("p1")
    async with streamed(owner) as stream:
        await told.caller("p2").create()
        await settled(told)
        text = b""
        async with asyncio.timeout(10):
            while b": still here\n\n" not in text or b"id: p" not in text:
                text += await stream.response.content.readany()
    assert b"data:" not in text
    position = text.partition(b"id: ")[2].partition(b"\n")[0].decode()
    assert (await owner("GET", f"{EVENTS}?after={position}")).json == []


async def test_a_stream_can_begin_with_a_snapshot(told: Any) -> None:
    owner = told.caller("p1")
    ids = {(await owner.create())["id"] for _ in range(3)}
    await settled(told)
    head = told.context.log.recorder.max_notification_id()
    while (await told.api.feed.snapshot("p1", None, uuid.UUID(int=0), 1)).position < head:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    async with streamed(owner, "?snapshot=true") as stream:
        frames = [await stream.frame() for _ in range(4)]
        assert {json.loads(frame["data"])["subject"] for frame in frames[:3]} == ids
        assert all("id" not in frame for frame in frames[:3])
        assert frames[3]["event"] == "snapshot-end"
        assert stream.last_id == json.loads(frames[3]["data"])["position"]
        late = await owner.create()
        assert (await stream.event())["subject"] == late["id"]
    async with streamed(owner, "?snapshot=true", Last_Event_ID=frames[3]["id"]) as stream:
        assert (await stream.event())["subject"] == late["id"]


async def test_streams_end_when_the_service_is_told_to_stop(told: Any) -> None:
    owner = told.caller("p1")
    async with streamed(owner) as stream:
        await owner.create()
        await stream.event()
        told.api.feed.watcher.end()
        async with asyncio.timeout(5):
            while await stream.response.content.readany():
                pass
    for _ in range(100):
        if told.api.running == 0:
            break
        await asyncio.sleep(0.02)
    assert told.api.running == 0


async def _ended(stream: Stream) -> None:
    async with asyncio.timeout(10):
        while await stream.response.content.readany():
            pass


async def test_a_stream_ends_when_its_consumer_may_read_no_more(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calotype.http.log.event_stream.JUDGED_AGAIN_SECONDS", 0.1)
    owner, auditor = told.caller("p1"), told.caller("p9", "auditor")
    made = await owner.create()
    async with streamed(owner) as stream, streamed(auditor) as everything:
        assert (await stream.event())["subject"] == made["id"]
        assert (await everything.event())["subject"] == made["id"]
        # Auditors read what is their project's, from now on, and that is another stream.
        told.api.use_policy(Policy({"get_all_events": "!", "get_events": "@"}))
        await _ended(everything)
        assert (await owner.create())["id"] == (await stream.event())["subject"]
        told.api.use_policy(Policy({"get_events": "!"}))
        await _ended(stream)
    assert (await owner("GET", EVENTS)).status == 403


async def test_a_consumer_that_takes_nothing_is_let_go_and_costs_little(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calotype.http.log.event_stream.LONGEST_WRITE_SECONDS", 0.5)
    owner = told.caller("p1")
    long = {f"property{n}": "x" * 255 for n in range(120)}
    for _ in range(300):
        await owner.create(**long)
    await settled(told)
    pages = 0
    read = told.api.feed.page

    async def counted(question: Any) -> Any:
        nonlocal pages
        pages += 1
        return await read(question)

    monkeypatch.setattr(told.api.feed, "page", counted)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(deaf, (told.client.host, told.client.port))
        lines = [f"GET {EVENTS} HTTP/1.1", "Host: x", "Accept: text/event-stream"]
        lines += [f"{name}: {value}" for name, value in owner.headers.items()]
        await loop.sock_sendall(deaf, ("\r\n".join(lines) + "\r\n\r\n").encode())
        async with asyncio.timeout(10):
            while pages == 0 or told.api.running:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    # Of some ten megabytes it was read only what the kernel took for it, and a page.
    assert pages < 6
