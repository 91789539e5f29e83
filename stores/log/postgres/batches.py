"""How a batch of appends is written to PostgreSQL: in one round trip, and each to its own fate.

The ordinary case is one transaction sent as a whole. Everything else here is for what goes wrong:
a version that is taken, an append that the database refuses, a connection that dies after COMMIT.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import orjson
import psycopg
from eventsourcing.persistence import IntegrityError, StoredEvent
from psycopg import errors

from calotype.stores.log.append import Append, Outcome, conflict, without_rivals
from calotype.stores.log.errors import Fenced, LogUnavailable
from calotype.stores.log.limits import bounded, refusals
from calotype.stores.log.postgres.connecting import Connection, Database, is_trouble
from calotype.stores.log.postgres.listening import NOTIFY
from calotype.stores.log.tables import (
    POSTGRESQL_TYPES,
    Change,
    Count,
    Table,
    adding,
    merged,
    on_conflict,
)

RECONNECT_SECONDS = (0.0, 0.1, 0.3, 1.0, 2.0)
"""Pauses before each attempt to reach a database that went away."""

# The level is said, because a snapshot taken before the lock would give out positions twice.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
APPEND_LOCK = "SELECT pg_advisory_xact_lock('stored_events'::regclass::oid::bigint)"
_INSERT_EVENTS = """
INSERT INTO stored_events (originator_id, originator_version, topic, state, notification_id)
SELECT e.originator_id, e.originator_version, e.topic, e.state,
       coalesce((SELECT max(notification_id) FROM stored_events), 0) + e.n
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[])
     WITH ORDINALITY AS e (originator_id, originator_version, topic, state, n)
