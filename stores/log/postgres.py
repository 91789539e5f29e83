"""The event log in PostgreSQL, shared by any number of machines.

The writer thread sends a whole batch in one round trip (pipeline mode): lock, events, query rows,
NOTIFY, COMMIT. The lock is held to the commit, so that positions are in commit order; it is an
advisory one, because a table lock would fight with autovacuum. Reads run on the event loop, on a
few connections of their own.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import orjson
import psycopg
from eventsourcing.persistence import IntegrityError, Notification, StoredEvent, Subscription
from psycopg import errors

from calotype.stores.log.postgres_reading import AsyncReads, unavailable
from calotype.stores.log.recorder import (
    Append,
    GroupCommitRecorder,
    LogUnavailable,
    Outcome,
    conflict,
    split_conflicts,
)
from calotype.stores.log.statements import migrations, numbered
from calotype.stores.log.subscription import LogSubscription
from calotype.stores.log.tables import POSTGRESQL_TYPES, Table, merged, table_ddl

CHANNEL = "calotype_log"
RECONNECT_SECONDS = (0.0, 0.1, 0.3, 1.0, 2.0)
"""Pauses before each attempt to reach a database that went away."""

_LOCK = "SELECT pg_advisory_xact_lock('stored_events'::regclass::oid::bigint)"
_INSERT_EVENTS = """
INSERT INTO stored_events (originator_id, originator_version, topic, state, notification_id)
SELECT e.originator_id, e.originator_version, e.topic, e.state,
       coalesce((SELECT max(notification_id) FROM stored_events), 0) + e.n
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[])
     WITH ORDINALITY AS e (originator_id, originator_version, topic, state, n)
