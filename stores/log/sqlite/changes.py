"""Writing one append to SQLite: its events, its changes of query tables, under its fence.

A Replace says which rows an aggregate has from now on, and most of them are there already. A row
that stays the same costs no write, and an update that names only the columns that differ leaves
the indexes of all others alone.
"""

import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import Any
from uuid import UUID

from eventsourcing.persistence import IntegrityError, Tracking

from calotype.stores.log.append import Append, Fence, Outcome, conflict
from calotype.stores.log.errors import Fenced
from calotype.stores.log.limits import exceeded
from calotype.stores.log.sqlite.reserve import is_trouble
from calotype.stores.log.tables import (
    Change,
    Count,
    Put,
    Replace,
    Table,
    adding,
    key_getter,
    on_conflict,
)

_INSERT_EVENT = (
    "INSERT INTO stored_events"
    " (originator_id, originator_version, topic, state, notification_id) VALUES (?, ?, ?, ?, ?)"
)
_TRACK = (
    "INSERT INTO tracking (application_name, notification_id) VALUES (:name, :id) "
    "ON CONFLICT (application_name) DO UPDATE SET notification_id = :id "
    "WHERE notification_id < :id"
)
_STANDS = "SELECT 1 FROM leases WHERE name = :name AND epoch = :epoch"


def check_fence(connection: sqlite3.Connection, fence: Fence) -> None:
    """Raises Fenced unless the lease is in the fence's epoch, in the transaction that is open."""
    values = {"name": fence.lease, "epoch": fence.epoch}
    if connection.execute(_STANDS, values).fetchone() is None:
        raise Fenced(f"the lease {fence.lease} is no longer in epoch {fence.epoch}")


def write_change(connection: sqlite3.Connection, change: Change) -> None:
    """Writes a change in the transaction that is open. Raises OverLimit for what does not fit."""
    table = change.table
    insert = insert_statement(table)
    if isinstance(change, Count):
        _check_limits(connection, change)
        connection.execute(f"{insert} {adding(table)}", (change.key, *change.amounts))
        return
    if isinstance(change, Put):
        connection.executemany(f"{insert} {on_conflict(table, table.grows)}", change.rows)
        return
    replace_rows(connection, change)


def _check_limits(connection: sqlite3.Connection, count: Count) -> None:
    if not count.limits:
        return
    table = count.table
    names = ", ".join(column.name for column in table.columns[1:])
    statement = f"SELECT {names} FROM {table.name} WHERE {table.key[0]} = ?"
    over = exceeded(count, connection.execute(statement, (count.key,)).fetchone())
    if over is not None:
        raise over


def write_append(connection: sqlite3.Connection, append: Append, position: int) -> Outcome:
    """Writes one append after `position` inside the transaction, or leaves nothing of it there.

    Raises sqlite3.Error where the file or its disk is at fault: the transaction is over then.
    """
    connection.execute("SAVEPOINT one")
    try:
        rows = [
            (
                str(event.originator_id),
                event.originator_version,
                event.topic,
                event.state,
                position + number,
            )
            for number, event in enumerate(append.events, 1)
        ]
        try:
            connection.executemany(_INSERT_EVENT, rows)
        except sqlite3.IntegrityError:
            raise conflict(append) from None
        if append.fence is not None:
            check_fence(connection, append.fence)
        if append.tracking is not None:
            _track(connection, append.tracking)
        for change in append.changes:
            write_change(connection, change)
    except Exception as error:
        if not connection.in_transaction or is_trouble(error):
            raise  # A full disk ends the whole transaction, not only the savepoint.
        connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")
        return error
    connection.execute("RELEASE one")
    return [row[4] for row in rows]


def _track(connection: sqlite3.Connection, tracking: Tracking) -> None:
    done = connection.execute(
        _TRACK, {"name": tracking.application_name, "id": tracking.notification_id}
    )
    if done.rowcount == 0:
        raise IntegrityError(f"{tracking.application_name} has come further already")


@cache
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
