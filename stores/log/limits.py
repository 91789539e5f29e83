"""Which appends would let a counter grow beyond its limit: decided in the order of the log."""

from collections.abc import Mapping, Sequence
from typing import Any

from calotype.stores.log.append import Append
from calotype.stores.log.errors import OverLimit
from calotype.stores.log.tables import Count, Table, added

Counters = Mapping[tuple[Table, Any], tuple[int, ...]]
"""The amounts that stand in a table, by table and key; what is missing is zero."""


def exceeded(count: Count, row: tuple[int, ...] | None) -> OverLimit | None:
    """What forbids adding to this row, or None."""
    columns = count.table.columns[1:]
    reached = added(row, count.amounts)
    for column, amount, value, limit in zip(
        columns, count.amounts, reached, count.limits, strict=False
    ):
        if limit is not None and amount > 0 and value > limit:
            return OverLimit(count.key, column.name, value - amount, amount, limit)
    return None


def bounded(appends: Sequence[Append]) -> bool:
    """Whether any of them asks for a limit."""
    return any(
        isinstance(change, Count) and any(c is not None for c in change.limits)
        for append in appends
        for change in append.changes
    )


def refusals(appends: Sequence[Append], counters: Counters) -> list[tuple[Append, OverLimit]]:
    """Those that do not fit, when each is added to the counters where it does fit."""
    now = dict(counters)
    refused = []
    for append in appends:
        then: dict[tuple[Table, Any], tuple[int, ...]] = {}
        over: OverLimit | None = None
        for change in append.changes:
            if isinstance(change, Count):
                at = (change.table, change.key)
                row = then.get(at, now.get(at))
                over = over or exceeded(change, row)
                then[at] = added(row, change.amounts)
        if over is None:
            now |= then
        else:
            refused.append((append, over))
    return refused
