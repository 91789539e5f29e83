"""What tables there are in a PostgreSQL database, and how they are made."""

from collections.abc import Sequence
from typing import Any

import psycopg

from calotype.stores.log.postgres.batches import APPEND_LOCK
from calotype.stores.log.tables import (
    POSTGRESQL_TYPES,
    Succession,
    Table,
    index_ddl,
    lacking,
    outlived,
    table_ddl,
)

_INDEXES = (
    "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
    "WHERE i.indrelid = to_regclass($1)"
)
_IS_DUE = "SELECT to_regclass($1) IS NOT NULL AND to_regclass($2) IS NULL"

Connection = psycopg.Connection[Any]


def lock_schema(connection: Connection) -> None:
    """Keeps all others from changing tables until the transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('calotype schema'))")


def create_table(connection: Connection, table: Table) -> None:
    """Makes the table and those of its indexes that are not there; drops those of the past."""
    connection.execute(table_ddl(table, POSTGRESQL_TYPES))
    there = [row[0] for row in connection.execute(_INDEXES, [table.name]).fetchall()]
    for index in lacking(table, there):
        connection.execute(index_ddl(table, index))
    for name in outlived(table, there):
        connection.execute(f"DROP INDEX {name}".encode())


def succeed(connection: Connection, successions: Sequence[Succession]) -> list[str]:
    """See GroupCommitRecorder.succeed; in the transaction that is open."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    lock_schema(connection)
    due = [s for s in successions if _is_due(connection, s)]
    if due:
        connection.execute(APPEND_LOCK)
    for succession in due:
        connection.execute(table_ddl(succession.table, POSTGRESQL_TYPES))
        connection.execute(succession.filling)
        create_table(connection, succession.table)
        connection.execute(f"ANALYZE {succession.table.name}".encode())
        connection.execute(f"DROP TABLE {succession.former}".encode())
    return [succession.table.name for succession in due]


def _is_due(connection: Connection, succession: Succession) -> bool:
    names = [succession.former, succession.table.name]
    row = connection.execute(_IS_DUE, names).fetchone()
    return row is not None and bool(row[0])
