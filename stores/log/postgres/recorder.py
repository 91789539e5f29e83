"""The event log in PostgreSQL, shared by any number of machines.

The writer thread sends a whole batch in one round trip (pipeline mode): lock, events, query rows,
NOTIFY, COMMIT. The lock is held to the commit, so that positions are in commit order; it is an
advisory one, because a table lock would fight with autovacuum. Reads run on the event loop, on a
few connections of their own.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from calotype.stores.log.append import Append, Outcome
from calotype.stores.log.errors import LogUnavailable
from calotype.stores.log.options import LogOptions
from calotype.stores.log.postgres.batches import APPEND_LOCK, BatchWriter, send_rows
from calotype.stores.log.postgres.connecting import Connection, Database, Silence, is_trouble
from calotype.stores.log.postgres.listening import Listener
from calotype.stores.log.postgres.reading import PAGE_SETTINGS, AsyncReads
from calotype.stores.log.postgres.table_sets import PostgresTableSet
from calotype.stores.log.postgres.tables import create_table, lock_schema, succeed
from calotype.stores.log.postgres.transactions import NamedTransactions, fetch_on
from calotype.stores.log.recorder import GroupCommitRecorder, Result
from calotype.stores.log.statements import Fetch, bound, migrations
from calotype.stores.log.subscription import CommitWatch
from calotype.stores.log.table_sets import TableSet
from calotype.stores.log.tables import Put, Succession, Table

# A lease that was written before lengths were kept counts as long as it says.
_LIVES = (
    "l.expires_at >= clock_timestamp() AND (l.seconds IS NULL "
    "OR l.expires_at <= clock_timestamp() + make_interval(secs => 2 * l.seconds))"
)
_HOLD = (
    "INSERT INTO leases AS l (name, holder, epoch, expires_at, seconds) VALUES (:name, :holder, 1, "
    "clock_timestamp() + make_interval(secs => :seconds::float8), :seconds::float8) "
    "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, "
    "expires_at = excluded.expires_at, seconds = excluded.seconds, "
    "epoch = l.epoch + (l.holder <> excluded.holder)::int "
    f"WHERE l.holder = excluded.holder OR NOT ({_LIVES}) RETURNING epoch"
)
PAGE_CONNECTIONS, SEARCH_CONNECTIONS = 4, 2
"""How many pages of lists a process reads at the same time, beside the connections of others; and
how many it looks for, each of which keeps a core of the server busy."""

_POOLED = (
    "the database is reached through a pooler that keeps no sessions (PgBouncer in transaction "
    "mode), where statements cannot be prepared and no notification arrives: "
)
_MISSING_RIGHTS = (
    "SELECT c.relname, wanted FROM pg_class log JOIN pg_class c ON c.relnamespace = "
    "log.relnamespace AND c.relowner = log.relowner AND c.relkind = 'r', "
    "unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) wanted "
    "WHERE log.oid = to_regclass('stored_events') AND NOT has_table_privilege(c.oid, wanted) "
    # Events are only ever added; what migrations have written is only read.
    "AND NOT (c.relname = 'stored_events' AND wanted IN ('UPDATE', 'DELETE')) "
    "AND NOT (c.relname IN ('migrations', 'log_identity', 'log_lineage') "
    "AND wanted <> 'SELECT') ORDER BY 1, 2"
)


class PostgresRecorder(GroupCommitRecorder):
    """Appends to and reads from a PostgreSQL database; see GroupCommitRecorder."""

    CLOCK = "extract(epoch FROM clock_timestamp())::float8"

    def __init__(self, url: str, options: LogOptions, *, only_aggregates: bool = False) -> None:
        super().__init__(options, only_aggregates=only_aggregates)
        self._database = Database(url, options)
        self._listening = Database(options.listen_url or url, options)
        self._batches = BatchWriter(self._database)
        self._reads = AsyncReads(self._database)
        self._pages = AsyncReads(self._database, PAGE_CONNECTIONS, PAGE_SETTINGS)
        self._searches = AsyncReads(self._database, SEARCH_CONNECTIONS, PAGE_SETTINGS)
        self._scans = AsyncReads(self._database, options.scan_connections)
        self._transactions = NamedTransactions(self._database)
        self._tool: Connection | None = None
        self._tool_lock = threading.Lock()

    def connect(self) -> Connection:
        """A connection of the caller's own, in autocommit. Raises LogUnavailable."""
        return self._database.connect()

    def unsuitable(self) -> str | None:
        if self._database.shares_sessions():
            if self._options.prepared_statements:
                return (
                    f"log.prepared_statements: {_POOLED}set it to false, and log.listen_url to a"
                    " URL of the server itself; or use session mode"
                )
            if not self._options.listen_url:
                return f"log.listen_url: {_POOLED}give a URL of the server itself"
            if self._listening.shares_sessions():
                return f"log.listen_url: {_POOLED}this one leads there too"
        return None

    # ---- appending ----

    def _write_batch(self, batch: list[Append]) -> list[tuple[Append, Outcome]]:
        return self._batches.write(batch)

    def _close_writer(self) -> None:
        self._batches.close()

    # ---- reading ----

    async def fetch(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        heavy: bool = False,
        search: bool = False,
        scan: bool = False,
    ) -> list[tuple[Any, ...]]:
        reads = (
            self._scans if scan else self._searches if search else self._pages if heavy
            else self._reads
        )  # fmt: skip
        return await reads.fetch(*bound(sql, parameters))

    async def ping(self) -> None:
        rows = await self._reads.fetch("SELECT pg_is_in_recovery()", [])
        if rows[0][0]:
            raise LogUnavailable("the database is a standby, which takes no writes")

    def fetch_now(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        return self._fetch_tool(*bound(sql, parameters))

    @contextmanager
    def snapshot(self, tables: Sequence[Table] = ()) -> Iterator[Fetch]:
        with self.connect() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if tables:
                # Before the first look, which takes the snapshot: a table that was renamed after
                # it would be found by its new name, without what it did not hold then.
                names = ", ".join(table.name for table in tables)
                connection.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE")
            yield fetch_on(connection)

    def _fetch_tool(self, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._tool_lock:
            for last_try in (False, True):
                try:
                    if self._tool is None or self._tool.closed:
                        self._tool = self.connect()
                    cursor = self._tool.execute(text, values)
                    return cursor.fetchall() if cursor.description else []
                except psycopg.errors.InsufficientPrivilege as error:
                    raise self._database.unavailable(error) from None
                except psycopg.Error as error:
                    if not is_trouble(error, self._tool):
                        raise
                    # A connection that idled may have died long ago; a fresh one tells the truth.
                    died = self._tool is None or self._tool.closed
                    if last_try or not died or isinstance(error, Silence):
                        raise self._database.unavailable(error) from None
        raise AssertionError

    def forget_tracking(self, prefix: str) -> None:
        self._fetch_tool("DELETE FROM tracking WHERE starts_with(application_name, $1)", [prefix])

    def watch(self) -> CommitWatch:
        return Listener(self._listening)

    # ---- transactions beside the log ----

    async def _transact(self, name: str, work: Callable[[Fetch], Result]) -> Result:
        loop = asyncio.get_running_loop()
        threads = self._transactions.threads
        return await loop.run_in_executor(threads, self._transactions.run, name, work)

    # ---- leases ----

    async def hold_lease(self, name: str, holder: str, seconds: float) -> int | None:
        with self._health.writing():
            rows = await self.fetch(_HOLD, {"name": name, "holder": holder, "seconds": seconds})
        return rows[0][0] if rows else None

    async def release_lease(self, name: str, holder: str) -> None:
        await self.fetch(
            "UPDATE leases SET expires_at = '-infinity' WHERE name = :name AND holder = :holder",
            {"name": name, "holder": holder},
        )

    async def live_leases(self, prefix: str) -> set[str]:
        rows = await self.fetch(
            f"SELECT l.holder FROM leases l WHERE starts_with(l.name, :prefix) AND {_LIVES}",
            {"prefix": prefix},
        )
        return {row[0] for row in rows}

    # ---- tables ----

    def migrate(self) -> list[str]:
        applied = []
        with self._schema() as connection:
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

    def missing_tables(self, tables: Sequence[Table]) -> list[str]:
        names = [table.name for table in tables]
        with self.connect() as connection:
            # Looked for as the statements find them: by the connection's search path.
            rows = connection.execute(
                "SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NULL",
                [names],
            ).fetchall()
        absent = {row[0] for row in rows}
        return [name for name in names if name in absent]

    def missing_rights(self) -> list[str]:
        rows = self._fetch_tool(_MISSING_RIGHTS, [])
        return [f"{right} on {table}" for table, right in rows]

    def create_tables(self, tables: Sequence[Table]) -> None:
        with self._schema() as connection:
            for table in tables:
                create_table(connection, table)

    def succeed(self, successions: Sequence[Succession]) -> list[str]:
        with self.connect() as connection, connection.transaction():
            return succeed(connection, successions)

    @contextmanager
    def _schema(self) -> Iterator[Connection]:
        """A transaction that may change tables; one at a time. Raises LogUnavailable if refused."""
        try:
            with self.connect() as connection, connection.transaction():
                lock_schema(connection)
                yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise self._database.unavailable(error) from None

    def table_bytes(self, table: Table) -> int | None:
        rows = self._fetch_tool("SELECT pg_total_relation_size(to_regclass($1))", [table.name])
        size: int | None = rows[0][0]
        return size

    def table_set(
        self, tables: Sequence[Table], generation: int, *, gentle: bool = True
    ) -> TableSet:
        return PostgresTableSet(self.connect(), tables, generation)

    def refill(self, table: Table, rows: Callable[[int], Sequence[tuple[Any, ...]]]) -> None:
        with self.connect() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            lock_schema(connection)
            connection.execute(APPEND_LOCK)
            create_table(connection, table)
            last = connection.execute("SELECT max(notification_id) FROM stored_events").fetchone()
            assert last is not None
            held = rows(last[0] or 0)
            connection.execute(f"DELETE FROM {table.name}")
            send_rows(connection, [[Put(table, held)]])

    def close_now(self) -> None:
        super().close_now()
        self._transactions.close()
        for reads in (self._reads, self._pages, self._searches, self._scans):
            reads.close()
        with self._tool_lock:
            if self._tool is not None:
                self._tool.close()
