"""Second sets of query tables in PostgreSQL."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import errors

from calotype.stores.log.errors import Fenced
from calotype.stores.log.postgres.batches import APPEND_LOCK, STANDS, send_rows
from calotype.stores.log.postgres.listening import NOTIFY
from calotype.stores.log.postgres.transactions import fetch_on
from calotype.stores.log.table_sets import Rows, Switch, SwitchRefused, TableSet
from calotype.stores.log.tables import (
    POSTGRESQL_TYPES,
    Table,
    index_ddl,
    table_ddl,
)

LOCK_MILLISECONDS = 100
"""How long a try to switch waits for readers, and lets others wait behind itself."""
PATIENCE_SECONDS = 60.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0

_HERE = (
    "SELECT c.relname FROM pg_class c WHERE c.relkind = 'r' "
    "AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass($1))"
)


class PostgresTableSet(TableSet):
    """See TableSet. Works on a connection of its own, which `add` does not make wait for disks."""

    def __init__(
        self, connection: psycopg.Connection[Any], tables: Sequence[Table], generation: int
    ) -> None:
        super().__init__(tables, generation)
        self._connection = connection

    def make(self) -> None:
        for table in self.spare.values():
            self._connection.execute(table_ddl(table, POSTGRESQL_TYPES))

    def add(self, rows: Rows) -> None:
        with self._connection.transaction():
            # What is lost in a crash was not tracked as built: it is made again.
            self._connection.execute("SET LOCAL synchronous_commit = off")
            for table, some in rows.items():
                sql = f"COPY {self.spare[table].name} FROM STDIN"
                with self._connection.cursor().copy(sql.encode()) as copy:
                    for row in some:
                        copy.write_row(row)

    def index(self) -> Iterator[str]:
        for table in self.spare.values():
            for index in table.indexes:
                self._connection.execute(index_ddl(table, index).encode())
                yield index.name
            # Without it the first questions would be planned as if the tables were empty.
            self._connection.execute(f"VACUUM (ANALYZE) {table.name}".encode())

    def switch(self, switch: Switch) -> int:
        deadline = time.monotonic() + PATIENCE_SECONDS
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                with self._connection.transaction():
                    return self._switch(switch)
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                if time.monotonic() > deadline:
                    raise SwitchRefused("readers held the tables all the time") from None
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _switch(self, switch: Switch) -> int:
        execute = self._connection.execute
        execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        execute(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}".encode())
        execute(APPEND_LOCK)
        if not execute(STANDS, [switch.fence.lease, switch.fence.epoch]).fetchall():
            raise Fenced(f"the lease {switch.fence.lease} has another holder")
        changes, position = switch.finish()
        send_rows(self._connection, [changes])
        both = [name for table, spare in self.spare.items() for name in (table.name, spare.name)]
        execute(f"LOCK TABLE {', '.join(both)} IN ACCESS EXCLUSIVE MODE".encode())
        self._put_in_place(fetch_on(self._connection), switch, position)
        execute(NOTIFY)
        return position

    def _there(self) -> list[str]:
        rows = self._connection.execute(_HERE, [self.tables[0].name]).fetchall()
        return [name for (name,) in rows]

    def _drop(self, name: str) -> None:
        self._connection.execute(f"DROP TABLE IF EXISTS {name}".encode())

    def close(self) -> None:
        with suppress(psycopg.Error):
            self._connection.close()
