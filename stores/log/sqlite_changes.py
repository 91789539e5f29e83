"""Changes of query tables in SQLite, and the fence that keeps them from being written too late."""

import sqlite3

from calotype.stores.log.ceilings import exceeded
from calotype.stores.log.log import Fence, Fenced
from calotype.stores.log.sqlite_rows import insert_statement, replace_rows
from calotype.stores.log.tables import Change, Count, Put, adding, on_conflict

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
        _check_ceilings(connection, change)
        connection.execute(f"{insert} {adding(table)}", (change.key, *change.amounts))
        return
    if isinstance(change, Put):
        connection.executemany(f"{insert} {on_conflict(table, table.grows)}", change.rows)
        return
    replace_rows(connection, change)


def _check_ceilings(connection: sqlite3.Connection, count: Count) -> None:
    if not count.ceilings:
        return
    table = count.table
    names = ", ".join(column.name for column in table.columns[1:])
    statement = f"SELECT {names} FROM {table.name} WHERE {table.key[0]} = ?"
    over = exceeded(count, connection.execute(statement, (count.key,)).fetchone())
    if over is not None:
        raise over
