"""Query tables as the log sees them: descriptions, their DDL, and changes of their rows.

The log writes these rows in the transaction that appends the events, and knows nothing else about
them. They are projections: `create_tables` makes them, and they can be rebuilt from the log.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import add, itemgetter
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

    `owner` names the column with the id of the aggregate whose rows these are, for `Replace`;
    `grows` the columns of a row that may change when it is `Put` again. `dropped_indexes` are
    those that it had in earlier releases.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    owner: str
    indexes: tuple[Index, ...] = ()
    grows: tuple[str, ...] = ()
    dropped_indexes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Succession:
    """A table that takes the place of another, and is filled from it when it is made."""

    table: Table
    former: str
    """The name of the table of the version before."""
    rows: str
    """SQL that gives its rows, in the order of the columns; `{former}` stands for that name."""

    @property
    def filling(self) -> str:
        """The statement that fills the table."""
        return f"INSERT INTO {self.table.name} {self.rows.format(former=self.former)}"


@dataclass(frozen=True)
class Replace:
    """From now on exactly these rows of `table` belong to `owner`; none: they are gone.

    A row holds the values in the order of `table.columns`.
    """

    table: Table
    owner: UUID
    rows: Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Put:
    """From now on these rows stand in `table`, each for its key; of a key that is there already
    only the columns that the table `grows` change.

    Cheaper than `Replace` where rows are never taken away, as in tables that follow the log.
    """

    table: Table
    rows: Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Count:
    """Adds `amounts` to the row of `key` in `table`; a row that is not there starts at zero.

    The table has one key column, its first, and integers that are not NULL; `amounts` are for
    these in their order. `limits` say how far each may grow (None: without end). Where one
    would grow further, the append fails with OverLimit and leaves nothing; a column that does not
    grow may stand above its limit.
    """

    table: Table
    key: Any
    amounts: tuple[int, ...]
    limits: tuple[int | None, ...] = ()
    """As many as there are amounts, or none at all."""


Change = Replace | Put | Count


def table_ddl(table: Table, types: dict[str, str]) -> str:
    """The statement that creates the table, without its indexes, if it does not exist."""
    columns = [
        f"{column.name} {types[column.kind]}{'' if column.nullable else ' NOT NULL'}"
        for column in table.columns
    ]
    return (
        f"CREATE TABLE IF NOT EXISTS {table.name} "
        f"({', '.join(columns)}, PRIMARY KEY ({', '.join(table.key)}))"
    )


def index_ddl(table: Table, index: Index) -> str:
    """The statement that creates one index of the table."""
    where = f" WHERE {index.where}" if index.where else ""
    return f"CREATE INDEX {index.name} ON {table.name} ({', '.join(index.columns)}){where}"


def of_generation(table: Table, generation: int) -> Table:
    """The same table under another name, to be filled beside it and to take its place.

    Indexes keep their names when a table is renamed, so a name shows its generation from then on.
    """
    return replace(
        table,
        name=f"{table.name}_g{generation}",
        indexes=tuple(
            replace(index, name=f"{index.name}_g{generation}") for index in table.indexes
        ),
    )


def former(table: Table) -> Table:
    """The name under which a table waits to be dropped when another has taken its place."""
    return replace(table, name=f"{table.name}_former", indexes=())


def is_spare(name: str, tables: Sequence[Table]) -> bool:
    """Whether this names one of the tables in another generation, or a former one."""
    return any(re.fullmatch(f"{table.name}_(g[0-9]+|former)", name) for table in tables)


def lacking(table: Table, there: Iterable[str]) -> list[Index]:
    """The indexes that the table lacks, of any generation, when it has those of these names."""
    known = {re.sub("_g[0-9]+$", "", name) for name in there}
    return [index for index in table.indexes if index.name not in known]


def outlived(table: Table, there: Iterable[str]) -> list[str]:
    """Those of these indexes of the table, of any generation, that it should have no more."""
    return [name for name in there if re.sub("_g[0-9]+$", "", name) in table.dropped_indexes]


@dataclass(frozen=True, slots=True)
class Merged:
    """The changes of a batch by table. Of two for one owner or key the later counts, except that
    amounts add up."""

    replaced: dict[Table, dict[UUID, Sequence[tuple[Any, ...]]]]
    """The rows by their owner."""
    put: dict[Table, dict[Any, tuple[Any, ...]]]
    """The rows by their key."""
    counted: dict[Table, dict[Any, tuple[int, ...]]]
    """The sums of the amounts by their key."""


def merged(changes: Sequence[Sequence[Change]]) -> Merged:
    """The changes of a batch, put together."""
    batch = Merged({}, {}, {})
    for some in changes:
        for change in some:
            if isinstance(change, Replace):
                batch.replaced.setdefault(change.table, {})[change.owner] = change.rows
            elif isinstance(change, Put):
                key_of = key_getter(change.table)
                rows = batch.put.setdefault(change.table, {})
                rows.update((key_of(row), row) for row in change.rows)
            else:
                sums = batch.counted.setdefault(change.table, {})
                sums[change.key] = added(sums.get(change.key), change.amounts)
    return batch


def added(row: tuple[int, ...] | None, amounts: tuple[int, ...]) -> tuple[int, ...]:
    """The row with the amounts added; None is a row of zeros."""
    return amounts if row is None else tuple(map(add, row, amounts))


@cache
def key_getter(table: Table) -> Callable[[tuple[Any, ...]], Any]:
    """What gives the key of a row of the table: one value, or a tuple of several."""
    names = [column.name for column in table.columns]
    return itemgetter(*(names.index(name) for name in table.key))


def on_conflict(table: Table, updates: Sequence[str]) -> str:
    """What an INSERT into the table does where the key is there already: set these columns."""
    settings = ", ".join(f"{name} = excluded.{name}" for name in updates)
    action = f"UPDATE SET {settings}" if settings else "NOTHING"
    return f"ON CONFLICT ({', '.join(table.key)}) DO {action}"


@cache
def adding(table: Table) -> str:
    """What an INSERT of amounts into the table does where the key is there already: add them."""
    names = [column.name for column in table.columns if column.name not in table.key]
    sums = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in names)
    return f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {sums}"
