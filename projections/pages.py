"""From a ListQuery to one SQL statement that walks an index and stops after a page.

What a caller may see is a handful of sets (own, public, shared with me, ...). Each is a branch
with its own index, order and limit; a page is the best of their heads. SQL is written once for
both databases, with `:name` parameters.
"""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from calotype.commands.policy import Actor
from calotype.projections.images import INDEXED_CHARACTERS
from calotype.projections.listing import Filter, ListQuery
from calotype.projections.tables import IMAGES, MEMBERS, PROPERTIES, TAGS

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

_COMPARISONS = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_LARGEST_INTEGER = 2**63 - 1


@dataclass(slots=True)
class _Statement:
    """Parameters of the statement under construction, each given a name once."""

    parameters: dict[str, Any] = field(default_factory=dict)

    def bind(self, value: Any) -> str:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f":{name}"


def page_statement(
    query: ListQuery, actor: Actor, after: tuple[Any, ...] | None
) -> tuple[str, dict[str, Any]]:
    """The statement for one page and its parameters.

    Rows are `(document, id, locations, status, sort values...)`; there is one row more than
    `query.limit` when something comes after the page. `after` = the sort values of the marker.
    """
    statement = _Statement()
    source, joins = _source(query, statement)
    conditions = [*joins, *_filters(query, statement)]
    if after is not None:
        conditions.append(_beyond(query, after, statement))
    expressions = [_sort_expression(key, source) for key, _ in query.sort]
    order = ", ".join(f"s{n} {way}" for n, (_, way) in enumerate(query.sort))
    limit = f"LIMIT {query.limit + 1}"
    columns = ", ".join(
        ["i.document", "i.id", "i.locations", "i.status"]
        + [f"{expression} AS s{n}" for n, expression in enumerate(expressions)]
    )
    inner = ", ".join(
        f"{expression} {way}" for expression, (_, way) in zip(expressions, query.sort, strict=True)
    )
    selects = []
    for table, conditions_of_branch in _branches(query, actor, statement):
        where = " AND ".join([*conditions_of_branch, *conditions])
        selects.append(
            f"SELECT {columns} FROM {table}{source}{IMAGES.name} i "
            f"WHERE {where} ORDER BY {inner} {limit}"
        )
    if len(selects) == 1:
        return selects[0], statement.parameters
    union = " UNION ALL ".join(f"SELECT * FROM ({select}) b{n}" for n, select in enumerate(selects))
    return f"SELECT * FROM ({union}) page ORDER BY {order} {limit}", statement.parameters


def marker_statement(query: ListQuery) -> str:
    """Gives `(owner, visibility, is_member, sort values...)` of the image `:id` for `:project`."""
    expressions = ", ".join(SORT_EXPRESSIONS[key] for key, _ in query.sort)
    return (
        f"SELECT i.owner, i.visibility, EXISTS (SELECT 1 FROM {MEMBERS.name} m WHERE "
        f"m.image_id = i.id AND m.member = :project), {expressions} "
        f"FROM {IMAGES.name} i WHERE i.id = :id"
    )


def _source(query: ListQuery, statement: _Statement) -> tuple[str, list[str]]:
    """The table to walk before the images, if a tag or property narrows the list.

    CROSS JOIN makes SQLite keep this order; PostgreSQL decides for itself.
    """
    if query.tags:
        tag = statement.bind(query.tags[0])
        return f"{TAGS.name} t CROSS JOIN ", ["i.id = t.image_id", f"t.tag = {tag}"]
    if query.properties:
        name, value = query.properties[0]
        return f"{PROPERTIES.name} t CROSS JOIN ", [
            "i.id = t.image_id",
            *_property_conditions("t", name, value, statement),
        ]
    return "", []


def _sort_expression(key: str, source: str) -> str:
    # The narrowing table has the age too, so that its index gives the order.
    if source and key == "created_at":
        return "t.created_at"
    if source and key == "id":
        return "t.image_id"
    return SORT_EXPRESSIONS[key]


def _property_conditions(table: str, name: str, value: str, statement: _Statement) -> list[str]:
    return [
        f"{table}.name = {statement.bind(name)}",
        f"{table}.value_start = {statement.bind(value[:INDEXED_CHARACTERS])}",
        f"{table}.value = {statement.bind(value)}",
    ]


