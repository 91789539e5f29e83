"""The load generator: a process that costs as little of the machine as Python can.

Run as a module it reads jobs, one JSON object a line. It opens the job's connections, says
`{"ready": true}`, waits for any line, makes the requests, and says what it saw. HTTP/1.1 is
written and read by hand, over connections that stay open.
"""

import asyncio
import itertools
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson
import uvloop

BLOCK_BYTES = 1 << 18
_HEAD_BYTES = 1 << 17
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb'"id":"([0-9a-f-]{36})"')
_MARK = "@n@"
"""Stands for the request's running number in paths and bodies of a job."""


class Job:
    """What to ask for, until when, and what came of it.

    A job's keys: `port`, `connections`, `method`, `paths` (taken in turn, with `rotate` from the
    running number on), `bodies` (in turn, templates; may be missing), `content_type`, `headers`,
    `upload_bytes` (a body of that size in place of `bodies`), `first` (the first running
    number), `count` (requests at most), `seconds` (no request starts later), `give_up_seconds`
    (all is cut off then), `expect` (the good status), `collect_ids`, and `ramp_seconds`: with it
    the requests are cut off after `seconds`, and bytes count from the end of the ramp on.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        self.expect: int = asked["expect"]
        self.upload_bytes: int = asked.get("upload_bytes", 0)
        self.collect_ids: bool = asked.get("collect_ids", False)
        self.latencies: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.ids: list[str] = []
        self.bytes_moved = 0
        self.connections: list[Connection] = []
        self.busy = 0
        self.stop_at = float("inf")
        self.done: asyncio.Future[None] | None = None
        self._heads = self._make_heads()

    def _make_heads(self) -> Iterator[bytes]:
        """Requests in turn, each with its body unless it is an upload."""
        asked = self.asked
        fixed = " HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        if "content_type" in asked:
            fixed += f"Content-Type: {asked['content_type']}\r\n"
        for name, value in asked.get("headers", {}).items():
            fixed += f"{name}: {value}\r\n"
        first = asked.get("first", 0)
        # Goes on where the last job stopped, so that rounds do not ask for the same again.
        turn = first % len(asked["paths"]) if asked.get("rotate") else 0
        paths = itertools.cycle(asked["paths"][turn:] + asked["paths"][:turn])
        bodies = itertools.cycle([body.split(_MARK) for body in asked.get("bodies", [])] or [None])
        for number in range(first, first + asked["count"]):
            line = f"{asked['method']} {next(paths).replace(_MARK, str(number))}{fixed}"
            template = next(bodies)
            if self.upload_bytes:
                yield f"{line}Content-Length: {self.upload_bytes}\r\n\r\n".encode()
            elif template is None:
                yield f"{line}\r\n".encode()
            else:
                body = str(number).join(template).encode()
                yield f"{line}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def next_request(self) -> bytes | None:
        """The bytes of the next request, or None when there shall be no more."""
        if time.perf_counter() >= self.stop_at:
            return None
        return next(self._heads, None)

    def rested(self) -> None:
        """A connection has nothing more to do."""
        self.busy -= 1
        if self.busy == 0 and self.done is not None and not self.done.done():
            self.done.set_result(None)


class Connection(asyncio.BufferedProtocol):
    """One connection that makes one request after the other."""

    block = memoryview(os.urandom(BLOCK_BYTES))
    """What uploads send again and again; nobody in between can compress it."""
    sink = memoryview(bytearray(BLOCK_BYTES))
    """Where all connections put the bodies that nobody looks at."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._head = bytearray(_HEAD_BYTES)
        self._head_view = memoryview(self._head)
        self._filled = 0
        self._body_left = -1
        self._unsent = 0
        self._paused = False
        self._busy = False
        self._started = 0.0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=BLOCK_BYTES)

    def start(self) -> None:
        """Makes the first request."""
        self._busy = True
        self._next()

    def abort(self) -> None:
        """Cuts the connection off."""
        self._rest()
        self._transport.abort()

    def _next(self) -> None:
        request = self._job.next_request()
        if request is None:
            self._rest()
            return
        self._filled, self._body_left = 0, -1
        self._unsent = self._job.upload_bytes
        self._started = time.perf_counter()
        self._transport.write(request)
        if self._unsent:
            self._send()

    def _rest(self) -> None:
        if self._busy:
            self._busy = False
            self._job.rested()

    def _send(self) -> None:
        while self._unsent and not self._paused:
            size = min(self._unsent, BLOCK_BYTES)
            self._unsent -= size
            self._job.bytes_moved += size
            self._transport.write(self.block[:size])

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.sink if self._body_left > 0 else self._head_view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._body_left > 0:
            self._take_body(nbytes)
            return
        self._filled += nbytes
        end = self._head.find(b"\r\n\r\n", 0, self._filled)
        if end < 0:
            if self._filled == _HEAD_BYTES:
                self._fail("head too long")
            return
        length = _LENGTH.search(self._head, 0, end)
        self._body_left = int(length[1]) if length else 0
        self._take_body(self._filled - end - 4)

    def _take_body(self, nbytes: int) -> None:
        self._body_left -= nbytes
        if not self._job.upload_bytes:
            self._job.bytes_moved += nbytes
        if self._body_left == 0:
            self._answered()
        elif self._body_left < 0:
            self._fail("more bytes than announced")

    def _answered(self) -> None:
        job = self._job
        if not self._busy:
            return
        status = int(self._head[9:12])
        job.statuses[str(status)] += 1
        if status == job.expect:
            job.latencies.append(time.perf_counter() - self._started)
            if job.collect_ids:
                found = _ID.search(self._head, 0, self._filled)
                if found:
                    job.ids.append(found[1].decode())
        if self._unsent:
            self.abort()  # Refused in the middle of an upload: the connection is of no more use.
        else:
            self._next()

    def _fail(self, why: str) -> None:
        self._job.statuses[why] += 1
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            self._job.statuses["connection lost"] += 1
            self._rest()


