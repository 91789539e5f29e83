"""How a list of the present is read: by statements that read a bounded number of rows.

Where an index gives a caller's list in order, one statement walks it and stops after the page.
Otherwise two statements are tried: the few rows that one of the conditions leaves, if they are
few; and a walk in the order of the list that checks each row, and ends after a fixed number. What
neither answers is a scan: `pages.page_statement` from where the walk ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from calotype.commands.policy.actor import Actor
from calotype.projections.images.conditions import (
    Statement,
    beyond,
    column_condition,
    columns_of,
    having,
    merged,
    order_of,
)
from calotype.projections.images.listing import Filter, ListQuery
from calotype.projections.images.page_drivers import Driver, Tagged, as_indexed, order_of_index
from calotype.projections.images.page_sets import (
    Branch,
    branches_of,
    is_hidden,
    is_ordered,
    keys_of,
    narrow,
    sets_of,
    visible,
)

FEW_PAGES, WALKED_PAGES = 22, 22
"""How many rows count as few, and how many a walk looks at, in pages of the caller's size."""
SMALLEST_PAGE, LARGEST_PAGE = 26, 1001


@dataclass(frozen=True, slots=True)
class Walk:
    """A statement whose rows are those of `page_statement`, each with whether it fits."""

    sql: str
    parameters: dict[str, Any]
    bound: int | None
    """How many rows it looks at: the last of them is given even if it does not fit. None: an
    index gives the list, and all rows fit."""


def few(query: ListQuery) -> int:
    """How many rows are few for a page of this list."""
    ids = [len(c.values) for c in query.filters if c.column == "id"]
    return max([FEW_PAGES * _page(query), *ids])


def walk(
    query: ListQuery, actor: Actor, after: tuple[Any, ...] | None, driver: Driver | None
) -> Walk | None:
    """The walk along the list, by the index of `driver` where that has its order; or None."""
    if not is_ordered(query):
        return None
    statement = Statement()
    branches = branches_of(query, actor, driver, statement)
    bounded = any(branch.asked for branch in branches)
    rows = max(WALKED_PAGES * _page(query), query.limit + 1) if bounded else query.limit + 1
    selects = []
    for branch in branches:
        keys = keys_of(query, branch)
        where = [*branch.indexed, *branch.apart, *([] if bounded else branch.mostly)]
        if after is not None:
            where.append(beyond(query, keys, after, statement))
        fits = " AND ".join([*branch.mostly, *branch.asked]) if bounded else ""
        columns = f"{columns_of(keys)}, {f'({fits})' if fits else '1 = 1'} AS fits"
        selects.append(branch.select(columns, where, order_of(query, keys), rows, statement))
    sql = merged(selects, order_of(query), rows)
    if bounded:
        sql = (
            f"SELECT * FROM (SELECT p.*, row_number() OVER (ORDER BY {order_of(query)}) AS n "
            f"FROM ({sql}) p) w WHERE fits OR n = {rows} ORDER BY n LIMIT {query.limit + 1}"
        )
    return Walk(sql, statement.parameters, rows if bounded else None)


def few_statement(
    query: ListQuery, actor: Actor, after: tuple[Any, ...] | None, driver: Driver | None
) -> tuple[str, dict[str, Any]]:
    """Gives `(count, row of page_statement...)`: how many rows the driver leaves, and the page.

    The driver None is the sets that the caller lists. A count above `few` says that there are
    more rows than were read; the page is then empty, as it is (one row of NULLs) without any.
    """
    statement = Statement()
    most = few(query)
    keys = keys_of(query, Branch())
    where = [
        visible(query, actor, statement),
        is_hidden(query, statement),
        *having(query.tags, query.properties, statement),
        *(column_condition(condition, statement) for condition in query.filters),
    ]
    if after is not None:
        where.append(beyond(query, keys, after, statement))
    where.append(f"(SELECT count(*) FROM few) <= {most}")
    page = (
        f"SELECT {columns_of(keys)} FROM few i WHERE {' AND '.join(where)} "
        f"ORDER BY {order_of(query, keys)} LIMIT {query.limit + 1}"
    )
    counted = "SELECT count(*) AS n FROM few"
    sql = (
        f"WITH few AS MATERIALIZED ({_few_rows(query, actor, driver, 'i.*', statement)}) "
        f"SELECT c.n, p.* FROM ({counted}) c LEFT JOIN ({page}) p ON 1 = 1 "
        f"ORDER BY {order_of(query)}"
    )
    return sql, statement.parameters


def count_statement(
    query: ListQuery, actor: Actor, choices: Sequence[Driver | None]
) -> tuple[str, dict[str, Any]]:
    """Gives one row: how many rows each driver leaves, none counted further than `few` and one."""
    statement = Statement()
    counts = [
        f"(SELECT count(*) FROM ({_few_rows(query, actor, choice, '1 AS one', statement)}) c{n})"
        for n, choice in enumerate(choices)
    ]
    return f"SELECT {', '.join(counts)}", statement.parameters


def _few_rows(
    query: ListQuery, actor: Actor, driver: Driver | None, columns: str, statement: Statement
) -> str:
    limit, selects = few(query) + 1, []
    branches = [Branch()]
    if driver is None:
        branches = sets_of(query, actor, statement)
    elif isinstance(driver, Tagged):
        narrow(branches[0], driver, statement)
    else:
        branches[0].indexed = as_indexed(driver, statement)
        if driver.column in ("created_at", "owner"):
            branches[0].indexed.append(is_hidden(query, statement))
    for branch in branches:
        where = [*branch.indexed, *branch.apart, *(branch.mostly if driver is None else ())]
        order = order_of_index(driver) if isinstance(driver, Filter) else ", ".join(branch.ages)
        selects.append(branch.select(columns, where, order, limit, statement))
    return merged(selects, "", limit)


def _page(query: ListQuery) -> int:
    return min(max(query.limit + 1, SMALLEST_PAGE), LARGEST_PAGE)
