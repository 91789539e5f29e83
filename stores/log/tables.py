"""Query tables as the log sees them: descriptions, their DDL, and changes of their rows.

The log writes these rows in the transaction that appends the events, and knows nothing else about
them. They are prints: `create_tables` makes them, and they can be made again from the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

Kind = Literal["text", "integer", "boolean", "uuid"]

SQLITE_TYPES = {"text": "TEXT", "integer": "INTEGER", "boolean": "INTEGER", "uuid": "TEXT"}
POSTGRESQL_TYPES = {
    "text": 'text COLLATE "C"',
    "integer": "bigint",
    "boolean": "boolean",
    "uuid": "uuid",
}


@dataclass(frozen=True)
class Column:
    """A column. Integers have 64 bits; text sorts bytewise on both databases."""

    name: str
    kind: Kind
    nullable: bool = False


@dataclass(frozen=True)
class Index:
    """An index on columns or expressions, partial when `where` holds a condition."""

    name: str
    columns: tuple[str, ...]
    where: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """A query table kept by a projection.

    `owner` names the column with the id of the aggregate whose rows these are.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    owner: str
    indexes: tuple[Index, ...] = ()


@dataclass(frozen=True)
class Replace:
    """From now on exactly these rows of `table` belong to `owner`; none: they are gone.

    A row holds the values in the order of `table.columns`.
    """

    table: Table
    owner: UUID
    rows: Sequence[tuple[Any, ...]]


def table_ddl(table: Table, types: dict[str, str]) -> list[str]:
    """The statements that create the table and its indexes if they do not exist."""
    columns = [
        f"{column.name} {types[column.kind]}{'' if column.nullable else ' NOT NULL'}"
        for column in table.columns
    ]
    statements = [
        f"CREATE TABLE IF NOT EXISTS {table.name} "
        f"({', '.join(columns)}, PRIMARY KEY ({', '.join(table.key)}))"
    ]
    for index in table.indexes:
        where = f" WHERE {index.where}" if index.where else ""
        statements.append(
            f"CREATE INDEX IF NOT EXISTS {index.name} ON {table.name} "
            f"({', '.join(index.columns)}){where}"
        )
    return statements


def merged(
    changes: Sequence[Sequence[Replace]],
) -> dict[Table, dict[UUID, Sequence[tuple[Any, ...]]]]:
    """The changes of a batch by table and owner; of two for the same owner the later one wins."""
    tables: dict[Table, dict[UUID, Sequence[tuple[Any, ...]]]] = {}
    for replacements in changes:
        for change in replacements:
            tables.setdefault(change.table, {})[change.owner] = change.rows
    return tables
