"""The event log as commands see it: load an aggregate, decide, append what follows.

Here is the front half, which runs on the event loop; the recorder's writer thread is the back
half, and `AppendQueue` stands between them.

One command at a time per aggregate in this process; the recorder's version check keeps other
processes honest. Aggregates are cached without asking the log whether they are current: what a
command appends is checked by the log itself, and a refusal is believed only when the log says that
nothing has been appended since.
"""

import asyncio
import concurrent.futures
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID
from weakref import WeakValueDictionary

import orjson
from eventsourcing.persistence import (
    IntegrityError,
    Mapper,
    OperationalError,
    StoredEvent,
    Tracking,
    Transcoder,
)

from calotype.stores.log.bounded_cache import BoundedCache
from calotype.stores.log.snapshots import (
    SNAPSHOT_EVENTS,
    Row,
    Snapshots,
    Streams,
    bytes_of,
    is_due,
    written,
)
from calotype.stores.log.tables import Change, Count

if TYPE_CHECKING:
    from calotype.stores.log.recorder import GroupCommitRecorder

TRIES = 6
"""The first may be spent on a cached aggregate that turns out to be old."""
BATCH_BYTES = 4 << 20
"""A batch whose events have become this long ends early: rows and statements are longer still."""
CACHE_BYTES = 16 << 20
"""What the cached aggregates of a process take at most, about."""
MOST_ROWS_AT_ONCE, MOST_BYTES_AT_ONCE = 2 * SNAPSHOT_EVENTS, 1 << 20
"""What is more is folded in a thread: a snapshot is missing, or the aggregate is large."""


class LogFull(Exception):
    """Too many appends wait already; nothing was written."""


class LogUnavailable(OperationalError):
    """The database cannot be reached; the message holds no credentials."""


class ReadTooLong(LogUnavailable):
    """A read took longer than reads may; it runs no more."""


class Fenced(IntegrityError):
    """The lease that an append rested on has another holder since; nothing was written."""


class OverLimit(Exception):
    """A counter would have grown beyond its limit; nothing was written."""

    def __init__(self, key: Any, column: str, value: int, amount: int, limit: int) -> None:
        super().__init__(f"{column} of {key}: {value} + {amount} is more than {limit}")
        self.key = key
        self.column = column
        self.value = value
        """What the counter stands at."""
        self.amount = amount
        """What was to be added."""
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Fence:
    """Keeps an append from being written once its lease is no longer in this epoch."""

    lease: str
    epoch: int


Outcome = list[int] | BaseException
"""The positions of an append's events, or why nothing was written."""


@dataclass(slots=True, eq=False)
class Append:
    """Events of one command, with the query rows and tracking that go with them."""

    events: Sequence[StoredEvent]
    rows: Callable[[], Sequence[Change]] | None
    """Called once, in the writer's thread; what it raises fails only this append."""
    tracking: Tracking | None
    future: "asyncio.Future[list[int]] | concurrent.futures.Future[list[int]]"
    changes: Sequence[Change] = ()
    """What `rows` gave; filled by the writer."""
    fence: Fence | None = None
    """Looked at inside the transaction; the append fails with Fenced when it is gone."""
    submitted_at: float = 0.0
    """By the monotonic clock; filled by the queue."""
    makes_room: bool = False
    """Whether it leads to bytes being removed, so that it must be possible on a full disk."""


class AppendQueue:
    """Appends that wait for the writer thread, which is started by the first of them."""

    def __init__(self, write: Callable[[], None], queue_limit: int) -> None:
        self._write_all = write
        self._queue_limit = queue_limit
        self._waiting: deque[Append] = deque()
        self._arrived = threading.Condition()
        self._writer: threading.Thread | None = None
        self._closing = False

    def submit(self, append: Append) -> None:
        """Queues an append and returns at once; its future gets the positions.

        The future fails with IntegrityError on a version conflict, with LogUnavailable when the
        database is down, or with what went wrong. Raises LogFull when too many wait.
        """
        with self._arrived:
            if len(self._waiting) >= self._queue_limit:
                raise LogFull(f"{self._queue_limit} changes wait for the event log already")
            if self._closing:
                raise LogUnavailable("the event log is closed")
            append.submitted_at = time.monotonic()
            self._waiting.append(append)
            if self._writer is None:
                self._writer = threading.Thread(
                    target=self._write_all, name="log-writer", daemon=True
                )
                self._writer.start()
            self._arrived.notify()

    def take(self, limit: int) -> list[Append]:
        """Up to `limit` of what waits, and about BATCH_BYTES; blocks while nothing does. Empty: the
        queue has ended."""
        with self._arrived:
            while not self._waiting and not self._closing:
                self._arrived.wait()
            taken: list[Append] = []
            size = 0
            while self._waiting and len(taken) < limit and size < BATCH_BYTES:
                taken.append(self._waiting.popleft())
                size += sum(len(event.state) for event in taken[-1].events)
            return taken

    def take_older(self, than: float) -> list[Append]:
        """All that were submitted before this moment of the monotonic clock; never blocks."""
        with self._arrived:
            older = []
            while self._waiting and self._waiting[0].submitted_at < than:
                older.append(self._waiting.popleft())
            return older

    @property
    def waiting_since(self) -> float | None:
        """When the oldest append that waits was submitted; None while none waits."""
        with self._arrived:
            return self._waiting[0].submitted_at if self._waiting else None

    def end(self) -> None:
        """Takes no more appends, and returns when those that wait are written."""
        with self._arrived:
            self._closing = True
            self._arrived.notify_all()
        if self._writer is not None:
            self._writer.join()


