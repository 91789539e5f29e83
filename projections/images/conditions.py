"""What the statements of a list are made of: tables, parameters, conditions, columns, orders.

SQL is written once for both databases, with `:name` parameters.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from calotype.projections.images.listing import Filter, ListQuery, ListTables, Moment
from calotype.projections.images.tables import IMAGES, MEMBERS, PROPERTIES, TAGS

NOW = ListTables(IMAGES.name, MEMBERS.name, TAGS.name, PROPERTIES.name)
"""The tables of the present."""

SORT_EXPRESSIONS = {
    "name": "coalesce(i.name, '')",
    "status": "i.status",
    "container_format": "coalesce(i.container_format, '')",
    "disk_format": "coalesce(i.disk_format, '')",
    "size": "coalesce(i.size, -1)",
    "id": "i.id",
    "created_at": "i.created_at",
    "updated_at": "i.updated_at",
}
"""How each sort key is ordered: a missing value comes before all others."""

DOCUMENT = "i.document"
"""Where the document of a row comes from, in all statements for pages and nowhere else in them."""

_COMPARISONS = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_LARGEST_INTEGER = 2**63 - 1
_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(slots=True)
class Statement:
    """Parameters of a statement under construction, each given a name once; and its tables."""

    moment: Moment | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    conditions: dict[Filter, str] = field(default_factory=dict)
    """Those on columns, each spelled once: one may have hundreds of values, and many branches."""

    @property
    def tables(self) -> ListTables:
        return NOW if self.moment is None else self.moment.tables

    def holds(self, alias: str) -> list[str]:
        """The conditions that a row held at the moment; none are needed for the present."""
        if self.moment is None:
            return []
        self.parameters["at"] = self.moment.position
        return [f"{alias}.from_position <= :at", f"{alias}.to_position > :at"]

    def bind(self, value: Any) -> str:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f":{name}"


def having(
    tags: Sequence[str], properties: Sequence[tuple[str, str]], statement: Statement
) -> list[str]:
    """The conditions that image `i` has all these tags and properties: at most one of each kind.

    All tags are counted in one look at the image's own: a question for each of them would make
    PostgreSQL think about the order in which to ask, for minutes where they are many.
    """
    conditions = []
    if tags:
        marks = ", ".join(statement.bind(tag) for tag in tags)
        wanted = " AND ".join(["x.image_id = i.id", f"x.tag IN ({marks})", *statement.holds("x")])
        counted = f"SELECT count(*) FROM {statement.tables.tags} x WHERE {wanted}"
        conditions.append(f"({counted}) = {len(set(tags))}")
    if properties:
        names = ", ".join(statement.bind(name) for name in {name: None for name, _ in properties})
        pairs = [
            f"(x.name = {statement.bind(name)} AND x.value = {statement.bind(value)})"
            for name, value in properties
        ]
        wanted = " AND ".join(
            [
                "x.image_id = i.id",
                f"x.name IN ({names})",
                f"({' OR '.join(pairs)})",
                *statement.holds("x"),
            ]
        )
        counted = f"SELECT count(*) FROM {statement.tables.properties} x WHERE {wanted}"
        conditions.append(f"({counted}) = {len(set(properties))}")
    return conditions


def column_condition(condition: Filter, statement: Statement) -> str:
    text = statement.conditions.get(condition)
    if text is None:
        text = statement.conditions[condition] = _spelled(condition, statement)
    return text


def _spelled(condition: Filter, statement: Statement) -> str:
    column = f"i.{condition.column}"
    values = [value for value in condition.values if is_storable(condition.column, value)]
    if not values:
        return "1 = 0"
    if condition.column == "id":
        values = [str(value).lower() for value in values]
    if condition.column == "protected":
        return column if values[0] else f"NOT {column}"
    known = ""
    if condition.column in ("name", "container_format", "disk_format", "size"):
        # Spelled like the sort index, which then answers the filter in order. Asked for only
        # where the value that stands for a missing one would fit: SQLite would sort for it.
        column = SORT_EXPRESSIONS[condition.column]
        missing = -1 if condition.column == "size" else ""
        if condition.operator not in ("eq", "in") or missing in values:
            known = f" AND i.{condition.column} IS NOT NULL"
        if condition.column == "size" and condition.operator == "lte":
            known = f" AND {column} >= 0"
    if condition.operator == "in" and len(values) > 1:
        places = ", ".join(statement.bind(value) for value in values)
        return f"{column} IN ({places}){known}"
    sign = _COMPARISONS.get(condition.operator, "=")
    return f"{column} {sign} {statement.bind(values[0])}{known}"


def is_storable(column: str, value: Any) -> bool:
    """Whether a row could hold the value at all; if not, the filter fits no image."""
    if isinstance(value, int):
        return -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER
    return column != "id" or _ID.fullmatch(value) is not None


def beyond(
    query: ListQuery, keys: Sequence[str], after: tuple[Any, ...], statement: Statement
) -> str:
    """The rows that come after the marker in the order of the query, whose keys are these."""
    ways = [way for _, way in query.sort]
    marks = [statement.bind(value) for value in after]
    if len(set(ways)) == 1:
        sign = ">" if ways[0] == "asc" else "<"
        return f"({', '.join(keys)}) {sign} ({', '.join(marks)})"
    alternatives = []
    for n, way in enumerate(ways):
        equal = [f"{keys[k]} = {marks[k]}" for k in range(n)]
        sign = ">" if way == "asc" else "<"
        alternatives.append(" AND ".join([*equal, f"{keys[n]} {sign} {marks[n]}"]))
    return "(" + " OR ".join(f"({alternative})" for alternative in alternatives) + ")"


def order_of(query: ListQuery, keys: Sequence[str] = ()) -> str:
    """The order of the list by these expressions, or by the columns `s0`, `s1`... of a page."""
    names = keys or [f"s{n}" for n in range(len(query.sort))]
    return ", ".join(f"{name} {way}" for name, (_, way) in zip(names, query.sort, strict=True))


def columns_of(keys: Sequence[str]) -> str:
    """The columns of a page's rows; `keys` are the expressions that the list is ordered by."""
    columns = [f"{DOCUMENT} AS document", "i.id", "i.locations", "i.status"]
    return ", ".join([*columns, *(f"{key} AS s{n}" for n, key in enumerate(keys))])


def merged(selects: Sequence[str], order: str, limit: int) -> str:
    """The first rows of several statements that are each in this order; empty: in any."""
    if len(selects) == 1:
        return selects[0]
    union = " UNION ALL ".join(f"SELECT * FROM ({select}) b{n}" for n, select in enumerate(selects))
    ordered = f"ORDER BY {order} " if order else ""
    return f"SELECT * FROM ({union}) page {ordered}LIMIT {limit}"
