"""The recorder of the event log: the promises that both databases keep."""

import asyncio
import concurrent.futures
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

from eventsourcing.persistence import (
    ApplicationRecorder,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
)

from calotype.stores.log.append import Append, AppendQueue
from calotype.stores.log.leases import LeaseTerms
from calotype.stores.log.options import LogOptions
from calotype.stores.log.statements import Fetch, within_bytes
from calotype.stores.log.subscription import CommitWatch, LogSubscription
from calotype.stores.log.table_sets import TableSet
from calotype.stores.log.tables import Succession, Table

Result = TypeVar("Result")
NO_END = 2**62
"""A position, a version or a number of bytes that no log reaches."""


class GroupCommitRecorder(AppendQueue, ProcessRecorder, ABC):
    """Writes and selects stored events, in batches.

    The synchronous methods are those of the eventsourcing library; they go through the same
    queue. Positions are contiguous from 1, in commit order, across all processes.
    """

    CLOCK: ClassVar[str]
    """SQL for the time now in seconds since 1970, by the clock that all processes share."""

    def __init__(self, options: LogOptions, *, only_aggregates: bool = False) -> None:
        super().__init__(options)
        self._only_aggregates = only_aggregates
        self.lease_terms = LeaseTerms()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._asking: asyncio.Task[None] | None = None

    # ---- appending ----

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        *,
        tracking: Tracking | None = None,
        **kwargs: Any,
    ) -> Sequence[int] | None:
        """Appends and waits. Raises IntegrityError on a version conflict."""
        if not stored_events and tracking is None:
            return None if self._only_aggregates else []
        future: concurrent.futures.Future[list[int]] = concurrent.futures.Future()
        self.submit(Append(stored_events, None, tracking, future))
        positions = future.result()
        return None if self._only_aggregates else positions

    def insert_tracking(self, tracking: Tracking) -> None:
        """Records how far a subscriber has come. Raises IntegrityError unless it is further."""
        self.insert_events([], tracking=tracking)

    # ---- reading ----

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        """The events of one aggregate, between versions `gt` (exclusive) and `lte`."""
        rows = self.fetch_now(
            "SELECT originator_version, topic, state FROM stored_events "
            "WHERE originator_id = :id AND originator_version > :gt AND originator_version <= :lte "
            f"ORDER BY originator_version {'DESC' if desc else 'ASC'} LIMIT :limit",
            {
                "id": originator_id,
                "gt": -1 if gt is None else gt,
                "lte": NO_END if lte is None else lte,
                "limit": NO_END if limit is None else limit,
            },
        )
        return [StoredEvent(originator_id, row[0], row[1], bytes(row[2])) for row in rows]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
        limit_bytes: int = NO_END,
    ) -> list[Notification]:
        """Events by position, from `start` to `stop`, at most `limit`.

        Fewer where they are long: all but the last together have less than `limit_bytes`.
        """
        names = {f"t{number}": topic for number, topic in enumerate(topics)}
        wanted = f"AND topic IN ({', '.join(':' + name for name in names)}) " if names else ""
        source = (
            "stored_events WHERE notification_id >= :start AND notification_id <= :stop " + wanted
        )
        if limit_bytes < NO_END:
            source += f"AND {within_bytes('notification_id', source)} "
        rows = self.fetch_now(
            "SELECT notification_id, originator_id, originator_version, topic, state "
            f"FROM {source}ORDER BY notification_id LIMIT :limit",
            {
                "start": (start or 0) + (0 if inclusive_of_start or start is None else 1),
                "stop": NO_END if stop is None else stop,
                "limit": limit,
                "bytes": limit_bytes,
                **names,
            },
        )
        return [
            Notification(
                id=position,
                originator_id=_originator(originator),
                originator_version=version,
                topic=topic,
                state=bytes(state),
            )
            for position, originator, version, topic, state in rows
        ]

    def max_notification_id(self) -> int | None:
        """The last position, or None for an empty log."""
        last: int | None
        ((last,),) = self.fetch_now("SELECT max(notification_id) FROM stored_events")
        return last

    def max_tracking_id(self, application_name: str) -> int | None:
        """How far a subscriber has come, or None."""
        rows = self.fetch_now(
            "SELECT notification_id FROM tracking WHERE application_name = :name",
            {"name": application_name},
        )
        return rows[0][0] if rows else None

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Events after position `gt` as they are committed, by whichever process."""
        return LogSubscription(self, gt, topics, self.watch())

    @abstractmethod
    async def fetch(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        heavy: bool = False,
        search: bool = False,
        scan: bool = False,
    ) -> list[tuple[Any, ...]]:
        """Rows of a query whose parameters are written `:name`, on either database.

        `heavy` says that the query reads many rows, and never holds up the event loop; `search`
        that it reads many more than it gives; `scan` that nothing bounds how many. Each has
        connections of its own, and few, so that others need not wait for them. A caller that is
        cancelled ends its query. Raises ReadTooLong.
        """

    @abstractmethod
    def fetch_now(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """The same, synchronously, for tools."""

    @abstractmethod
    def snapshot(self, tables: Sequence[Table] = ()) -> AbstractContextManager[Fetch]:
        """What is in the database at one moment: a `fetch_now` whose answers all fit together.

        On a connection of its own; it blocks nobody who writes. `tables` names the query tables
        that will be read, which are not put in another's place meanwhile.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Raises LogUnavailable when the database does not answer, or takes no writes."""

    async def trouble(self) -> str | None:
        """Why this process cannot work with its log now, or None; known within `late_seconds`.

        Known from the writes that wait and by those that failed, and by asking the database.
        """
        if trouble := self._health.trouble(self.waiting_since):
            return trouble
        asking = self._asking
        if asking is None or asking.done():
            asking = self._asking = asyncio.create_task(self.ping())
        # One question for all callers, and not cancelled: a late answer is an answer.
        done, _ = await asyncio.wait((asking,), timeout=self._options.late_seconds)
        if not done:
            return f"no answer within {self._options.late_seconds:g} seconds"
        error = asking.exception()
        return None if error is None else str(error)

    @abstractmethod
    def watch(self) -> CommitWatch:
        """Tells one thread when something was committed, by whichever process."""

    # ---- transactions beside the log ----

    async def transact(self, name: str, work: Callable[[Fetch], Result]) -> Result:
        """What `work(fetch)` returns, all of whose statements are one transaction.

        Of one name one transaction runs at a time, over all processes, and sees what those before
        it have written. `work` runs once, in a thread, and must be short: on SQLite nothing else
        is written meanwhile. What it raises undoes it and passes through. Raises LogUnavailable
        when the database is away, or the name is not free for ten seconds; whether it was written
        is then unknown, so `work` must be something that can be repeated. For the service's own
        records of what it has done; events are written by `submit`.
        """
        # A caller that waits for its turn in this process takes up no thread.
        turn = self._turns.get(name)
        if turn is None:
            turn = self._turns[name] = asyncio.Lock()
        async with turn:
            return await self._transact(name, work)

    @abstractmethod
    async def _transact(self, name: str, work: Callable[[Fetch], Result]) -> Result:
        """The same, where other callers in this process are waited for already."""

    @abstractmethod
    def forget_tracking(self, prefix: str) -> None:
        """Forgets how far the subscribers have come whose names start with `prefix`."""

    # ---- leases ----

    @abstractmethod
    async def hold_lease(self, name: str, holder: str, seconds: float) -> int | None:
        """Takes or renews a lease; its epoch, or None while somebody else holds it.

        The epoch grows with each change of holder. Time is the database's; on SQLite the monotonic
        one of the machine, so a lease that an earlier boot has left is over.
        """

    @abstractmethod
    async def release_lease(self, name: str, holder: str) -> None:
        """Gives a lease back; no change unless `holder` holds it."""

    @abstractmethod
    async def live_leases(self, prefix: str) -> set[str]:
        """The holders of unexpired leases whose names start with `prefix`."""

    # ---- tables ----

    def unsuitable(self) -> str | None:
        """Which setting `log.*` does not fit the way to the database, and the fix; None if all do.

        Raises LogUnavailable when the database cannot be reached.
        """
        return None

    @abstractmethod
    def migrate(self) -> list[str]:
        """Applies the migrations that are not applied yet; says which. Safe in many processes."""

    @abstractmethod
    def pending_migrations(self) -> list[str]:
        """The migrations that `migrate` would apply."""

    @abstractmethod
    def missing_tables(self, tables: Sequence[Table]) -> list[str]:
        """The names of the query tables that `create_tables` would create."""

    def missing_rights(self) -> list[str]:
        """What serving needs and the database's user may not, each as `INSERT on leases`."""
        return []

    @abstractmethod
    def create_tables(self, tables: Sequence[Table]) -> None:
        """Creates the query tables that do not exist. Safe in many processes."""

    @abstractmethod
    def succeed(self, successions: Sequence[Succession]) -> list[str]:
        """Makes and fills the tables that are not there but whose former ones are, and drops these.

        One transaction in which nobody can append. A process of an older version that still runs
        can write no more, as it finds its tables gone: no change is acknowledged without its rows.
        Names the tables that were made.
        """

    @abstractmethod
    def refill(self, table: Table, rows: Callable[[int], Sequence[tuple[Any, ...]]]) -> None:
        """From now on the table holds exactly the rows that `rows(head)` gives; made if need be.

        `head` is the last position of the log (0: empty). Nobody can append until this returns,
        so `rows` must be quick.
        """

    def table_bytes(self, table: Table) -> int | None:
        """What the table and its indexes take on disk; None where the database cannot tell."""

    @abstractmethod
    def table_set(
        self, tables: Sequence[Table], generation: int, *, gentle: bool = True
    ) -> TableSet:
        """A second set of these tables, to be filled and put in their place; close it.

        `gentle` leaves room for other writers where only one can write at a time.
        """

    # ---- the end ----

    def close_now(self) -> None:
        """Writes what waits, then closes every connection; blocks until done."""
        self.end()

    async def close(self) -> None:
        """The same without blocking the event loop."""
        await asyncio.to_thread(self.close_now)


def _originator(stored: UUID | str) -> UUID | str:
    """The id of an aggregate, which SQLite stores as text."""
    try:
        return stored if isinstance(stored, UUID) else UUID(stored)
    except ValueError:
        return stored