class OrjsonTranscoder(Transcoder):
    """Encodes the state of an event as plain JSON that any consumer can read.

    Dates are RFC 3339 text in UTC with microseconds; `timestamp` is the only one that comes
    back as a date, because it is the only one that the library computes with.
    """

    def encode(self, obj: Any) -> bytes:
        return orjson.dumps(obj, option=orjson.OPT_UTC_Z)

    def decode(self, data: bytes) -> Any:
        state = orjson.loads(data)
        if isinstance(state, dict) and "timestamp" in state:
            state["timestamp"] = datetime.fromisoformat(state["timestamp"])
        return state


def event_mapper() -> Mapper[Any]:
    """The mapper between domain events and stored events that everything here uses."""
    return Mapper(transcoder=OrjsonTranscoder())


class TooManyConflicts(Exception):
    """Other processes changed the same aggregate each time we tried."""


class AlreadyExists(Exception):
    """An aggregate with this id was created before (it may be deleted since)."""


class Quotas(Protocol):
    """Counts what aggregates take up, and says how much that may be.

    An aggregate says by `usage` what it takes up now; `before` is what that was before the change.
    """

    limited: bool
    """Whether there is any limit; only then is `limits` asked."""

    async def limits_of_change(self, before: Any, aggregate: Any) -> Any:
        """The limits for what grows with this change; may ask elsewhere."""

    def counts(self, before: Any, aggregate: Any, limits: Any) -> Sequence[Count]:
        """What changes in the counters. Runs where `project` does."""

    def refusal(self, over: OverLimit, event: Any) -> Exception:
        """What is raised instead of OverLimit when this event does not fit."""


