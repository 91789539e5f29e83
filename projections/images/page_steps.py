"""The steps in which a page of a list is found: bounded ones first, and a scan at the end.

The first steps read few rows, so they are quick. A scan has connections of its
own, a time after which it ends, and ends when its caller has gone.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from calotype.commands.errors import Unavailable
from calotype.commands.policy.actor import Actor
from calotype.projections.images import walks
from calotype.projections.images.conditions import DOCUMENT, order_of
from calotype.projections.images.listing import Filter, ListQuery, Moment
from calotype.projections.images.page_drivers import Driver, is_impossible, is_rare
from calotype.projections.images.page_drivers import drivers as drivers_of
from calotype.projections.images.page_sets import has_order_of_sets
from calotype.projections.images.pages import page_statement
from calotype.projections.images.tables import IMAGES
from calotype.stores.log.errors import ReadTooLong
from calotype.stores.log.recorder import GroupCommitRecorder

PAGE_BYTES = 16 << 20
_BEFORE_BIRTH = f"SELECT max(created_at) FROM {IMAGES.name} WHERE updated_at < created_at"
LOOK_SECONDS = 0.25
"""How often a scan checks that its caller still waits for it."""


class TooLong(Unavailable):
    """A list took longer to read than reads may (503)."""

    headers = {"Retry-After": "30"}


class PageSteps:
    """Reads the rows of pages."""

    def __init__(self, recorder: GroupCommitRecorder, page_bytes: int) -> None:
        self._recorder = recorder
        self._page_bytes = page_bytes

    async def rows(
        self,
        query: ListQuery,
        actor: Actor,
        after: tuple[Any, ...] | None,
        moment: Moment | None,
        gone: Callable[[], bool],
    ) -> list[tuple[Any, ...]]:
        """The rows of a page, and one more if there are more; see `page_statement`."""
        try:
            if moment is None:
                return await self._bounded(query, actor, after, gone)
            sql, parameters = page_statement(query, actor, after, moment)
            if query.filters or query.tags or query.properties:
                return await self._scan(sql, parameters, query, gone)
            return await self._fetch(sql, parameters, query, search=False)
        except ReadTooLong:
            raise TooLong(
                "This list took too long to find; ask for it by fewer or other filters, or by one "
                "that fits fewer images."
            ) from None

    async def _bounded(
        self,
        query: ListQuery,
        actor: Actor,
        after: tuple[Any, ...] | None,
        gone: Callable[[], bool],
    ) -> list[tuple[Any, ...]]:
        """The same for the present, read in steps of which all but the last are bounded."""
        if is_impossible(query):
            return []
        query = await self._born_before(query)
        drivers = drivers_of(query)
        walk = None
        if not any(isinstance(one, Filter) and one.column == "id" for one in drivers):
            walk = walks.walk(query, actor, after, drivers[0] if len(drivers) == 1 else None)
        if walk is not None and walk.bound is None:
            rows = await self._fetch(walk.sql, walk.parameters, query, search=False)
            return [row[:-1] for row in rows]
        driver, promising = await self._best_driver(query, actor, drivers)
        if promising and (walk is None or is_rare(driver)):
            page = await self._few(query, actor, after, driver)
            if page is not None:
                return page
            promising = False
        found: list[tuple[Any, ...]] = []
        walk = walks.walk(query, actor, after, driver)
        if walk is not None:
            rows = await self._fetch(walk.sql, walk.parameters, query, search=True)
            found = [row[:-2] for row in rows if row[-2]]
            if len(found) > query.limit or not rows or rows[-1][-1] != walk.bound:
                return found
            ended = rows[-1][4:-2]
        if promising:
            page = await self._few(query, actor, after, driver)
            if page is not None:
                return page
        rest = replace(query, limit=query.limit - len(found))
        start = after if walk is None else ended
        return found + await self._scan(*page_statement(rest, actor, start), rest, gone)

    async def _born_before(self, query: ListQuery) -> ListQuery:
        """The same list, with what follows from when its images changed last.

        An image is born before it changes. A list by age of what has not changed since a time
        would otherwise begin with all that is younger. Only clocks that differ can have it the
        other way round, and images for which they did are looked up.
        """
        until = [
            str(condition.values[0])
            for condition in query.filters
            if condition.column == "updated_at" and condition.operator in ("lt", "lte", "eq")
        ]
        if not until or query.sort[0][0] != "created_at":
            return query
        [(latest,)] = await self._recorder.fetch(_BEFORE_BIRTH)
        born = max(min(until), latest or "")
        others = []
        for condition in query.filters:
            if condition.column == "created_at" and condition.operator in ("lt", "lte"):
                if str(condition.values[0]) <= born:
                    return query
                # SQLite would end the walk by one of two such bounds, perhaps not by the nearer.
                continue
            others.append(condition)
        return replace(query, filters=(*others, Filter("created_at", "lte", (born,))))

    async def _best_driver(
        self, query: ListQuery, actor: Actor, drivers: list[Driver]
    ) -> tuple[Driver | None, bool]:
        """The condition that leaves the fewest rows, and whether these may be few.

        None stands for the sets that the caller lists, where their order is not that of the list.
        """
        choices: list[Driver | None] = [*drivers]
        if not actor.is_admin and not has_order_of_sets(query, actor):
            choices.append(None)
        if len(choices) <= 1:
            return (choices[0], True) if choices else (None, False)
        sql, parameters = walks.count_statement(query, actor, choices)
        [counts] = await self._recorder.fetch(sql, parameters, search=True)
        fewest, best = min(zip(counts, range(len(choices)), strict=True))
        return choices[best], fewest <= walks.few(query)

    async def _few(
        self,
        query: ListQuery,
        actor: Actor,
        after: tuple[Any, ...] | None,
        driver: Driver | None,
    ) -> list[tuple[Any, ...]] | None:
        """The page, if the driver leaves few rows; otherwise None."""
        sql, parameters = walks.few_statement(query, actor, after, driver)
        rows = await self._fetch(sql, parameters, query, document=1, search=True)
        if rows[0][0] > walks.few(query):
            return None
        return [row[1:] for row in rows if row[1] is not None]

    async def _fetch(
        self,
        sql: str,
        parameters: dict[str, Any],
        query: ListQuery,
        document: int = 0,
        *,
        search: bool,
    ) -> list[tuple[Any, ...]]:
        """The rows of a bounded statement; `document` is the place of the document in each.

        `search` is that of `GroupCommitRecorder.fetch`.

        Where no document is larger than its share of a page, which is nearly always, the page
        need not be measured.
        """
        share = {"share": self._page_bytes // (query.limit + 1)}
        small = sql.replace(DOCUMENT, f"CASE WHEN length({DOCUMENT}) <= :share THEN {DOCUMENT} END")
        fetch = partial(self._recorder.fetch, heavy=True, search=search)
        rows = await fetch(small, {**parameters, **share})
        if all(row[document] is not None or row[document + 1] is None for row in rows):
            return rows
        rows = await fetch(*self._within_bytes(sql, parameters, query))
        return [row[:-2] for row in rows]

    async def _scan(
        self,
        sql: str,
        parameters: dict[str, Any],
        query: ListQuery,
        gone: Callable[[], bool],
    ) -> list[tuple[Any, ...]]:
        """Rows of a statement that may read very many, unless the caller goes meanwhile."""
        sql, parameters = self._within_bytes(sql, parameters, query)
        scan = asyncio.ensure_future(self._recorder.fetch(sql, parameters, scan=True))
        try:
            while not (await asyncio.wait([scan], timeout=LOOK_SECONDS))[0]:
                if gone():
                    raise ReadTooLong("the caller has gone")
            return [row[:-2] for row in scan.result()]
        finally:
            scan.cancel()

    def _within_bytes(
        self, sql: str, parameters: dict[str, Any], query: ListQuery
    ) -> tuple[str, dict[str, Any]]:
        """The same rows up to the one with which their documents are larger than a page may be.

        Two at least, so that it is seen whether another follows. Two columns come behind.
        """
        order = order_of(query)
        size = "coalesce(length(r.document), 0)"
        ahead = f"sum({size}) OVER w - {size}"
        return (
            f"SELECT * FROM (SELECT r.*, {ahead} AS ahead, row_number() OVER w AS place "
            f"FROM ({sql}) r WINDOW w AS (ORDER BY {order} ROWS UNBOUNDED PRECEDING)) sized "
            f"WHERE ahead <= :page_bytes OR place <= 2 ORDER BY {order}",
            {**parameters, "page_bytes": self._page_bytes},
        )
