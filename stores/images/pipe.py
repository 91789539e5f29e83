"""Image data from whoever sends it into a store, in bounded memory.

A big body goes through stages that run side by side: one for each hash, one for the store. Each
is a strand on shared threads. A body that fits in one block takes a single job in one thread.

A block is a list of the chunks that came, in the pieces in which they came: putting them together
would copy every byte once more.
"""

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, TypeVar

from calotype.stores.images import memory
from calotype.stores.images.driver import Chunk, Driver, Sink, StoreError
from calotype.stores.images.inspecting import Claim, Inspection

BLOCK_BYTES = 1 << 20
BLOCKS_IN_FLIGHT = 8
_TOGETHER_BYTES = 16 << 20
"""What the blocks of all uploads may take together, as long as each has one."""
_CROWD = 8
"""With more uploads at once than this, blocks are smaller."""
_CROWD_BLOCK_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 18
"""So much may come in one chunk, and a block with it: it is what an event loop reads at once."""
_MOST_CHUNKS = 16
"""A block of more chunks is put together after all: they are so small that each costs more."""
_JOBS_A_TURN = 8
"""After so many jobs a strand queues up behind the others, so that none keeps a thread."""

# Hashing never waits for anything, so it has threads of its own: a store that hangs can take all
# of the writers and still no hash of another upload is late. More threads than this would only
# wait for a processor.
_HASHERS = ThreadPoolExecutor((os.cpu_count() or 1) + 2, thread_name_prefix="image-hash")
_WRITERS = ThreadPoolExecutor(32, thread_name_prefix="image-write")

Block = Sequence[Chunk]
_NOTHING_EXPECTED: Mapping[str, str] = {}
_running: set["_Intake"] = set()
"""The uploads of this process that are under way."""
_Result = TypeVar("_Result")
Room = Callable[[], Awaitable[int | None]]
"""Says how many bytes there is room for now; None: for any number."""


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes that a store holds durably; `digests` are hexadecimal by the algorithm's name."""

    url: str
    size_bytes: int
    digests: dict[str, str]
    virtual_size: int | None = None
    """Bytes of the disk inside, where the content was inspected and tells."""


class SizeMismatch(StoreError):
    """More or fewer bytes came than were announced."""


class TooLarge(StoreError):
    """More bytes came, or were announced, than are allowed."""


class DigestMismatch(StoreError):
    """The bytes that came do not have the digest that was announced."""


async def write(
    driver: Driver,
    key: str,
    chunks: AsyncIterator[bytes],
    *,
    size_bytes: int | None,
    limit_bytes: int | None,
    algorithms: Sequence[str] = ("md5", "sha512"),
    expected: Mapping[str, str] = _NOTHING_EXPECTED,
    claim: Claim | None = None,
    room: Room | None = None,
) -> Written:
    """Stores what `chunks` gives under `key`; durable when this returns.

    `size_bytes` is what was announced and `limit_bytes` the most that is allowed (None: not
    known, no limit). `expected` holds hexadecimal digests by algorithm; they and the `claim` are
    checked before the data appears in the store. `room` is asked how many bytes there is room for
    whenever more have come than it said before. Raises SizeMismatch and TooLarge as soon as too
    much has come, DigestMismatch, ContentRefused, and what the driver raises. After any failure,
    the cancellation of the caller and an exception of `chunks` included, the write has been undone
    when the exception leaves.
    """
    order = _Order(driver, key, size_bytes, limit_bytes, (*algorithms, *expected), expected, claim)
    intake = _Intake(chunks, size_bytes, limit_bytes, room)
    _running.add(intake)
    if len(_running) == _CROWD + 1:
        memory.give_pieces_back()
    try:
        taken = await intake.take(_block_bytes() + 1)
        if intake.ended:
            return await _write_small(order, taken)
        stages = _Stages(order)
        try:
            while True:
                for block in _blocks(taken):
                    stages.put(block)
                if intake.ended:
                    break
                await stages.fewer_than(_blocks_at_once())
                stages.raise_failure()
                taken = await intake.take(_block_bytes())
            await _to_the_end(stages.fewer_than(1))
            stages.raise_failure()
            commit = partial(stages.commit, intake.received_bytes)
            return await _to_the_end(stages.in_writer(commit))
        except BaseException:
            await stages.undo()
            raise
    finally:
        if len(_running) == _CROWD + 1:
            memory.keep_pieces()
        _running.discard(intake)


def _block_bytes() -> int:
    return BLOCK_BYTES if len(_running) <= _CROWD else _CROWD_BLOCK_BYTES


def _blocks_at_once() -> int:
    """How many blocks an upload may have, the one that is coming in included."""
    share = _TOGETHER_BYTES // (len(_running) * max(_block_bytes(), _CHUNK_BYTES))
    return max(1, min(share, BLOCKS_IN_FLIGHT))


