"""Image data from whoever sends it into a store, in bounded memory.

A big body goes through stages that run side by side: one for each hash, one for the store. Each
is a strand on shared threads. A body that fits in one block takes a single job in one thread.

A block is a list of the chunks that came, in the pieces in which they came: putting them together
would copy every byte once more.
"""

import asyncio
import hashlib
import os
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
from typing import Any, Protocol, TypeVar

from calotype.stores.images import memory
from calotype.stores.images.driver import Chunk, Driver, Sink, StoreError
from calotype.stores.images.inspecting import Claim, Inspection
from calotype.stores.images.threads import Strand, threads_of

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

_BYTES_A_SECOND = 16 << 20
_LONGEST_EXTRA_SECONDS = 600.0
"""A store may take longer for one step when so many bytes have come before: it may have to sync
them, or the part that it sends is large."""
_UNDO_SECONDS = 5.0
"""Whoever was cancelled waits so long for the store at most; its thread clears up by itself."""

# Hashing never waits for anything, so it has threads of its own: a store that hangs can take all
# of the writers and still no hash of another upload is late. More threads than this would only
# wait for a processor.
_HASHERS = ThreadPoolExecutor((os.cpu_count() or 1) + 2, thread_name_prefix="image-hash")

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


class Leave(Protocol):
    """Whether the data may still appear in the store; both methods raise when it may not."""

    async def ask(self) -> None:
        """Asked when all has come; may ask elsewhere."""

    def check(self) -> None:
        """Asked in the writing thread, at the last moment; asks nobody."""


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
    leave: Leave | None = None,
) -> Written:
    """Stores what `chunks` gives under `key`; durable when this returns.

    `size_bytes` is what was announced and `limit_bytes` the most that is allowed (None: not
    known, no limit). `expected` holds hexadecimal digests by algorithm; they and the `claim` are
    checked before the data appears in the store. `room` is asked how many bytes there is room for
    whenever more have come than it said before. `leave` is asked before the data appears. Raises
    SizeMismatch and TooLarge as soon as too much has come, DigestMismatch, ContentRefused, what
    `leave` raises, and what the driver raises. After any failure, the cancellation of the caller
    and an exception of `chunks` included, the write has been undone when the exception leaves;
    only where the store hangs, its thread undoes it when it comes back.
    """
    order = _Order(
        driver, key, size_bytes, limit_bytes, (*algorithms, *expected), expected, claim, leave
    )
    order.threads.expect_answers()
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
                await stages.progress(stages.fewer_than(_blocks_at_once()))
                stages.raise_failure()
                taken = await intake.take(_block_bytes())
            await _to_the_end(stages.progress(stages.fewer_than(1)))
            stages.raise_failure()
            if leave is not None:
                await leave.ask()
            commit = partial(stages.commit, intake.received_bytes)
            return await _to_the_end(stages.progress(stages.in_writer(commit)))
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


@dataclass
class _Order:
    """What was asked for."""

    driver: Driver
    key: str
    size_bytes: int | None
    limit_bytes: int | None
    algorithms: Iterable[str]
    expected: Mapping[str, str]
    claim: Claim | None
    leave: Leave | None
    _inspection: Inspection | None = None

    def __post_init__(self) -> None:
        size_bytes, limit_bytes = self.size_bytes, self.limit_bytes
        if size_bytes is not None and limit_bytes is not None and size_bytes > limit_bytes:
            raise TooLarge(f"{size_bytes} bytes were announced; at most {limit_bytes} are allowed.")
        self.threads = threads_of(self.driver)
        self.hashes = {name: hashlib.new(name, usedforsecurity=False) for name in self.algorithms}

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

    def finish(self, sink: Sink) -> None:
        """Makes the data appear, if it still may."""
        if self.leave is not None:
            self.leave.check()
        sink.commit()

    def digests(self) -> dict[str, str]:
        """All digests. Raises DigestMismatch when one is not as expected."""
        digests = {name: digest.hexdigest() for name, digest in self.hashes.items()}
        for name, value in self.expected.items():
            if digests[name] != value.lower():
                raise DigestMismatch(f"The data's {name} is {digests[name]}, not {value}.")
        return digests


@dataclass(eq=False)
class _Intake:
    """Counts what comes in and gathers it into blocks."""

    chunks: AsyncIterator[bytes]
    size_bytes: int | None
    limit_bytes: int | None
    room: Room | None
    received_bytes: int = 0
    ended: bool = False

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.size_bytes, self.limit_bytes) if limit is not None]
        self._most_bytes: float = min(limits, default=float("inf"))
        self._remaining_bytes: float = 0 if self.room else float("inf")

    async def take(self, least_bytes: int) -> list[bytes]:
        """The next chunks, at least so many bytes of them; fewer only when `ended` is set."""
        taken: list[bytes] = []
        enough_bytes = self.received_bytes + least_bytes
        async for chunk in self.chunks:
            self.received_bytes += len(chunk)
            if self.received_bytes > self._most_bytes:
                raise self._too_much()
            if self.received_bytes > self._remaining_bytes:
                await self._ask_for_room()
            taken.append(chunk)
            if self.received_bytes >= enough_bytes:
                return taken
        self.ended = True
        if self.size_bytes is not None and self.received_bytes < self.size_bytes:
            raise SizeMismatch(
                f"{self.size_bytes} bytes were announced and only {self.received_bytes} came."
            )
        return taken

    async def _ask_for_room(self) -> None:
        assert self.room is not None
        there_is = await self.room()
        self._remaining_bytes = float("inf") if there_is is None else there_is
        if self.received_bytes > self._remaining_bytes:
            raise TooLarge(f"There is room for {there_is} bytes and more came.")

    def _too_much(self) -> StoreError:
        if self.limit_bytes is not None and self.received_bytes > self.limit_bytes:
            return TooLarge(f"At most {self.limit_bytes} bytes are allowed and more came.")
        return SizeMismatch(f"{self.size_bytes} bytes were announced and more came.")


