"""The event log as commands see it: load an aggregate, decide, append what follows.

One command at a time per aggregate in this process; the recorder's version check keeps other
processes honest. Aggregates are cached without asking the log whether they are current: what a
command appends is checked by the log itself, and a refusal is believed only on fresh state.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from eventsourcing.domain import Aggregate
from eventsourcing.persistence import IntegrityError

from calotype.stores.log.events import event_mapper
from calotype.stores.log.recorder import Append, GroupCommitRecorder
from calotype.stores.log.tables import Replace

TRIES = 6
"""The first may be spent on a cached aggregate that turns out to be old."""


class TooManyConflicts(Exception):
    """Other processes changed the same aggregate each time we tried."""


class AlreadyExists(Exception):
    """An aggregate with this id was created before (it may be deleted since)."""


class EventLog:
    """Loads and changes aggregates of one kind.

    `project(aggregate, events)` gives the query rows that must change together with the events;
    it runs in the recorder's writer thread, inside the same transaction.
    """

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        project: Callable[[Any, Sequence[Any]], Sequence[Replace]],
        cached_aggregates: int = 4096,
    ) -> None:
        self.recorder = recorder
        self._project = project
        self._mapper = event_mapper()
        self._cache: OrderedDict[UUID, Aggregate] = OrderedDict()
        self._cached_aggregates = cached_aggregates
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def load(self, aggregate_id: UUID) -> Any | None:
        """The aggregate as its events in the log make it now, or None if it has none."""
        aggregate: Any = None
        for stored in await self.recorder.select_events_async(aggregate_id):
            aggregate = self._mapper.to_domain_event(stored).mutate(aggregate)  # type: ignore[attr-defined]
        return aggregate

    async def create(self, aggregate: Any) -> None:
        """Appends a new aggregate's first events. Raises AlreadyExists when the id is taken."""
        try:
            await self._append(aggregate)
        except IntegrityError:
            raise AlreadyExists(aggregate.id) from None

    async def change(
        self,
        aggregate_id: UUID,
        check: Callable[[Any | None], None],
        wish: Callable[..., None],
        *arguments: Any,
        **details: Any,
    ) -> Any:
        """Loads the aggregate, asks `check` whether this is allowed, makes the wish, appends.

        `check(aggregate)` gets None for an unknown id and refuses by raising;
        `wish(aggregate, *arguments, **details)` triggers events or refuses by raising. Both may
        run several times, each time on other state; what they raise passes through. Returns the
        aggregate after the change.
        """
        lock = self._locks.get(aggregate_id)
        if lock is None:
            lock = self._locks[aggregate_id] = asyncio.Lock()
        async with lock:
            for attempt in range(TRIES):
                # Taken out of the cache, so that a failure half-way leaves no half-changed copy.
                aggregate = self._cache.pop(aggregate_id, None)
                cached = aggregate is not None
                if not cached:
                    aggregate = await self.load(aggregate_id)
                try:
                    check(aggregate)
                    wish(aggregate, *arguments, **details)
                except Exception:
                    if cached:
                        continue  # The refusal may rest on old state: look again.
                    raise
                if cached and not aggregate.pending_events:
                    continue
                if await self._try_append(aggregate):
                    return aggregate
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
        raise TooManyConflicts(aggregate_id)

    async def _try_append(self, aggregate: Any) -> bool:
        """False when another process appended to this aggregate first."""
        try:
            await self._append(aggregate)
        except IntegrityError:
            return False
        return True

    async def _append(self, aggregate: Any) -> None:
        events = aggregate.collect_events()
        if events:
            future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
            stored = [self._mapper.to_stored_event(event) for event in events]
            project = self._project
            self.recorder.submit(Append(stored, lambda: project(aggregate, events), None, future))
            await future
        self._cache[aggregate.id] = aggregate
        if len(self._cache) > self._cached_aggregates:
            self._cache.popitem(last=False)