class _Order:
    """What was asked for."""

    def __init__(
        self,
        driver: Driver,
        key: str,
        size_bytes: int | None,
        limit_bytes: int | None,
        algorithms: Iterable[str],
        expected: Mapping[str, str],
        claim: Claim | None,
    ) -> None:
        if size_bytes is not None and limit_bytes is not None and size_bytes > limit_bytes:
            raise TooLarge(f"{size_bytes} bytes were announced; at most {limit_bytes} are allowed.")
        self.driver = driver
        self.key = key
        self.size_bytes = size_bytes
        self._expected = expected
        self.claim = claim
        self._inspection: Inspection | None = None
        self.hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}

    def inspect(self, chunk: Chunk) -> None:
        """Shows the inspectors the next bytes; a job for a thread of its own."""
        self._inspector().update(chunk)

    def _inspector(self) -> Inspection:
        if self._inspection is None:
            assert self.claim is not None
            self._inspection = Inspection(self.claim)
        return self._inspection

    def written(self, url: str, size_bytes: int) -> Written:
        """What is about to be stored. Raises DigestMismatch or ContentRefused."""
        digests = self.digests()
        # Asked of an empty body too, of which no inspector has seen anything: it is no disk.
        virtual_size = self._inspector().virtual_size() if self.claim is not None else None
        return Written(url, size_bytes, digests, virtual_size)

    def digests(self) -> dict[str, str]:
        """All digests. Raises DigestMismatch when one is not as expected."""
        digests = {name: digest.hexdigest() for name, digest in self.hashes.items()}
        for name, value in self._expected.items():
            if digests[name] != value.lower():
                raise DigestMismatch(f"The data's {name} is {digests[name]}, not {value}.")
        return digests