async def _run(asked: dict[str, Any]) -> dict[str, Any]:
    job = Job(asked)
    loop = asyncio.get_running_loop()
    for _ in range(asked["connections"]):
        _, connection = await loop.create_connection(
            lambda: Connection(job), "127.0.0.1", asked["port"]
        )
        job.connections.append(connection)
    _say({"ready": True})
    # Nothing happens on the connections yet, so the loop may stand still here.
    sys.stdin.buffer.readline()
    try:
        return await _make_requests(job)
    finally:
        for connection in job.connections:
            connection.abort()


async def _make_requests(job: Job) -> dict[str, Any]:
    asked = job.asked
    ramp_seconds = asked.get("ramp_seconds")
    job.done = asyncio.get_running_loop().create_future()
    job.busy = len(job.connections)
    started = time.perf_counter()
    job.stop_at = started + asked["seconds"]
    for connection in job.connections:
        connection.start()
    skipped = 0
    if ramp_seconds is not None:
        await asyncio.wait([job.done], timeout=ramp_seconds)
        skipped, ramped = job.bytes_moved, time.perf_counter()
        await asyncio.wait([job.done], timeout=job.stop_at - ramped)
    else:
        ramped = started
        await asyncio.wait([job.done], timeout=asked["give_up_seconds"])
    seconds = time.perf_counter() - ramped
    if not job.done.done() and ramp_seconds is None:
        job.statuses["given up"] += job.busy
    return {
        "seconds": seconds,
        "latencies": job.latencies,
        "statuses": dict(job.statuses),
        "window_bytes": job.bytes_moved - skipped,
        "bytes": job.bytes_moved,
        "ids": job.ids,
    }


def _say(what: dict[str, Any]) -> None:
    # Not sys.stdout: unbuffered, as PYTHONUNBUFFERED makes it, it may write a part and stop.
    with open(1, "wb", closefd=False) as output:
        output.write(orjson.dumps(what) + b"\n")


def main() -> None:
    """Works on jobs until standard input ends."""
    while line := sys.stdin.buffer.readline():
        _say(uvloop.run(_run(orjson.loads(line))))


if __name__ == "__main__":
    main()
