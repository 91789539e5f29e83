"""Replacing the rows of an aggregate in SQLite: only what differs is written.

A change says which rows an aggregate has from now on, and most of them are there already. What
stays as it is costs no write, and an update that names only the columns that differ leaves the
indexes of all others alone.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from calotype.stores.log.tables import Replace, Table, key_getter


def insert_statement(table: Table) -> str:
    """The statement that inserts one row."""
    return f"INSERT INTO {table.name} VALUES ({', '.join('?' * len(table.columns))})"


def replace_rows(connection: sqlite3.Connection, change: Replace) -> None:
    """Writes what a Replace says, in the transaction that is open.

    Raises sqlite3.Error for rows that the table does not take.
    """
    table, owner = change.table, str(change.owner)
    key_of = key_getter(table)
    selected = connection.execute(f"SELECT * FROM {table.name} WHERE {table.owner} = ?", (owner,))
    standing = {key_of(row): row for row in selected}
    wanted = {key_of(row): row for row in map(_as_stored, change.rows)}
    if len(wanted) < len(change.rows):
        raise sqlite3.IntegrityError(f"{table.name}: two rows of one change have the same key")
    is_key = " AND ".join(f"{name} = ?" for name in table.key)
    for key in standing.keys() - wanted.keys():
        connection.execute(f"DELETE FROM {table.name} WHERE {is_key}", _values_of(key))
    for key, row in wanted.items():
        before = standing.get(key)
        if before is None:
            connection.execute(insert_statement(table), row)
        elif before != row:
            statement, values = _update(table, before, row)
            connection.execute(f"{statement} WHERE {is_key}", (*values, *_values_of(key)))


def _update(table: Table, before: tuple[Any, ...], row: tuple[Any, ...]) -> tuple[str, list[Any]]:
    """The beginning of the statement that sets what differs, and the values that it sets."""
    differing = [
        (column.name, value)
        for column, old, value in zip(table.columns, before, row, strict=True)
        if old != value
    ]
    settings = ", ".join(f"{name} = ?" for name, _ in differing)
    return f"UPDATE {table.name} SET {settings}", [value for _, value in differing]


def _values_of(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _as_stored(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(str(value) if isinstance(value, UUID) else value for value in row)
