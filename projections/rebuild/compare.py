"""Two tables compared by the database, row by row: those in use, and those that were made again."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from calotype.projections.rebuild.difference import compare_rows
from calotype.projections.rebuild.registry import Projection, Sums, image_column, reached
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Column, Table


@dataclass(frozen=True, slots=True)
class TableComparison:
    """How many rows of a table in use are not as they were made again."""

    table: str
    different: int
    missing: int
    not_in_the_log: int

    @property
    def equal(self) -> bool:
        return not (self.different or self.missing or self.not_in_the_log)


Comparison = list[TableComparison]


def compare(
    recorder: GroupCommitRecorder, what: Projection, spare: Mapping[Table, Table], position: int
) -> Comparison:
    """Compares the tables in use with the spare ones, which have reached `position`, at one moment.

    Left out are the rows of images that changed after the older of the two positions.
    """
    with recorder.snapshot((*what.tables, *spare.values())) as fetch:
        until = min(position, reached(fetch, what))
        found = []
        for table, made in spare.items():
            counts = [fetch(sql, {"until": until})[0][0] for sql in _statements(what, table, made)]
            found.append(TableComparison(table.name, *counts))
        return found


def compare_sums(recorder: GroupCommitRecorder, what: Projection, sums: Sums) -> Comparison:
    """Compares sums with what the log gives."""
    there, expected = sums.there_and_expected(recorder, lambda events: None)
    table = what.tables[0]
    found = Counter(one.what for one in compare_rows(table, expected, there))
    missing, extra = found.pop("missing", 0), found.pop("not in the log", 0)
    return [TableComparison(table.name, found.total(), missing, extra)]


def _statements(what: Projection, table: Table, made: Table) -> tuple[str, str, str]:
    same_key = " AND ".join(f"u.{name} = m.{name}" for name in table.key)
    differing = " OR ".join(
        _differs(column) for column in table.columns if column.name not in table.key
    )
    return (
        f"SELECT count(*) FROM {made.name} m JOIN {table.name} u ON {same_key} "
        f"WHERE {_settled(what, table, 'm')} AND ({differing})",
        _only_in(made.name, "m", table.name, "u", same_key, _settled(what, table, "m")),
        _only_in(table.name, "u", made.name, "m", same_key, _settled(what, table, "u")),
    )


def _only_in(mine: str, alias: str, theirs: str, other: str, same_key: str, settled: str) -> str:
    return (
        f"SELECT count(*) FROM {mine} {alias} WHERE {settled} "
        f"AND NOT EXISTS (SELECT 1 FROM {theirs} {other} WHERE {same_key})"
    )


def _differs(column: Column) -> str:
    unequal = f"u.{column.name} <> m.{column.name}"
    if not column.nullable:
        return unequal
    return f"coalesce({unequal}, (u.{column.name} IS NULL) <> (m.{column.name} IS NULL))"


def _settled(what: Projection, table: Table, alias: str) -> str:
    ordered = what.in_order is not None and table is what.in_order.table
    if what.owned_by_position or ordered:
        return f"{alias}.position <= :until"
    # Not NOT IN: PostgreSQL would go through a long list once for every row.
    return (
        f"NOT EXISTS (SELECT 1 FROM stored_events s WHERE s.originator_id = "
        f"{alias}.{image_column(table)} AND s.notification_id > :until)"
    )
