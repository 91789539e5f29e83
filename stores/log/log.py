"""The event log as commands see it: load an aggregate, decide, append what follows.

This is the front half, which runs on the event loop; `append.py` is the back half, with the queue
and the writer thread.

One command at a time per aggregate in this process; the recorder's version check keeps other
processes honest. Aggregates are cached without asking the log whether they are current: what a
command appends is checked by the log itself, and a refusal is believed only when the log says that
nothing has been appended since.
"""

import asyncio
import concurrent.futures
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

import orjson
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import IntegrityError, Mapper, Transcoder

from calotype.stores.log.append import Append
from calotype.stores.log.bounded_cache import BoundedCache
from calotype.stores.log.errors import (
    AlreadyExists,
    LogFull,
    LogUnavailable,
    OverLimit,
    TooManyConflicts,
)
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.snapshots import (
    SNAPSHOT_EVENTS,
    SNAPSHOTS,
    Row,
    Snapshots,
    Streams,
    bytes_of,
    is_due,
)
from calotype.stores.log.tables import Change, Count, Put

TRIES = 6
"""The first may be spent on a cached aggregate that turns out to be old."""
CACHE_BYTES = 16 << 20
"""About how many bytes the cached aggregates of a process take at most."""
MOST_ROWS_AT_ONCE, MOST_BYTES_AT_ONCE = 2 * SNAPSHOT_EVENTS, 1 << 20
"""More than this is folded in a thread: a snapshot is missing, or the aggregate is large."""

Kept = TypeVar("Kept", bound=Aggregate)
"""The kind of aggregate that a log keeps."""
Details = ParamSpec("Details")


class OrjsonTranscoder(Transcoder):
    """Encodes the state of an event as plain JSON that any consumer can read.

    Dates are RFC 3339 text in UTC with microseconds; `timestamp` is the only one that becomes a
    date again, because it is the only one that the library computes with.
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


class Quotas(Protocol):
    """Counts what aggregates use, and says how much that may be.

    An aggregate says by `usage` what it uses now; `before` is its usage before the change, `after`
    that after it.
    """

    limited: bool
    """Whether there is any limit; only then is `limits_of_change` called."""

    async def limits_of_change(self, before: Any, after: Any) -> Any:
        """The limits for what grows with this change; may ask elsewhere."""

    def counts(self, before: Any, after: Any, limits: Any) -> Sequence[Count]:
        """What changes in the counters. Runs in the writer's thread."""

    def refusal(self, over: OverLimit, event: Any) -> Exception:
        """What is raised instead of OverLimit when this event does not fit."""


class EventLog(Generic[Kept]):
    """Loads and changes aggregates of one kind.

    `project(aggregate, events)` gives the query rows that must change together with the events;
    it runs in the recorder's writer thread, inside the same transaction. With `quotas`, what the
    aggregates use is counted in that transaction too. With `snapshots`, loading an aggregate
    costs about the same however many events it has.
    """

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        project: Callable[[Kept, Sequence[Any]], Sequence[Change]],
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
        self._cache: BoundedCache[UUID, Kept] = BoundedCache(cache_bytes)
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def load(self, aggregate_id: UUID) -> Kept | None:
        """The aggregate as its events in the log make it now, or None if it has none."""
        rows = await self.recorder.fetch(*self._streams.since(aggregate_id))
        return await self._folded(None, aggregate_id, rows)

    async def create(self, aggregate: Kept) -> None:
        """Appends a new aggregate's first events. Raises AlreadyExists when the id is taken."""
        try:
            await self._append(aggregate, None)
        except IntegrityError:
            raise AlreadyExists(aggregate.id) from None

    async def change(
        self,
        aggregate_id: UUID,
        check: Callable[[Kept | None], None],
        decide: Callable[Concatenate[Kept, Details], None],
        *arguments: Details.args,
        **details: Details.kwargs,
    ) -> Kept:
        """Loads the aggregate, has `check` allow the change and `decide` make it, appends.

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
            aggregate = self._cache.pop(aggregate_id)
            current = aggregate is None  # What is loaded is current, what was cached may be old.
            for attempt in range(TRIES):
                if aggregate is None:
                    aggregate = await self.load(aggregate_id)
                if aggregate is None:
                    check(None)
                    raise LookupError(f"a check has let pass the unknown id {aggregate_id}")
                before = getattr(aggregate, "usage", None)
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

    async def _newer(self, aggregate: Kept) -> Sequence[Row]:
        """What has been appended to the aggregate since this state, but for what is pending."""
        version = aggregate.version - len(aggregate.pending_events)
        return await self.recorder.fetch(*self._streams.since(aggregate.id, version))

    async def _folded(
        self, aggregate: Kept | None, aggregate_id: UUID, rows: Sequence[Row]
    ) -> Kept | None:
        if len(rows) <= MOST_ROWS_AT_ONCE and bytes_of(rows) <= MOST_BYTES_AT_ONCE:
            aggregate = self._streams.fold(aggregate, aggregate_id, rows)
            return aggregate
        mend = self._streams.fold_and_mend
        aggregate, missing = await asyncio.to_thread(mend, aggregate, aggregate_id, rows)
        keep(self.recorder, missing)
        return aggregate

    async def _append(self, aggregate: Kept, before: Any) -> None:
        events = aggregate.collect_events()
        if events:
            future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
            stored = list(map(self._mapper.to_stored_event, events))
            project, quotas = self._project, self._quotas
            snapshots = self._streams.snapshots
            limits: Any = None
            now: Any = aggregate
            if quotas is not None and quotas.limited:
                limits = await quotas.limits_of_change(before, now.usage)

            def changes() -> Sequence[Change]:
                rows = list(project(aggregate, events))
                if quotas is not None:
                    rows += quotas.counts(before, now.usage, limits)
                if snapshots is not None and is_due(aggregate.version, stored):
                    rows.append(Put(SNAPSHOTS, [snapshots.row(aggregate)]))
                return rows

            makes_room = all(getattr(event, "MAKES_ROOM", False) for event in events)
            self.recorder.submit(Append(stored, changes, None, future, makes_room=makes_room))
            try:
                await future
            except OverLimit as over:
                assert quotas is not None
                raise quotas.refusal(over, events[-1]) from None
        self._remember(aggregate)

    def _remember(self, aggregate: Kept) -> None:
        """Keeps the aggregate for the next command, unless it is half changed."""
        if not aggregate.pending_events:
            snapshots = self._streams.snapshots
            size = len(snapshots.encode(aggregate)) if snapshots is not None else 0
            self._cache.put(aggregate.id, aggregate, size)


def keep(recorder: GroupCommitRecorder, snapshots: Sequence[Row]) -> None:
    """Has these rows of SNAPSHOTS written, without waiting for it.

    Where that fails, the next caller that misses them tries again.
    """
    if snapshots:
        future: concurrent.futures.Future[list[int]] = concurrent.futures.Future()
        with suppress(LogFull, LogUnavailable):
            recorder.submit(Append((), lambda: [Put(SNAPSHOTS, snapshots)], None, future))
