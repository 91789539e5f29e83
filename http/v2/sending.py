"""Sending image data: sendfile where the bytes are in a file, blocks read ahead elsewhere.

uvloop has no sendfile, so it is called here by hand, in threads because a read from disk may
block. A client that is slow gives its thread back: the event loop waits for it to take more.
"""

import asyncio
import os
import select
import socket
import sys
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from aiohttp import web

from calotype.http.connections import PEER_LOST_SECONDS
from calotype.stores.images.closing import LateRelease
from calotype.stores.images.driver import Driver, Source, StoreUnavailable
from calotype.stores.images.read_ahead import blocks
from calotype.stores.images.threads import StoreThreads, threads_of

_LAST_COUNT_SECONDS = 1.0
"""How long a download that breaks off waits for its thread to count what it has sent."""
_PATIENCE_MILLISECONDS = 20
"""How long a thread waits for a client before the event loop takes over the waiting."""
_BLOCK_BYTES = 1 << 18
"""What is held of each download that does not come from a file, twice."""
_CORKED_BYTES = 8 << 20
"""From this size on, packets are held back until they are full: a quarter less CPU for 1 GiB, and a
third more for 1 MiB."""
_STEP_BYTES = 64 << 20
"""How much one thread sends before it asks the event loop whether to go on."""


@dataclass(slots=True)
class Sent:
    """How many bytes of image data an answer has carried so far; whoever sends counts here."""

    count_bytes: int = 0


async def open_source(driver: Driver, url: str, start: int, length: int) -> Source:
    """Opens the bytes for reading, in a thread, and sees the first one.

    Raises what `Driver.open` raises, and StoreUnavailable when the store takes too long.
    """
    threads = threads_of(driver)
    job = threads.readers.submit(_open, driver, url, start, length)
    try:
        return await threads.within_deadline(job)
    except BaseException:
        job.add_done_callback(_close_late)
        raise


def _close_late(job: "Future[Source]") -> None:
    """What was opened after nobody waited for it any more is closed."""
    if not job.cancelled() and job.exception() is None:
        job.result().close()


def _open(driver: Driver, url: str, start: int, length: int) -> Source:
    source = driver.open(url, start, length)
    file = source.fileno()
    if file is not None and length:
        try:
            os.pread(file, 1, start)
        except OSError as error:
            source.close()
            raise StoreUnavailable(f"The store cannot read the data: {error.strerror}.") from error
    return source


async def send(
    request: web.Request,
    source: Source,
    driver: Driver,
    headers: dict[str, str],
    status: int,
    sent: Sent,
    stall_seconds: float,
) -> web.StreamResponse:
    """Answers with the bytes of `source`, counted in `sent`, and closes it.

    A client that takes nothing for `stall_seconds` is given up. When the source breaks off in the
    middle the connection is cut, so that the client sees a short body and never a wrong one.
    """
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = source.length_bytes
    try:
        await response.prepare(request)
        _tolerate_pauses(request, stall_seconds)
        file = source.fileno()
        if file is not None and _is_plain_socket(request):
            await _send_file(request, source, file, threads_of(driver), sent, stall_seconds)
        else:
            async for block in blocks(source, threads_of(driver), _BLOCK_BYTES):
                async with asyncio.timeout(stall_seconds):
                    await response.write(block)
                sent.count_bytes += len(block)
        async with asyncio.timeout(stall_seconds):
            await response.write_eof()
        _tolerate_pauses(request, PEER_LOST_SECONDS)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("The client takes nothing any more.") from None
    except BaseException:
        if request.transport is not None:
            request.transport.abort()
        raise
    finally:
        source.close()
    return response


def _is_plain_socket(request: web.Request) -> bool:
    transport = request.transport
    return transport is not None and transport.get_extra_info("sslcontext") is None


