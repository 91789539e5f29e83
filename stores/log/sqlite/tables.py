"""What tables there are in a SQLite file, and how they are made."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from calotype.stores.log.statements import migrations
from calotype.stores.log.tables import (
    SQLITE_TYPES,
    Succession,
    Table,
    index_ddl,
    lacking,
    outlived,
    table_ddl,
)

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
_INDEXES = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = :name"
BYTES = (
    "SELECT sum(d.pgsize) FROM sqlite_master m JOIN dbstat d ON d.name = m.name "
    "WHERE m.tbl_name = :name AND d.aggregate = 1"
)
"""How much `dbstat` says that the table `:name` takes, with its indexes."""


def create_table(connection: sqlite3.Connection, table: Table) -> None:
    """Makes the table and those of its indexes that are not there; drops those of the past."""
    connection.execute(table_ddl(table, SQLITE_TYPES))
    there = [row[0] for row in connection.execute(_INDEXES, {"name": table.name}).fetchall()]
    for index in lacking(table, there):
        connection.execute(index_ddl(table, index))
    for name in outlived(table, there):
        connection.execute(f"DROP INDEX {name}")


def succeed(connection: sqlite3.Connection, successions: Sequence[Succession]) -> list[str]:
    """See GroupCommitRecorder.succeed; in the transaction that is open."""
    there = {name for (name,) in connection.execute(_TABLES)}
    due = [s for s in successions if s.former in there and s.table.name not in there]
    for succession in due:
        connection.execute(table_ddl(succession.table, SQLITE_TYPES))
        connection.execute(succession.filling)
        create_table(connection, succession.table)
        connection.execute(f"DROP TABLE {succession.former}")
    return [succession.table.name for succession in due]


def create_migrations_table(connection: sqlite3.Connection) -> None:
    """Makes the table that names the migrations which are applied."""
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY)")


def pending(fetch: Callable[[str], list[tuple[Any, ...]]]) -> list[tuple[str, str]]:
    """`(name, SQL)` of the migrations that are not applied, in order."""
    known = fetch("SELECT name FROM sqlite_master WHERE name = 'migrations'")
    done = {row[0] for row in fetch("SELECT name FROM migrations")} if known else set()
    return [(name, sql) for name, sql in migrations("sqlite") if name not in done]


def is_applied(connection: sqlite3.Connection, name: str) -> bool:
    """Whether the migration of this name is applied."""
    row = connection.execute("SELECT 1 FROM migrations WHERE name = ?", (name,)).fetchone()
    return row is not None
