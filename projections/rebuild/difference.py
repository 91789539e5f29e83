"""Rows compared with the rows that the log gives."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from calotype.projections.rebuild.fold_by_stream import Row
from calotype.stores.log.tables import Table, key_getter


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what the log says."""

    table: str
    key: str
    what: str
    """`missing`, `not in the log`, or the columns that differ."""


def compare_rows(table: Table, expected: list[Row], there: list[Row]) -> Iterator[Difference]:
    """The rows that are there and should not be, or the other way round, each key once."""
    wanted, found = Counter(map(_plain, expected)), Counter(map(_plain, there))
    if wanted == found:
        return
    key_of = key_getter(table)
    missing = {key_of(row): row for row in wanted - found}
    extra = {key_of(row): row for row in found - wanted}
    for key, row in missing.items():
        other = extra.pop(key, None)
        if other is None:
            yield Difference(table.name, _shown(key), "missing")
        else:
            columns = [
                column.name
                for column, mine, theirs in zip(table.columns, row, other, strict=True)
                if mine != theirs
            ]
            yield Difference(table.name, _shown(key), f"differs in {', '.join(columns)}")
    for key in extra:
        yield Difference(table.name, _shown(key), "not in the log")


def _plain(row: Row) -> Row:
    return tuple(str(value) if isinstance(value, UUID) else value for value in row)


def _shown(key: Any) -> str:
    return "/".join(map(str, key)) if isinstance(key, tuple) else str(key)