class EventLog:
    """Loads and changes aggregates of one kind.

    `project(aggregate, events)` gives the query rows that must change together with the events;
    it runs in the recorder's writer thread, inside the same transaction. With `quotas`, what the
    aggregates take up is counted in that transaction too. With `snapshots`, loading an aggregate
    costs about the same however many events it has.
    """

    def __init__(
        self,
        recorder: "GroupCommitRecorder",
        project: Callable[[Any, Sequence[Any]], Sequence[Change]],
        quotas: Quotas | None = None,
        *,
        snapshots: Snapshots | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.recorder = recorder
        self._project = project
        self._quotas = quotas
        self._mapper = event_mapper()
        self._streams = Streams(self._mapper, snapshots)
        self._cache: BoundedCache[UUID, Any] = BoundedCache(cache_bytes)
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def load(self, aggregate_id: UUID) -> Any | None:
        """The aggregate as its events in the log make it now, or None if it has none."""
        rows = await self.recorder.fetch(*self._streams.since(aggregate_id))
        return await self._folded(None, aggregate_id, rows)

    async def create(self, aggregate: Any) -> None:
        """Appends a new aggregate's first events. Raises AlreadyExists when the id is taken."""
        try:
            await self._append(aggregate, None)
        except IntegrityError:
            raise AlreadyExists(aggregate.id) from None

    async def change(
        self,
        aggregate_id: UUID,
        check: Callable[[Any | None], None],
        decide: Callable[..., None],
        *arguments: Any,
        **details: Any,
    ) -> Any:
        """Loads the aggregate, asks `check` whether this is allowed, makes the decide, appends.

        `check(aggregate)` gets None for an unknown id and refuses by raising;
        `decide(aggregate, *arguments, **details)` triggers events or refuses by raising. Both may
        run several times, each time on other state; what they raise passes through. Returns the
        aggregate after the change.
        """
        lock = self._locks.get(aggregate_id)
        if lock is None:
            lock = self._locks[aggregate_id] = asyncio.Lock()
        async with lock:
            # Taken out of the cache, so that a failure half-way leaves no half-changed copy.
            aggregate: Any = self._cache.pop(aggregate_id)
            current = aggregate is None  # What is loaded is current, what was cached may be old.
            for attempt in range(TRIES):
                if aggregate is None:
                    aggregate = await self.load(aggregate_id)
                before = aggregate.usage if aggregate and self._quotas else None
                refusal: Exception | None = None
                try:
                    check(aggregate)
                    decide(aggregate, *arguments, **details)
                except Exception as error:
                    refusal = error
                if refusal is None and aggregate.pending_events:
                    try:
                        await self._append(aggregate, before)
                        return aggregate
                    except IntegrityError:  # Another process was first.
                        aggregate, current = None, True
                        await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
                        continue
                # A refusal, or a decide that changes nothing, must not rest on an old version.
                newer = () if current else await self._newer(aggregate)
                if not newer:
                    self._remember(aggregate)
                    if refusal is None:
                        return aggregate
                    try:
                        raise refusal
                    finally:
                        refusal = None  # It holds this frame, and the two would be garbage.
                current = True
                if aggregate.pending_events:
                    aggregate = None
                else:
                    aggregate = await self._folded(aggregate, aggregate_id, newer)
        raise TooManyConflicts(aggregate_id)

    async def _newer(self, aggregate: Any) -> Sequence[Row]:
        """What has been appended to the aggregate since this state, but for what is pending."""
        version = aggregate.version - len(aggregate.pending_events)
        return await self.recorder.fetch(*self._streams.since(aggregate.id, version))

    async def _folded(self, aggregate: Any, aggregate_id: UUID, rows: Sequence[Row]) -> Any:
        if len(rows) <= MOST_ROWS_AT_ONCE and bytes_of(rows) <= MOST_BYTES_AT_ONCE:
            return self._streams.fold(aggregate, aggregate_id, rows)
        mend = self._streams.fold_and_mend
        aggregate, missing = await asyncio.to_thread(mend, aggregate, aggregate_id, rows)
        keep(self.recorder, missing)
        return aggregate

    async def _append(self, aggregate: Any, before: Any) -> None:
        events = aggregate.collect_events()
        if events:
            future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
            stored = list(map(self._mapper.to_stored_event, events))
            project, quotas = self._project, self._quotas
            snapshots = self._streams.snapshots
            limits: Any = None
            if quotas is not None and quotas.limited:
                limits = await quotas.limits_of_change(before, aggregate)

            def changes() -> Sequence[Change]:
                rows = list(project(aggregate, events))
                if quotas is not None:
                    rows += quotas.counts(before, aggregate, limits)
                if snapshots is not None and is_due(aggregate.version, stored):
                    rows.append(written([snapshots.row(aggregate)]))
                return rows

            makes_room = all(getattr(event, "MAKES_ROOM", False) for event in events)
            self.recorder.submit(Append(stored, changes, None, future, makes_room=makes_room))
            try:
                await future
            except OverLimit as over:
                assert quotas is not None
                raise quotas.refusal(over, events[-1]) from None
        self._remember(aggregate)

    def _remember(self, aggregate: Any) -> None:
        """Keeps the aggregate for the next command, unless it is half changed."""
        if aggregate is not None and not aggregate.pending_events:
            snapshots = self._streams.snapshots
            size = len(snapshots.encode(aggregate)) if snapshots is not None else 0
            self._cache.put(aggregate.id, aggregate, size)


def keep(recorder: "GroupCommitRecorder", snapshots: Sequence[Row]) -> None:
    """Has these rows of SNAPSHOTS written, without waiting for it.

    Where that fails, the next one who misses them tries again.
    """
    if snapshots:
        future: concurrent.futures.Future[list[int]] = concurrent.futures.Future()
        with suppress(LogFull, LogUnavailable):
            recorder.submit(Append((), lambda: [written(snapshots)], None, future))


def deliver(outcomes: Sequence[tuple[Append, Outcome]]) -> None:
    """Resolves all futures, with one wake-up for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Outcome]]] = {}
    for append, outcome in outcomes:
        future = append.future
        if isinstance(future, asyncio.Future):
            by_loop.setdefault(future.get_loop(), []).append((future, outcome))
        elif not future.set_running_or_notify_cancel():
            pass  # Cancelled meanwhile: nobody waits any more.
        elif isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    for loop, resolved in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, resolved)
        except RuntimeError:
            pass  # The loop is closed: nobody waits any more, and what was written stays written.


def _resolve(resolved: Sequence[tuple[asyncio.Future[Any], Outcome]]) -> None:
    for future, outcome in resolved:
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