RETURNING notification_id
"""
_TAKEN = """
SELECT s.originator_id, s.originator_version, s.state, s.notification_id
FROM unnest($1::uuid[], $2::bigint[]) AS e (originator_id, originator_version)
JOIN stored_events s USING (originator_id, originator_version)
"""
_TRACK = (
    "INSERT INTO tracking AS t (application_name, notification_id) VALUES ($1, $2) "
    "ON CONFLICT (application_name) DO UPDATE SET notification_id = excluded.notification_id "
    "WHERE t.notification_id < excluded.notification_id"
)
_HOLD = (
    "INSERT INTO leases AS l (name, holder, epoch, expires_at) "
    "VALUES (:name, :holder, 1, clock_timestamp() + make_interval(secs => :seconds::float8)) "
    "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, "
    "expires_at = excluded.expires_at, "
    "epoch = l.epoch + (l.holder <> excluded.holder)::int "
    "WHERE l.holder = excluded.holder OR l.expires_at < clock_timestamp() RETURNING epoch"
)


class PostgresRecorder(GroupCommitRecorder):
    """Appends to and reads from a PostgreSQL database; see GroupCommitRecorder."""

    def __init__(self, url: str, *, queue_limit: int = 4096, only_aggregates: bool = False) -> None:
        super().__init__(queue_limit=queue_limit, only_aggregates=only_aggregates)
        self._url = url
        self._writing: psycopg.Connection[Any] | None = None
        self._tool: psycopg.Connection[Any] | None = None
        self._tool_lock = threading.Lock()
        self._reads = AsyncReads(url)

    def _connect(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(
                self._url,
                autocommit=True,
                cursor_factory=psycopg.RawCursor,
                prepare_threshold=1,
                connect_timeout=10,
                application_name="calotype",
            )
        except psycopg.Error as error:
            raise unavailable(error, self._url) from None

    # ---- appending ----

    def _write_batch(self, batch: list[Append]) -> list[tuple[Append, Outcome]]:
        ready, outcomes = split_conflicts(batch)
        doubtful = False
        for pause_seconds in RECONNECT_SECONDS:
            time.sleep(pause_seconds)
            try:
                if doubtful:
                    found = self._already_written(ready)
                    outcomes += found
                    written = {id(append) for append, _ in found}
                    ready = [append for append in ready if id(append) not in written]
                    doubtful = False
                return outcomes + self._write_each_or_all(ready)
            except (psycopg.OperationalError, psycopg.InterfaceError, LogUnavailable) as error:
                # Perhaps the commit happened and only its reply was lost.
                doubtful = True
                failure = unavailable(error, self._url)
                self._close_writer()
        return outcomes + [(append, failure) for append in ready]

    def _write_each_or_all(self, ready: list[Append]) -> list[tuple[Append, Outcome]]:
        """One transaction for all, as long as nobody spoils it for the others."""
        outcomes: list[tuple[Append, Outcome]] = []
        while ready:
            try:
                return outcomes + self._write_transaction(ready)
            except errors.UniqueViolation:
                taken = {key for key, _, _ in self._standing(ready)}
                lost = [a for a in ready if taken & {_key(event) for event in a.events}]
                if not lost:
                    break
                outcomes += [(append, conflict(append)) for append in lost]
                ready = [append for append in ready if append not in lost]
            except (psycopg.OperationalError, psycopg.InterfaceError, LogUnavailable):
                raise
            except (psycopg.Error, IntegrityError) as error:
                if len(ready) == 1:
                    return [*outcomes, (ready[0], error)]
                break
        if len(ready) == 1:
            return [*outcomes, (ready[0], IntegrityError("a query table refused the rows"))]
        for append in ready:
            outcomes += self._write_each_or_all([append])
        return outcomes

    def _write_transaction(self, ready: list[Append]) -> list[tuple[Append, Outcome]]:
        if self._writing is None or self._writing.closed:
            self._writing = self._connect()
        connection = self._writing
        try:
            with connection.pipeline():
                connection.execute("BEGIN")
                connection.execute(_LOCK)
                inserted = self._send_events(connection, ready)
                tracked = self._send_tracking(connection, ready)
                _send_rows(connection, ready)
                connection.execute(f"NOTIFY {CHANNEL}")
                if not tracked:
                    connection.execute("COMMIT")
            if tracked:
                if any(cursor.rowcount == 0 for cursor in tracked):
                    raise IntegrityError("a subscriber has come further already")
                connection.execute("COMMIT")
        except BaseException:
            with suppress(psycopg.Error):
                connection.execute("ROLLBACK")
            raise
        position = min((row[0] for row in inserted.fetchall()), default=0) if inserted else 0
        outcomes: list[tuple[Append, Outcome]] = []
        for append in ready:
            count = len(append.events)
            outcomes.append((append, list(range(position, position + count))))
            position += count
        return outcomes

    def _send_events(
        self, connection: psycopg.Connection[Any], ready: list[Append]
    ) -> psycopg.Cursor[Any] | None:
        events = [event for append in ready for event in append.events]
        if not events:
            return None
        return connection.execute(
            _INSERT_EVENTS,
            [
                [event.originator_id for event in events],
                [event.originator_version for event in events],
                [event.topic for event in events],
                [event.state for event in events],
            ],
        )

    def _send_tracking(
        self, connection: psycopg.Connection[Any], ready: list[Append]
    ) -> list[psycopg.Cursor[Any]]:
        return [
            connection.execute(
                _TRACK, [append.tracking.application_name, append.tracking.notification_id]
            )
            for append in ready
            if append.tracking is not None
        ]

    def _standing(self, ready: Sequence[Append]) -> list[tuple[tuple[Any, int], bytes, int]]:
        """Which of these events' versions are in the log: `(key, state, position)`."""
        if self._writing is None or self._writing.closed:
            self._writing = self._connect()
        events = [event for append in ready for event in append.events]
        with self._writing.transaction():
            # Waits for a writer whose connection broke but whose commit is still on its way.
            self._writing.execute(_LOCK)
            rows = self._writing.execute(
                _TAKEN,
                [
                    [event.originator_id for event in events],
                    [event.originator_version for event in events],
                ],
            ).fetchall()
        return [((row[0], row[1]), bytes(row[2]), row[3]) for row in rows]

    def _already_written(self, ready: list[Append]) -> list[tuple[Append, Outcome]]:
        """The appends that stand in the log, recognised by the command id in their state."""
        standing = {(key, state): position for key, state, position in self._standing(ready)}
        found: list[tuple[Append, Outcome]] = []
        for append in ready:
            positions = [standing.get((_key(event), event.state)) for event in append.events]
            if positions and None not in positions:
                found.append((append, [position for position in positions if position]))
        return found

    def _close_writer(self) -> None:
        if self._writing is not None:
            with suppress(psycopg.Error):
                self._writing.close()
            self._writing = None

    # ---- reading ----

    async def select_events_async(
        self, originator_id: UUID, *, gt: int | None = None
    ) -> list[StoredEvent]:
        rows = await self._reads.fetch(
            "SELECT originator_version, topic, state FROM stored_events "
            "WHERE originator_id = $1 AND originator_version > $2 ORDER BY originator_version",
            [originator_id, -1 if gt is None else gt],
        )
        return [StoredEvent(originator_id, row[0], row[1], row[2]) for row in rows]

    async def fetch(
        self, sql: str, parameters: Mapping[str, Any] | None = None, *, heavy: bool = False
    ) -> list[tuple[Any, ...]]:
        text, names = numbered(sql)
        values = parameters or {}
        return await self._reads.fetch(text, [values[name] for name in names])

    async def ping(self) -> None:
        await self._reads.fetch("SELECT 1", [])

    def fetch_now(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        text, names = numbered(sql)
        values = parameters or {}
        return self._fetch_tool(text, [values[name] for name in names])

    def _fetch_tool(self, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._tool_lock:
            for last_try in (False, True):
                try:
                    if self._tool is None or self._tool.closed:
                        self._tool = self._connect()
                    cursor = self._tool.execute(text, values)
                    return cursor.fetchall() if cursor.description else []
                except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                    if last_try:
                        raise unavailable(error, self._url) from None
        return []

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
        rows = self._fetch_tool(
            "SELECT originator_version, topic, state FROM stored_events WHERE originator_id = $1 "
            "AND originator_version > $2 AND originator_version <= $3 "
            f"ORDER BY originator_version {'DESC' if desc else 'ASC'} LIMIT $4",
            [originator_id, -1 if gt is None else gt, 2**62 if lte is None else lte, limit],
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
    ) -> list[Notification]:
        """Events by position, from `start` to `stop`, at most `limit`."""
        rows = self._fetch_tool(
            "SELECT notification_id, originator_id, originator_version, topic, state "
            "FROM stored_events WHERE notification_id >= $1 AND notification_id <= $2 "
            f"{'AND topic = ANY($4::text[]) ' if topics else ''}"
            "ORDER BY notification_id LIMIT $3",
            [
                (start or 0) + (0 if inclusive_of_start or start is None else 1),
                2**62 if stop is None else stop,
                limit,
                *([list(topics)] if topics else []),
            ],
        )
        return [
            Notification(
                id=row[0],
                originator_id=row[1],
                originator_version=row[2],
                topic=row[3],
                state=bytes(row[4]),
            )
            for row in rows
        ]

    def max_notification_id(self) -> int | None:
        """The last position, or None for an empty log."""
        return self._fetch_tool("SELECT max(notification_id) FROM stored_events", [])[0][0]

    def max_tracking_id(self, application_name: str) -> int | None:
        """How far a subscriber came, or None."""
        rows = self._fetch_tool(
            "SELECT notification_id FROM tracking WHERE application_name = $1", [application_name]
        )
        return rows[0][0] if rows else None

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription["PostgresRecorder"]:
        """Events after position `gt` as they come, from any process."""
        return LogSubscription(self, gt, topics, _CommitWatch(self))

    # ---- leases ----

    async def hold_lease(self, name: str, holder: str, seconds: float) -> int | None:
        rows = await self.fetch(_HOLD, {"name": name, "holder": holder, "seconds": seconds})
        return rows[0][0] if rows else None

    async def release_lease(self, name: str, holder: str) -> None:
        await self.fetch(
            "UPDATE leases SET expires_at = '-infinity' WHERE name = :name AND holder = :holder",
            {"name": name, "holder": holder},
        )

    async def live_leases(self, prefix: str) -> set[str]:
        rows = await self.fetch(
            "SELECT holder FROM leases WHERE starts_with(name, :prefix) "
            "AND expires_at >= clock_timestamp()",
            {"prefix": prefix},
        )
        return {row[0] for row in rows}

    # ---- tables ----

    def migrate(self) -> list[str]:
        applied = []
        with self._connect() as connection, connection.transaction():
            _lock_schema(connection)
            connection.execute("CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY)")
            done = {row[0] for row in connection.execute("SELECT name FROM migrations")}
            for name, sql in migrations("postgresql"):
                if name not in done:
                    connection.execute(sql)
                    connection.execute("INSERT INTO migrations VALUES ($1)", [name])
                    applied.append(name)
        return applied

    def pending_migrations(self) -> list[str]:
        known = self._fetch_tool("SELECT to_regclass('migrations') IS NOT NULL", [])[0][0]
        done = (
            {row[0] for row in self._fetch_tool("SELECT name FROM migrations", [])} if known else {}
        )
        return [name for name, _ in migrations("postgresql") if name not in done]

    def create_tables(self, tables: Sequence[Table]) -> None:
        with self._connect() as connection, connection.transaction():
            _lock_schema(connection)
            for table in tables:
                for statement in table_ddl(table, POSTGRESQL_TYPES):
                    connection.execute(statement)

    def close_now(self) -> None:
        super().close_now()
        self._reads.close()
        with self._tool_lock:
            if self._tool is not None:
                self._tool.close()


class _CommitWatch:
    """Tells by LISTEN when something was committed anywhere."""

    SLICE_SECONDS = 0.1

    def __init__(self, recorder: PostgresRecorder) -> None:
        self._recorder = recorder
        self._connection: psycopg.Connection[Any] | None = None
        self._woken = threading.Event()

    def mark(self) -> None:
        """Listens from now on. Raises LogUnavailable."""
        if self._connection is None or self._connection.closed:
            connection = self._recorder._connect()
            connection.execute(f"LISTEN {CHANNEL}")
            self._connection = connection

    def wait(self, mark: None, seconds: float) -> None:
        """Returns on a notification, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._woken.is_set():
            try:
                assert self._connection is not None
                if list(self._connection.notifies(timeout=self.SLICE_SECONDS, stop_after=1)):
                    return
            except psycopg.Error:
                self.close()
                return

    def wake(self) -> None:
        """Ends a wait early."""
        self._woken.set()

    def close(self) -> None:
        """Closes the listening connection."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()


def _send_rows(connection: psycopg.Connection[Any], ready: Sequence[Append]) -> None:
    """The query rows of a batch: at most two statements a table."""
    for table, owners in merged([append.changes for append in ready]).items():
        single = table.key == (table.owner,)
        rows = [row for rows in owners.values() for row in rows]
        emptied = [owner for owner, kept in owners.items() if not (single and kept)]
        if emptied:
            connection.execute(
                f"DELETE FROM {table.name} WHERE {table.owner} = ANY($1::uuid[])", [emptied]
            )
        if rows:
            names = [column.name for column in table.columns]
            records = [dict(zip(names, row, strict=True)) for row in rows]
            connection.execute(_insert_statement(table), [orjson.dumps(records).decode()])


def _insert_statement(table: Table) -> str:
    names = ", ".join(column.name for column in table.columns)
    kinds = ", ".join(
        f"{column.name} {POSTGRESQL_TYPES[column.kind].partition(' ')[0]}"
        for column in table.columns
    )
    statement = (
        f"INSERT INTO {table.name} ({names}) "
        f"SELECT {names} FROM json_to_recordset($1::json) AS r ({kinds})"
    )
    if table.key != (table.owner,):
        return statement
    updates = ", ".join(
        f"{column.name} = excluded.{column.name}"
        for column in table.columns
        if column.name not in table.key
    )
    return f"{statement} ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {updates}"


def _key(event: StoredEvent) -> tuple[Any, int]:
    return event.originator_id, event.originator_version


def _lock_schema(connection: psycopg.Connection[Any]) -> None:
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('calotype schema'))")