class _Intake:
    """Counts what comes in and gathers it into blocks."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        size_bytes: int | None,
        limit_bytes: int | None,
        room: Room | None,
    ) -> None:
        self._chunks = chunks
        self._size_bytes = size_bytes
        self._limit_bytes = limit_bytes
        ceilings = [ceiling for ceiling in (size_bytes, limit_bytes) if ceiling is not None]
        self._ceiling_bytes: float = min(ceilings, default=float("inf"))
        self._room = room
        self._room_bytes: float = 0 if room else float("inf")
        self.received_bytes = 0
        self.ended = False

    async def take(self, least_bytes: int) -> list[bytes]:
        """The next chunks, at least so many bytes of them; fewer only when `ended` is set."""
        taken: list[bytes] = []
        enough_bytes = self.received_bytes + least_bytes
        async for chunk in self._chunks:
            self.received_bytes += len(chunk)
            if self.received_bytes > self._ceiling_bytes:
                raise self._too_much()
            if self.received_bytes > self._room_bytes:
                await self._ask_for_room()
            taken.append(chunk)
            if self.received_bytes >= enough_bytes:
                return taken
        self.ended = True
        if self._size_bytes is not None and self.received_bytes < self._size_bytes:
            raise SizeMismatch(
                f"{self._size_bytes} bytes were announced and only {self.received_bytes} came."
            )
        return taken

    async def _ask_for_room(self) -> None:
        assert self._room is not None
        there_is = await self._room()
        self._room_bytes = float("inf") if there_is is None else there_is
        if self.received_bytes > self._room_bytes:
            raise TooLarge(f"There is room for {there_is} bytes and more came.")

    def _too_much(self) -> StoreError:
        if self._limit_bytes is not None and self.received_bytes > self._limit_bytes:
            return TooLarge(f"At most {self._limit_bytes} bytes are allowed and more came.")
        return SizeMismatch(f"{self._size_bytes} bytes were announced and more came.")


async def _write_small(order: _Order, chunks: list[bytes]) -> Written:
    loop = asyncio.get_running_loop()
    storing = loop.run_in_executor(_WRITERS, _store_block, order, chunks)
    try:
        return await _to_the_end(storing)
    except asyncio.CancelledError:
        if storing.exception() is None:
            removing = loop.run_in_executor(_WRITERS, _remove, order.driver, storing.result().url)
            await _to_the_end(removing)
        raise


def _store_block(order: _Order, taken: list[bytes]) -> Written:
    size_bytes = sum(map(len, taken))
    for block in _blocks(taken):
        for chunk in block:
            for digest in order.hashes.values():
                digest.update(chunk)
            if order.claim is not None:
                order.inspect(chunk)
    written = order.written(order.driver.url_of(order.key), size_bytes)
    sink = order.driver.create(order.key, size_bytes)
    try:
        for block in _blocks(taken):
            for chunk in block:
                sink.write(chunk)
        sink.commit()
    except BaseException:
        sink.abort()
        raise
    return written


def _blocks(taken: list[bytes]) -> Iterator[Block]:
    """What was taken as blocks: as one, or as several where a source gave far more at once."""
    if len(taken) > _MOST_CHUNKS:
        taken = [b"".join(taken)]
    if sum(map(len, taken)) < 4 * BLOCK_BYTES:
        if taken:
            yield taken
        return
    for chunk in taken:
        view = memoryview(chunk)
        for start in range(0, len(chunk), BLOCK_BYTES):
            yield [view[start : start + BLOCK_BYTES]]


class _Stages:
    """The hashes and the store, each working through the same blocks at its own pace.

    After the first failure the blocks that are still queued are skipped, so that every queue
    runs dry and nobody waits for ever.
    """

    def __init__(self, order: _Order) -> None:
        self._order = order
        self._loop = asyncio.get_running_loop()
        self._writer = Strand(_WRITERS)
        self._hashers: list[tuple[Strand, Callable[[Any], object]]] = []
        for digest in order.hashes.values():
            self._hashers.append((Strand(_HASHERS), digest.update))
        if order.claim is not None:
            self._hashers.append((Strand(_HASHERS), order.inspect))
        self._sink: Sink | None = None
        self._committed = False
        self._failure: BaseException | None = None
        self._lock = Lock()
        self._in_flight = 0
        self._waiting: tuple[int, asyncio.Future[None]] | None = None

    def put(self, block: Block) -> None:
        """Queues `block` for every stage."""
        with self._lock:
            self._in_flight += 1
        stages_left = [len(self._hashers) + 1]
        self._writer.submit(partial(self._step, self._store, block, stages_left))
        for strand, update in self._hashers:
            strand.submit(partial(self._step, update, block, stages_left))

    async def undo(self) -> None:
        """Takes back whatever was done; every stage is idle when this returns."""
        self._fail(asyncio.CancelledError())
        try:
            await _to_the_end(self.fewer_than(1))
        finally:
            await _to_the_end(self.in_writer(self._abort))

    def _store(self, chunk: Chunk) -> None:
        if self._sink is None:
            self._sink = self._order.driver.create(self._order.key, self._order.size_bytes)
        self._sink.write(chunk)

    def commit(self, size_bytes: int) -> Written:
        """Finishes the write if the data is as it should be; a job for the writer."""
        assert self._sink is not None
        written = self._order.written(self._sink.url, size_bytes)
        self._sink.commit()
        self._committed = True
        return written

    def _abort(self) -> None:
        if self._sink is None:
            return
        if self._committed:
            _remove(self._order.driver, self._sink.url)
        else:
            self._sink.abort()

    def _step(self, work: Callable[[Any], object], block: Block, stages_left: list[int]) -> None:
        """One stage's work on one block, in a pool thread."""
        if self._failure is None:
            try:
                for chunk in block:
                    work(chunk)
            except BaseException as error:
                self._fail(error)
        with self._lock:
            stages_left[0] -= 1
            if stages_left[0]:
                return
            self._in_flight -= 1
            waiting = self._waiting
            if waiting is None or self._in_flight >= waiting[0]:
                return
            self._waiting = None
        with suppress(RuntimeError):  # The loop was closed, so nobody waits any more.
            self._loop.call_soon_threadsafe(_wake, waiting[1])

    def fewer_than(self, count: int) -> asyncio.Future[None]:
        """Is done as soon as fewer than `count` blocks are in flight."""
        future = self._loop.create_future()
        with self._lock:
            if self._in_flight < count:
                future.set_result(None)
            else:
                self._waiting = (count, future)
        return future

    def in_writer(self, job: Callable[[], _Result]) -> asyncio.Future[_Result]:
        """Runs `job` after the writes that are queued; is done when it is."""
        future: asyncio.Future[_Result] = self._loop.create_future()

        def run() -> None:
            try:
                outcome = partial(_wake, future, job())
            except BaseException as error:
                outcome = partial(_wake, future, None, error)
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(outcome)

        self._writer.submit(run)
        return future

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error

    def raise_failure(self) -> None:
        """Raises the first failure of a stage, if there is one."""
        if self._failure is not None:
            raise self._failure


def _wake(
    future: asyncio.Future[Any], result: Any = None, error: BaseException | None = None
) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def _to_the_end(future: asyncio.Future[_Result]) -> _Result:
    """The result of `future`, waited for even when the caller is cancelled meanwhile.

    The cancellation is raised once the future is done, whatever its result.
    """
    cancellation: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        future.exception()  # Looked at, so that the loop does not report it as forgotten.
        raise cancellation
    return future.result()


def _remove(driver: Driver, url: str) -> None:
    with suppress(StoreError):
        driver.delete(url)


class Strand:
    """Runs its jobs one after the other, on a pool that many strands share.

    It holds a thread only while it has jobs, so thousands of strands that wait for a slow client
    cost nothing. A job must not raise.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._jobs: deque[Callable[[], object]] = deque()
        self._lock = Lock()
        self._running = False

    def submit(self, job: Callable[[], object]) -> None:
        """Queues `job`; returns at once. Raises RuntimeError when the pool was shut down."""
        with self._lock:
            self._jobs.append(job)
            if self._running:
                return
            self._running = True
        self._pool.submit(self._run)

    def _run(self) -> None:
        for _ in range(_JOBS_A_TURN):
            self._jobs.popleft()()
            with self._lock:
                if not self._jobs:
                    self._running = False
                    return
        self._pool.submit(self._run)