async def _write_small(order: _Order, chunks: list[bytes]) -> Written:
    if order.leave is not None:
        await order.leave.ask()
    attempt = _Attempt()
    storing = order.threads.writers.submit(_store_block, order, chunks, attempt)
    try:
        return await _to_the_end(order.threads.within_deadline(storing))
    except BaseException:
        if not attempt.give_up():
            removing = order.threads.call(_remove, order.driver, order.driver.url_of(order.key))
            with suppress(StoreError):
                await _to_the_end(removing)
        raise


class _Attempt:
    """A write whose asker may go away: whoever comes last, the asker or the thread, undoes it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._given_up = False
        self._stands = False

    def give_up(self) -> bool:
        """The asker has gone; False when the data stands already, for the asker to remove."""
        with self._lock:
            self._given_up = True
            return not self._stands

    def stand(self) -> bool:
        """The data stands; False when nobody wants it any more, for the thread to remove."""
        with self._lock:
            self._stands = not self._given_up
            return self._stands


def _store_block(order: _Order, taken: list[bytes], attempt: _Attempt) -> Written:
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
        order.finish(sink)
    except BaseException:
        sink.abort()
        raise
    if not attempt.stand():
        _remove(order.driver, sink.url)
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
        self._threads = order.threads
        self._writer = Strand(order.threads.writers)
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
        self._steps = 0
        self._put_bytes = 0
        self._waiting: tuple[int, asyncio.Future[None]] | None = None

    def put(self, block: Block) -> None:
        """Queues `block` for every stage."""
        with self._lock:
            self._in_flight += 1
            self._put_bytes += sum(map(len, block))
        stages_left = [len(self._hashers) + 1]
        self._writer.submit(partial(self._step, self._store, block, stages_left))
        for strand, update in self._hashers:
            strand.submit(partial(self._step, update, block, stages_left))

    async def undo(self) -> None:
        """Takes back whatever was done; every stage is idle when this returns, or hangs."""
        self._fail(asyncio.CancelledError())
        aborting = self.in_writer(self._abort)
        if not self._writer.is_lost:
            ended = asyncio.gather(self.fewer_than(1), aborting)
            with suppress(StoreError):
                await _to_the_end(self.progress(ended))

    def _store(self, chunk: Chunk) -> None:
        if self._sink is None:
            self._sink = self._order.driver.create(self._order.key, self._order.size_bytes)
        self._sink.write(chunk)

    def commit(self, size_bytes: int) -> Written:
        """Finishes the write if the data is as it should be; a job for the writer."""
        assert self._sink is not None
        written = self._order.written(self._sink.url, size_bytes)
        self._order.finish(self._sink)
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
            self._steps += 1
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

    async def progress(self, future: asyncio.Future[_Result]) -> _Result:
        """The result of `future`, unless the store makes no step for too long before.

        Raises StoreUnavailable then: the thread is lost, and clears up when it comes back.
        """
        while not future.done():
            steps = self._steps
            seconds = self._threads.deadline_seconds + min(
                self._put_bytes / _BYTES_A_SECOND, _LONGEST_EXTRA_SECONDS
            )
            await asyncio.wait((future,), timeout=seconds)
            if not future.done() and self._steps == steps:
                future.add_done_callback(_look_at)
                raise self._writer.lose(self._threads)
        return future.result()

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


async def _to_the_end(work: Awaitable[_Result]) -> _Result:
    """The result of `work`, waited for even when the caller is cancelled meanwhile.

    The cancellation is raised once the work is done, whatever its result, or some seconds later.
    """
    future = asyncio.ensure_future(work)
    try:
        await asyncio.wait((future,))
    except asyncio.CancelledError as cancellation:
        future.add_done_callback(_look_at)
        loop = asyncio.get_running_loop()
        until = loop.time() + _UNDO_SECONDS
        while not future.done() and loop.time() < until:
            with suppress(asyncio.CancelledError):
                await asyncio.wait((future,), timeout=until - loop.time())
        raise cancellation
    return future.result()


def _look_at(future: "asyncio.Future[Any]") -> None:
    """Looks at a failure, so that the loop does not report it as forgotten."""
    if not future.cancelled():
        future.exception()


def _remove(driver: Driver, url: str) -> None:
    with suppress(StoreError):
        driver.delete(url)