RETURNING notification_id
"""
_STANDING = """
SELECT s.originator_id, s.originator_version, s.state, s.notification_id
FROM unnest($1::uuid[], $2::bigint[]) AS e (originator_id, originator_version)
JOIN stored_events s USING (originator_id, originator_version)
"""
_TRACK = (
    "INSERT INTO tracking AS t (application_name, notification_id) VALUES ($1, $2) "
    "ON CONFLICT (application_name) DO UPDATE SET notification_id = excluded.notification_id "
    "WHERE t.notification_id < excluded.notification_id"
)
# Shared, so that whoever takes the lease over waits until this transaction is over.
STANDS = "SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE"
# The server ends sessions that hang with the lock, and those that wait for it and were given up.
# Whatever a role's own settings are, only our clock ends a batch that goes on.
_LIMITS = (
    "SELECT set_config('statement_timeout', '0', {local}), "
    "set_config('lock_timeout', '{milliseconds}', {local}), "
    "set_config('idle_in_transaction_session_timeout', '{milliseconds}', {local})"
)
# Something in the write-ahead log: only a transaction that wrote waits for the standby. What is
# read before it would be lost with the server if that was cut off from its standby already.
_LASTING = "SELECT pg_logical_emit_message(true, 'calotype', 'settled')"
_TRACKED = "SELECT application_name, notification_id FROM tracking WHERE application_name = ANY($1)"


class BatchWriter:
    """Owns the connection of the writer's thread; connects on first use and again when needed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._warnings: list[str] = []

    def write(self, batch: list[Append]) -> list[tuple[Append, Outcome]]:
        """Writes every append or says why not; never raises for what one of them holds."""
        outcomes: list[tuple[Append, Outcome]] = []
        while batch:
            distinct, batch = without_rivals(batch)
            outcomes += self._write_in_spite_of_trouble(distinct)
        return outcomes

    def close(self) -> None:
        """Closes the connection; the next write opens another."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _connected(self) -> Connection:
        """A connection on which the next transaction has its time to end."""
        if self._connection is None or self._connection.closed:
            self._connection = self._database.connect()
            self._connection.add_notice_handler(self._note)
            if self._keeps_session:
                self._restart_clock(self._connection)
                self._connection.execute(self._limits)
        self._restart_clock(self._connection)
        return self._connection

    @property
    def _keeps_session(self) -> bool:
        return self._database.options.prepared_statements

    @property
    def _limits(self) -> str:
        """Time-outs for the session, or for one transaction where no session is kept."""
        milliseconds = round(self._database.options.batch_seconds * 1000)
        return _LIMITS.format(milliseconds=milliseconds, local=not self._keeps_session)

    def _restart_clock(self, connection: Connection) -> None:
        self._warnings.clear()
        connection.until = time.monotonic() + self._database.options.batch_seconds

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warnings.append(notice.message_primary or "")

    def _check_committed(self) -> None:
        """Raises LogUnavailable for a COMMIT that the server reports as done with a warning.

        Somebody has cut short its wait for the standby.
        """
        if self._warnings:
            raise LogUnavailable(f"the commit is in doubt: {self._warnings[0]}")

    def _write_in_spite_of_trouble(self, ready: list[Append]) -> list[tuple[Append, Outcome]]:
        outcomes: list[tuple[Append, Outcome]] = []
        doubtful = False
        last_try_at = time.monotonic() + 2 * self._database.options.batch_seconds
        for pause_seconds in RECONNECT_SECONDS:
            if doubtful and time.monotonic() > last_try_at:
                break
            time.sleep(pause_seconds)
            try:
                if doubtful:
                    outcomes += (found := self._already_written(ready))
                    written = {id(append) for append, _ in found}
                    ready = [append for append in ready if id(append) not in written]
                return outcomes + (self._write_together(ready) if ready else [])
            except Exception as error:
                if not is_trouble(error, self._connection):
                    raise
                failure = self._database.unavailable(error)
                doubtful = True  # Perhaps the commit happened and only its reply was lost.
                self.close()
        return outcomes + [(append, failure) for append in ready]

    def _write_together(self, ready: list[Append]) -> list[tuple[Append, Outcome]]:
        """One transaction for all, as long as nobody spoils it for the others."""
        try:
            return self._write_transaction(ready)
        except Exception as error:
            if is_trouble(error, self._connection):
                raise
            failure = error
        if _is_version_conflict(failure):
            taken = {key for key, _, _ in self._standing(ready)}
            lost = [a for a in ready if taken.intersection(map(_key, a.events))]
            if len(ready) == 1 or len(lost) == len(ready):
                return [(append, conflict(append)) for append in ready]
            if lost:
                kept = [a for a in ready if not taken.intersection(map(_key, a.events))]
                return [(append, conflict(append)) for append in lost] + self._write_together(kept)
        if len(ready) == 1:
            return [(ready[0], failure)]
        return [outcome for append in ready for outcome in self._write_together([append])]

    def _write_transaction(self, ready: list[Append]) -> list[tuple[Append, Outcome]]:
        connection = self._connected()
        refused: list[tuple[Append, Outcome]] = []
        try:
            with connection.pipeline():
                connection.execute(_BEGIN)
                if not self._keeps_session:
                    connection.execute(self._limits)
                connection.execute(APPEND_LOCK)
                if bounded(ready):
                    refused = _over_limits(connection, ready)
                    losers = {id(append) for append, _ in refused}
                    ready = [append for append in ready if id(append) not in losers]
                inserted = _send_events(connection, ready)
                fences = [
                    connection.execute(STANDS, [fence.lease, fence.epoch])
                    for append in ready
                    if (fence := append.fence) is not None
                ]
                tracked = [
                    connection.execute(_TRACK, [moved.application_name, moved.notification_id])
                    for append in ready
                    if (moved := append.tracking) is not None
                ]
                send_rows(connection, [append.changes for append in ready])
                connection.execute(NOTIFY)
                if not tracked and not fences:
                    connection.execute("COMMIT")
            if tracked or fences:
                if any(cursor.rowcount == 0 for cursor in fences):
                    raise Fenced("the lease that this append rests on has another holder")
                if any(cursor.rowcount == 0 for cursor in tracked):
                    raise IntegrityError("a subscriber has come further already")
                connection.execute("COMMIT")
            self._check_committed()
        except BaseException:
            with suppress(psycopg.Error):
                connection.rollback()  # Which also forgets what was to be prepared and was not.
            raise
        position = min((row[0] for row in inserted.fetchall()), default=0) if inserted else 0
        outcomes = refused
        for append in ready:
            count = len(append.events)
            outcomes.append((append, list(range(position, position + count))))
            position += count
        return outcomes

    def _standing(
        self, ready: Sequence[Append], *, lasting: bool = False
    ) -> list[tuple[tuple[Any, int], bytes, int]]:
        """Which of these events' versions are in the log: `(key, state, position)`."""
        events = [event for append in ready for event in append.events]
        rows = self._select(
            _STANDING,
            [
                [event.originator_id for event in events],
                [event.originator_version for event in events],
            ],
            lasting=lasting,
        )
        return [((row[0], row[1]), bytes(row[2]), row[3]) for row in rows]

    def _select(
        self, sql: str, values: list[Any], *, lasting: bool = False
    ) -> list[tuple[Any, ...]]:
        """Reads under the lock, so after a commit whose connection broke while it was on its way.

        The lock is a statement of its own: the one after it sees what was committed before. What
        it read `lasting` is as safe as a commit that was acknowledged.
        """
        connection = self._connected()
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            if not self._keeps_session:
                connection.execute(self._limits)
            connection.execute(APPEND_LOCK)
            rows = connection.execute(sql, values).fetchall()
            if lasting:
                connection.execute(_LASTING)
        self._check_committed()
        return rows

    def _already_written(self, ready: list[Append]) -> list[tuple[Append, Outcome]]:
        """The appends that stand in the log, recognised by the command id in their state.

        Those that only move a subscriber forward are recognised by where the subscriber is.
        """
        standing = {
            (key, state): position for key, state, position in self._standing(ready, lasting=True)
        }
        moves = {
            id(append): append.tracking
            for append in ready
            if append.tracking is not None and not append.events
        }
        goals = {move.application_name: move.notification_id for move in moves.values()}
        reached = dict(self._select(_TRACKED, [list(goals)], lasting=True)) if goals else {}
        found: list[tuple[Append, Outcome]] = []
        for append in ready:
            positions = [standing.get((_key(event), event.state)) for event in append.events]
            if positions and None not in positions:
                found.append((append, [position for position in positions if position]))
            elif id(append) in moves:
                # The furthest of ours is where the subscriber is: so all of ours were done.
                name = moves[id(append)].application_name
                if reached.get(name) == goals[name]:
                    found.append((append, []))
        return found


