"""The event log in one SQLite file, shared by all processes of a machine.

WAL with synchronous=FULL: readers never wait, and what is acknowledged survives a power loss. Point
queries run on the event loop's thread, because they take less time than handing them to another.
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from calotype.stores.log.append import Append, Outcome
from calotype.stores.log.errors import LogUnavailable
from calotype.stores.log.options import LogOptions
from calotype.stores.log.recorder import GroupCommitRecorder, Result
from calotype.stores.log.sqlite.changes import write_append, write_change
from calotype.stores.log.sqlite.commits import PollingWatch
from calotype.stores.log.sqlite.connections import Deadline, ThreadConnections, fetch_on
from calotype.stores.log.sqlite.leases import HOLD, LIVES, clock
from calotype.stores.log.sqlite.reserve import NO_SPACE, Reserve, is_damage, is_full
from calotype.stores.log.sqlite.table_sets import CACHE_KILOBYTES, SQLiteTableSet
from calotype.stores.log.sqlite.tables import (
    BYTES,
    create_migrations_table,
    create_table,
    is_applied,
    pending,
    succeed,
)
from calotype.stores.log.statements import Fetch
from calotype.stores.log.subscription import CommitWatch
from calotype.stores.log.table_sets import TableSet
from calotype.stores.log.tables import Put, Succession, Table


class SQLiteRecorder(GroupCommitRecorder):
    """Appends to and reads from one SQLite file; see GroupCommitRecorder for the promises."""

    CLOCK = "((julianday('now') - 2440587.5) * 86400.0)"

    def __init__(self, path: str, options: LogOptions, *, only_aggregates: bool = False) -> None:
        super().__init__(options, only_aggregates=only_aggregates)
        self._path = path
        self._name = Path(path).name
        self._reserve = Reserve(path, options.reserve_bytes)
        self._damage: str | None = None
        self._connections = ThreadConnections(
            path, busy_seconds=options.batch_seconds, make_room=self._reserve.spend
        )
        self._read_seconds = options.longest_read_seconds
        # One as well: rows go through the interpreter's lock one by one. Several threads give no
        # more of them, and keep the event loop waiting for that lock, 5 ms for each.
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="log-reader")
        self._scanners = ThreadPoolExecutor(
            options.scan_connections, thread_name_prefix="log-scanner"
        )
        # One, because they would wait for each other anyway.
        self._transactions = ThreadPoolExecutor(1, thread_name_prefix="log-transaction")
        self.commits = threading.Condition()

    # ---- appending ----

    def _write_batch(self, batch: list[Append]) -> list[tuple[Append, Outcome]]:
        outcomes: list[tuple[Append, Outcome]] = []
        if self._is_full():
            outcomes = [(one, LogUnavailable(NO_SPACE)) for one in batch if not one.makes_room]
            batch = [append for append in batch if append.makes_room]
        while batch:
            written: list[tuple[Append, Outcome]] = []
            try:
                with self._connections.transaction() as connection:
                    position = _last_position(connection)
                    for append in batch:
                        outcome = write_append(connection, append, position)
                        written.append((append, outcome))
                        if isinstance(outcome, list):
                            position += len(outcome)
                outcomes += written
                break
            except (sqlite3.Error, LogUnavailable) as error:
                # Nothing of the batch is there: the disk is full, say, or the file is gone.
                self._note_damage(error)
                failure = LogUnavailable(f"cannot write to {self._name}: {error}")
                again = [append for append in batch if append.makes_room]
                if not is_full(error) or not again or not self._reserve.spend():
                    again = []
                outcomes += [(append, failure) for append in batch if append not in again]
                batch = again
        with self.commits:
            self.commits.notify_all()
        return outcomes

    def _is_full(self) -> bool:
        return os.path.exists(self._reserve.spent)

    def _note_damage(self, error: BaseException) -> None:
        if is_damage(error):
            # It does not mend itself, and what still can be written says nothing about the rest.
            self._damage = f"{self._name} is damaged: {error}; put a copy in its place"

    def _close_writer(self) -> None:
        pass  # `close_now` closes every connection.

    # ---- reading ----

    def forget_tracking(self, prefix: str) -> None:
        self._write_now(
            "DELETE FROM tracking WHERE substr(application_name, 1, length(:prefix)) = :prefix",
            {"prefix": prefix},
        )

    async def fetch(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        heavy: bool = False,
        search: bool = False,
        scan: bool = False,
    ) -> list[tuple[Any, ...]]:
        if not heavy and not search and not scan:
            return self.fetch_now(sql, parameters)
        threads = self._scanners if scan else self._readers
        deadline = Deadline(self._read_seconds)
        select = self._connections.select_until
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(threads, select, deadline, sql, parameters or {})
        except asyncio.CancelledError:
            deadline.forsake()
            raise

    def fetch_now(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        return self._connections.select(sql, parameters or {})

    def snapshot(self, tables: Sequence[Table] = ()) -> AbstractContextManager[Fetch]:
        return self._connections.snapshot()

    async def ping(self) -> None:
        if trouble := self._damage or (NO_SPACE if self._is_full() else None):
            raise LogUnavailable(trouble)
        self._connections.select("SELECT 1", {})

    def watch(self) -> CommitWatch:
        return PollingWatch(self.fetch_now, self.commits)

    # ---- transactions beside the log ----

    async def _transact(self, name: str, work: Callable[[Fetch], Result]) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._transactions, self._transact_now, work)

    def _transact_now(self, work: Callable[[Fetch], Result]) -> Result:
        try:
            with self._connections.transaction() as connection:
                return work(fetch_on(connection))
        except sqlite3.OperationalError as error:
            raise LogUnavailable(f"cannot write to {self._name}: {error}") from None

    # ---- leases ----

    async def hold_lease(self, name: str, holder: str, seconds: float) -> int | None:
        return await asyncio.to_thread(self._hold_lease, name, holder, seconds)

    def _hold_lease(self, name: str, holder: str, seconds: float) -> int | None:
        self._reserve.fill()
        rows = self._write_now(HOLD, {"name": name, "holder": holder, "seconds": seconds})
        return rows[0][0] if rows else None

    async def release_lease(self, name: str, holder: str) -> None:
        await asyncio.to_thread(
            self._write_now,
            "UPDATE leases SET expires_at = 0 WHERE name = :name AND holder = :holder",
            {"name": name, "holder": holder},
        )

    def _write_now(self, sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with self._health.writing():
            while True:
                try:
                    with self._connections.transaction() as connection:
                        # Read under the lock, so that no earlier time overtakes a later one.
                        return connection.execute(sql, {**values, **clock()}).fetchall()
                except (sqlite3.Error, LogUnavailable) as error:
                    self._note_damage(error)
                    # Who is alive must be known on a full disk too, or uploads would be given up.
                    if not is_full(error) or not self._reserve.spend():
                        raise LogUnavailable(f"cannot write to {self._name}: {error}") from None

    async def live_leases(self, prefix: str) -> set[str]:
        rows = self._connections.select(
            "SELECT holder FROM leases WHERE substr(name, 1, length(:prefix)) = :prefix "
            f"AND {LIVES}",
            {"prefix": prefix, **clock()},
        )
        return {row[0] for row in rows}

    # ---- tables ----

    def migrate(self) -> list[str]:
        applied = []
        for name, sql in pending(self.fetch_now):
            with self._connections.transaction() as connection:
                create_migrations_table(connection)
                if is_applied(connection, name):
                    continue
                for statement in sql.split(";\n"):
                    connection.execute(statement)
                connection.execute("INSERT INTO migrations (name) VALUES (?)", (name,))
            applied.append(name)
        return applied

    def pending_migrations(self) -> list[str]:
        return [name for name, _ in pending(self.fetch_now)]

    def missing_tables(self, tables: Sequence[Table]) -> list[str]:
        rows = self.fetch_now("SELECT name FROM sqlite_master WHERE type = 'table'")
        there = {name for (name,) in rows}
        return [table.name for table in tables if table.name not in there]

    def create_tables(self, tables: Sequence[Table]) -> None:
        with self._connections.transaction() as connection:
            for table in tables:
                create_table(connection, table)

    def succeed(self, successions: Sequence[Succession]) -> list[str]:
        with self._connections.transaction() as connection:
            return succeed(connection, successions)

    def table_bytes(self, table: Table) -> int | None:
        try:
            rows = self.fetch_now(BYTES, {"name": table.name})
        except LogUnavailable:
            return None  # This SQLite was built without `dbstat`.
        size: int | None = rows[0][0]
        return size

    def table_set(
        self, tables: Sequence[Table], generation: int, *, gentle: bool = True
    ) -> TableSet:
        own = ThreadConnections(self._path, cache_kilobytes=CACHE_KILOBYTES, durable=False)
        return SQLiteTableSet(own, tables, generation, gentle=gentle)

    def refill(self, table: Table, rows: Callable[[int], Sequence[tuple[Any, ...]]]) -> None:
        with self._connections.transaction() as connection:
            create_table(connection, table)
            held = rows(_last_position(connection))
            connection.execute(f"DELETE FROM {table.name}")
            write_change(connection, Put(table, held))

    def close_now(self) -> None:
        super().close_now()
        self._transactions.shutdown()
        self._readers.shutdown()
        self._scanners.shutdown()
        self._connections.close()


def _last_position(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT max(notification_id) FROM stored_events").fetchone()
    return row[0] or 0
