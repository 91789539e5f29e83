"""Second sets of query tables in SQLite, where whoever writes keeps all other writers waiting."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from calotype.stores.log.errors import LogUnavailable
from calotype.stores.log.sqlite.changes import check_fence, insert_statement, write_change
from calotype.stores.log.sqlite.connections import ThreadConnections, fetch_on
from calotype.stores.log.table_sets import Rows, Switch, TableSet
from calotype.stores.log.tables import (
    SQLITE_TYPES,
    Table,
    index_ddl,
    table_ddl,
)

CACHE_KILOBYTES = 65_536
PORTION_ROWS = 2_000
"""Rows of a former table that are deleted at once."""

_HERE = "SELECT name FROM sqlite_master WHERE type = 'table'"
_INDEXES = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql NOTNULL"


class SQLiteTableSet(TableSet):
    """See TableSet. Where it is `gentle`, it rests after each transaction as long as that took."""

    def __init__(
        self,
        connections: ThreadConnections,
        tables: Sequence[Table],
        generation: int,
        *,
        gentle: bool,
    ) -> None:
        super().__init__(tables, generation)
        self._connections = connections
        self._gentle = gentle

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._connections.transaction() as connection:
                started = time.monotonic()
                yield connection
        except sqlite3.Error as error:
            raise LogUnavailable(f"cannot write to {self._connections.path}: {error}") from None
        if self._gentle:
            time.sleep(min(1.0, time.monotonic() - started))

    def make(self) -> None:
        with self._writing() as connection:
            for table in self.spare.values():
                connection.execute(table_ddl(table, SQLITE_TYPES))

    def add(self, rows: Rows) -> None:
        with self._writing() as connection:
            for table, some in rows.items():
                connection.executemany(insert_statement(self.spare[table]), some)

    def index(self) -> Iterator[str]:
        for table in self.spare.values():
            for index in table.indexes:
                with self._writing() as connection:
                    connection.execute(index_ddl(table, index))
                yield index.name

    def switch(self, switch: Switch) -> int:
        with self._writing() as connection:
            check_fence(connection, switch.fence)
            changes, position = switch.finish()
            for change in changes:
                write_change(connection, change)
            self._put_in_place(fetch_on(connection), switch, position)
        return position

    def _there(self) -> list[str]:
        return [name for (name,) in self._connections.select(_HERE, {})]

    def _drop(self, name: str) -> None:
        """Index by index, then row by row: dropping all at once would be long."""
        with self._writing() as connection:
            indexes = connection.execute(_INDEXES, (name,)).fetchall()
        for (index,) in indexes:
            with self._writing() as connection:
                connection.execute(f"DROP INDEX IF EXISTS {index}")
        deleting = f"DELETE FROM {name} WHERE rowid IN (SELECT rowid FROM {name} LIMIT ?)"
        while True:
            with self._writing() as connection:
                if connection.execute(deleting, (PORTION_ROWS,)).rowcount < PORTION_ROWS:
                    connection.execute(f"DROP TABLE {name}")
                    return

    def close(self) -> None:
        self._connections.close()