def _send_events(
    connection: psycopg.Connection[Any], ready: Sequence[Append]
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


def _over_limits(
    connection: psycopg.Connection[Any], ready: Sequence[Append]
) -> list[tuple[Append, Outcome]]:
    """The appends that do not fit under their limits, decided under the lock and in order.

    It costs a round trip, so only batches in which somebody has a limit ask. What rests on an
    old version is a conflict first: whether it fits is to be found out on the newest.
    """
    counters: dict[tuple[Table, Any], tuple[int, ...]] = {}
    keys = {(c.table, c.key) for a in ready for c in a.changes if isinstance(c, Count)}
    for table in {table for table, _ in keys}:
        names = ", ".join(column.name for column in table.columns)
        kind = POSTGRESQL_TYPES[table.columns[0].kind].partition(" ")[0]
        rows = connection.execute(
            f"SELECT {names} FROM {table.name} WHERE {table.key[0]} = ANY($1::{kind}[])",
            [[key for of, key in keys if of is table]],
        ).fetchall()
        counters |= {(table, key): tuple(amounts) for key, *amounts in rows}
    refused = refusals(ready, counters)
    if not refused:
        return []
    events = [event for append, _ in refused for event in append.events]
    ids = [event.originator_id for event in events]
    versions = [event.originator_version for event in events]
    standing = connection.execute(_STANDING, [ids, versions]).fetchall()
    taken = {(row[0], row[1]) for row in standing}
    return [
        (append, over if taken.isdisjoint(map(_key, append.events)) else conflict(append))
        for append, over in refused
    ]


def send_rows(connection: psycopg.Connection[Any], changes: Sequence[Sequence[Change]]) -> None:
    """Sends the query rows of some appends: at most two statements a table.

    Of the rows of an owner only those are written that differ from what is there.
    """
    batch = merged(changes)
    for table, owners in batch.replaced.items():
        single = table.key == (table.owner,)
        rows = [row for rows in owners.values() for row in rows]
        emptied = [owner for owner, kept in owners.items() if not kept]
        if emptied:
            connection.execute(
                f"DELETE FROM {table.name} WHERE {table.owner} = ANY($1::uuid[])", [emptied]
            )
        if rows and single:
            others = [column.name for column in table.columns if column.name not in table.key]
            _send_inserts(connection, table, rows, on_conflict(table, others))
        elif rows:
            kept = [owner for owner, some in owners.items() if some]
            connection.execute(_replacing(table), [_as_json(table, rows), kept])
    for table, keyed in batch.put.items():
        if keyed:
            _send_inserts(connection, table, keyed.values(), on_conflict(table, table.grows))
    for table, sums in batch.counted.items():
        rows = [(key, *amounts) for key, amounts in sums.items() if any(amounts)]
        if rows:
            _send_inserts(connection, table, rows, adding(table))


def _send_inserts(
    connection: psycopg.Connection[Any], table: Table, rows: Iterable[tuple[Any, ...]], action: str
) -> None:
    names = ", ".join(column.name for column in table.columns)
    connection.execute(
        f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {_records(table)} {action}",
        [_as_json(table, rows)],
    )


@lru_cache
def _replacing(table: Table) -> str:
    """The statement after which the owners `$2` have exactly the rows `$1`.

    A row is a version of its own in PostgreSQL, with an entry in every index, even where it is
    written as it was; so what stays the same is left alone.
    """
    names = [column.name for column in table.columns]
    others = [name for name in names if name not in table.key]
    same_key = " AND ".join(f"r.{name} = t.{name}" for name in table.key)
    same = " AND ".join(f"r.{name} IS NOT DISTINCT FROM t.{name}" for name in others)
    return (
        f"WITH r AS MATERIALIZED (SELECT * FROM {_records(table)}), "
        f"gone AS (DELETE FROM {table.name} t WHERE t.{table.owner} = ANY($2::uuid[]) "
        f"AND NOT EXISTS (SELECT 1 FROM r WHERE {same_key})) "
        f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {', '.join(names)} FROM r "
        f"WHERE NOT EXISTS (SELECT 1 FROM {table.name} t WHERE {same_key} AND {same}) "
        f"{on_conflict(table, others)}"
    )


def _records(table: Table) -> str:
    kinds = ", ".join(
        f"{column.name} {POSTGRESQL_TYPES[column.kind].partition(' ')[0]}"
        for column in table.columns
    )
    return f"json_to_recordset($1::json) AS r ({kinds})"


def _as_json(table: Table, rows: Iterable[tuple[Any, ...]]) -> str:
    names = [column.name for column in table.columns]
    return orjson.dumps([dict(zip(names, row, strict=True)) for row in rows]).decode()


def _is_version_conflict(error: BaseException) -> bool:
    return (
        isinstance(error, errors.UniqueViolation)
        and error.diag.constraint_name == "stored_events_pkey"
    )


def _key(event: StoredEvent) -> tuple[Any, int]:
    return event.originator_id, event.originator_version