def _filters(query: ListQuery, statement: _Statement) -> list[str]:
    conditions = ["i.os_hidden" if query.hidden else "NOT i.os_hidden"]
    for tag in query.tags[1:]:
        conditions.append(
            f"EXISTS (SELECT 1 FROM {TAGS.name} x WHERE x.image_id = i.id "
            f"AND x.tag = {statement.bind(tag)})"
        )
    rest = query.properties if query.tags else query.properties[1:]
    for name, value in rest:
        conditions.append(
            f"EXISTS (SELECT 1 FROM {PROPERTIES.name} x WHERE x.image_id = i.id AND "
            + " AND ".join(_property_conditions("x", name, value, statement))
            + ")"
        )
    conditions += [_column_condition(condition, statement) for condition in query.filters]
    return conditions


def _column_condition(condition: Filter, statement: _Statement) -> str:
    column = f"i.{condition.column}"
    values = [value for value in condition.values if _storable(condition.column, value)]
    if not values:
        return "1 = 0"
    if condition.column == "id":
        values = [str(UUID(str(value))) for value in values]
    if condition.column == "protected":
        return column if values[0] else f"NOT {column}"
    if condition.column in ("name", "container_format", "disk_format"):
        # Spelled like the sort index, which then answers the filter in order.
        column = SORT_EXPRESSIONS[condition.column]
        known = f" AND i.{condition.column} IS NOT NULL"
    else:
        known = ""
    if condition.operator == "in" and len(values) > 1:
        places = ", ".join(statement.bind(value) for value in values)
        return f"{column} IN ({places}){known}"
    sign = _COMPARISONS.get(condition.operator, "=")
    return f"{column} {sign} {statement.bind(values[0])}{known}"


def _storable(column: str, value: Any) -> bool:
    """Whether a row could hold the value at all; if not, nothing needs to be asked."""
    if isinstance(value, int):
        return -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER
    if column == "id":
        try:
            return len(value) == 36 and bool(UUID(value))
        except ValueError:
            return False
    return True


def _beyond(query: ListQuery, after: tuple[Any, ...], statement: _Statement) -> str:
    """The rows that come after the marker in the order of the query."""
    source = bool(query.tags or query.properties)
    expressions = [_sort_expression(key, "t" if source else "") for key, _ in query.sort]
    ways = [way for _, way in query.sort]
    marks = [statement.bind(value) for value in after]
    if len(set(ways)) == 1:
        sign = ">" if ways[0] == "asc" else "<"
        return f"({', '.join(expressions)}) {sign} ({', '.join(marks)})"
    alternatives = []
    for n, way in enumerate(ways):
        equal = [f"{expressions[k]} = {marks[k]}" for k in range(n)]
        alternatives.append(
            " AND ".join([*equal, f"{expressions[n]} {'>' if way == 'asc' else '<'} {marks[n]}"])
        )
    return "(" + " OR ".join(f"({alternative})" for alternative in alternatives) + ")"


def _branches(query: ListQuery, actor: Actor, statement: _Statement) -> list[tuple[str, list[str]]]:
    """The sets of images that this caller lists: a table to start from, and conditions."""
    wanted = query.visibility
    if actor.is_admin:
        if wanted == "all":
            return [("", [])]
        if wanted is not None:
            return [("", [f"i.visibility = '{wanted}'"])]
        if actor.project is None:
            return [("", ["i.visibility <> 'community'"])]
        project = statement.bind(actor.project)
        return [("", [f"(i.visibility <> 'community' OR i.owner = {project})"])]
    if actor.project is None:
        sets = {"public": ["public"], None: ["public"], "community": ["community"]}
        names = ["public", "community"] if wanted == "all" else sets.get(wanted, [])
        return [("", [f"i.visibility = '{name}'"]) for name in names] or [("", ["1 = 0"])]
    project = statement.bind(actor.project)
    own = f"i.owner = {project}"
    foreign = f"(i.owner IS NULL OR i.owner <> {project})"
    if wanted in ("public", "community"):
        return [("", [f"i.visibility = '{wanted}'"])]
    if wanted == "private":
        return [("", [own, "i.visibility = 'private'"])]
    shared_with_me = ["i.id = m.image_id", f"m.member = {project}", "i.visibility = 'shared'"]
    if query.member_status != "all":
        shared_with_me.append(f"m.status = {statement.bind(query.member_status)}")
    branches = [
        ("", [own] if wanted != "shared" else [own, "i.visibility = 'shared'"]),
        (f"{MEMBERS.name} m CROSS JOIN ", [*shared_with_me, foreign]),
    ]
    if wanted != "shared":
        branches.append(("", ["i.visibility = 'public'", foreign]))
    if wanted == "all":
        branches.append(("", ["i.visibility = 'community'", foreign]))
    return branches