def _tolerate_pauses(request: web.Request, seconds: float) -> None:
    """Keeps the kernel from taking a client that reads nothing for a while for one that is gone."""
    if request.transport is None or not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    connection = request.transport.get_extra_info("socket")
    if connection is not None and connection.family != socket.AF_UNIX:
        milliseconds = min(int(seconds * 1000), (1 << 31) - 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


async def _send_file(
    request: web.Request,
    source: Source,
    file: int,
    threads: StoreThreads,
    sent: Sent,
    stall_seconds: float,
) -> None:
    transport = request.transport
    assert transport is not None
    pause_seconds = 0.0
    loop = asyncio.get_running_loop()
    deadline = loop.time() + stall_seconds
    while transport.get_write_buffer_size():  # The headers must be out before the file goes.
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(pause_seconds + 0.001, 0.1)
        if transport.is_closing() or loop.time() > deadline:
            raise ConnectionResetError("The client went away.")
    # A descriptor of our own: the loop refuses to watch one that belongs to a transport, and
    # this one stays ours even when the transport closes the other. So does the file's, for a
    # thread that hangs in it.
    connection = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    file = os.dup(file)
    life = LateRelease(partial(_close, connection, file))
    try:
        descriptor = connection.fileno()
        offset = source.offset_bytes
        stop = offset + source.length_bytes
        corked = source.length_bytes >= _CORKED_BYTES
        if corked:
            _cork(connection, True)
        while offset < stop:
            end = min(stop, offset + _STEP_BYTES)
            step = threads.readers.submit(_send_some, life, descriptor, file, offset, end, sent)
            offset = await _finish(step, threads, transport, sent)
            if offset < stop:
                await _until_writable(loop, descriptor, stall_seconds)
                if transport.is_closing():
                    raise ConnectionResetError("The client went away.")
        if corked:
            _cork(connection, False)
    finally:
        life.close()


def _close(connection: socket.socket, file: int) -> None:
    connection.close()
    os.close(file)


def _cork(connection: socket.socket, corked: bool) -> None:
    """Holds packets back until they are full; letting go sends the last one."""
    if sys.platform == "linux":
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, corked)


async def _finish(
    job: "Future[int]", threads: StoreThreads, transport: asyncio.BaseTransport, sent: Sent
) -> int:
    """How far the thread came. Raises StoreUnavailable when the store lets it come nowhere."""
    waiting = asyncio.wrap_future(job)
    try:
        while True:
            before = sent.count_bytes
            await asyncio.wait((waiting,), timeout=threads.deadline_seconds)
            if waiting.done():
                return waiting.result()
            if sent.count_bytes == before:
                raise threads.lose(job)
    except BaseException as error:
        transport.abort()  # type: ignore[attr-defined]
        if isinstance(error, asyncio.CancelledError):
            # The thread sees at once that the client has gone; what it has sent until then counts.
            await asyncio.wait((waiting,), timeout=_LAST_COUNT_SECONDS)
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


def _send_some(
    life: LateRelease, descriptor: int, file: int, offset: int, stop: int, sent: Sent
) -> int:
    """Sends as much as the client takes without a long wait; returns how far it came."""
    with life.use():
        return _send_in_use(descriptor, file, offset, stop, sent)


def _send_in_use(descriptor: int, file: int, offset: int, stop: int, sent: Sent) -> int:
    while offset < stop:
        try:
            count = os.sendfile(descriptor, file, offset, stop - offset)
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            if not poll.poll(_PATIENCE_MILLISECONDS):
                return offset
            continue
        if count == 0:
            raise ConnectionResetError("The file ended before its recorded size.")
        offset += count
        sent.count_bytes += count
    return offset


async def _until_writable(
    loop: asyncio.AbstractEventLoop, descriptor: int, stall_seconds: float
) -> None:
    writable = loop.create_future()

    def wake() -> None:
        if not writable.done():
            writable.set_result(None)

    loop.add_writer(descriptor, wake)
    try:
        async with asyncio.timeout(stall_seconds):
            await writable
    finally:
        loop.remove_writer(descriptor)
