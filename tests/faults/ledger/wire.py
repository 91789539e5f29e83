"""One request on one connection: what no client library decides for us, such as trying again."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

CONNECT_SECONDS = 5.0


@dataclass(slots=True)
class Answer:
    """What came back; status 0: nothing whole did, so nobody knows what was done."""

    status: int
    body: bytes
    request_id: str
    local_port: int = 0

    @property
    def is_unknown(self) -> bool:
        return self.status == 0 or self.status >= 500

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


Body = bytes | AsyncIterator[bytes]


async def ask(
    port: int,
    method: str,
    path: str,
    body: Body | None = None,
    *,
    size_bytes: int | None = None,
    content_type: str = "application/json",
    seconds: float = 10.0,
    connected: Callable[[asyncio.StreamWriter], None] = lambda writer: None,
) -> Answer:
    """Asks a service on loopback once.

    A body without `size_bytes` that comes in pieces is sent in chunks. `connected` gets the
    connection, to break it.
    """
    request_id = f"req-{secrets.token_hex(16)}"
    head = [f"{method} {path} HTTP/1.1", "Host: calotype", "Connection: close"]
    head.append(f"X-Openstack-Request-Id: {request_id}")
    if isinstance(body, bytes):
        size_bytes = len(body)
    if body is not None:
        head.append(f"Content-Type: {content_type}")
        length = f"Content-Length: {size_bytes}"
        head.append("Transfer-Encoding: chunked" if size_bytes is None else length)
    answer = Answer(0, b"", request_id)
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(seconds):
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer.local_port = writer.get_extra_info("sockname")[1]
            connected(writer)
            writer.write("\r\n".join([*head, "", ""]).encode())
            await _converse(reader, writer, body, size_bytes is None, answer)
    except (OSError, EOFError, ValueError, TimeoutError):
        answer.status = 0
    except asyncio.CancelledError:
        answer.status = 0
        raise
    finally:
        if writer is not None:
            # What is not answered must not go on: whoever asked has ended.
            writer.close() if answer.status else writer.transport.abort()
    return answer


async def _converse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    body: Body | None,
    chunked: bool,
    answer: Answer,
) -> None:
    # Read from the start: who is refused in the middle of a body is told before it ends.
    reading = asyncio.create_task(_read(reader, answer))
    sending = asyncio.create_task(_send(writer, body, chunked))
    try:
        await asyncio.wait((reading, sending), return_when=asyncio.FIRST_COMPLETED)
        await reading
    finally:
        for task in (reading, sending):
            task.cancel()
        with suppress(OSError, EOFError, ValueError, asyncio.CancelledError):
            await asyncio.gather(reading, sending, return_exceptions=True)


async def _send(writer: asyncio.StreamWriter, body: Body | None, chunked: bool) -> None:
    if isinstance(body, bytes):
        writer.write(body)
    elif body is not None:
        async for piece in body:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _read(reader: asyncio.StreamReader, answer: Answer) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head)}
    length = int(headers.get("content-length", "0"))
    answer.body = await reader.readexactly(length)
    answer.status = int(head[0].split(" ")[1])
