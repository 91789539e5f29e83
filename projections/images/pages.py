"""From a ListQuery to one SQL statement for a page, however many rows that reads.

What a caller may see is a handful of sets (own, public, shared with me, ...). Each is a branch
with its own index, order and limit; a page is the best of their heads. SQL is written once for
both databases, with `:name` parameters. A list as of a `Moment` is the same statement over the
tables of spans, with the condition that a row held then. How lists of the present are read with a
bound stands in `walks.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from calotype.commands.policy.actor import Actor
from calotype.projections.images.listing import Filter, ListQuery, Moment
from calotype.projections.images.rows import INDEXED_CHARACTERS
from calotype.projections.images.tables import IMAGES, MEMBERS, PROPERTIES, TAGS
from calotype.projections.past.row_versions import (
    IMAGE_VERSIONS,
    MEMBER_VERSIONS,
    PROPERTY_VERSIONS,
    TAG_VERSIONS,
)

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
    def images(self) -> str:
        return (IMAGES if self.moment is None else IMAGE_VERSIONS).name

    @property
    def members(self) -> str:
        return (MEMBERS if self.moment is None else MEMBER_VERSIONS).name

    @property
    def tags(self) -> str:
        return (TAGS if self.moment is None else TAG_VERSIONS).name

    @property
    def properties(self) -> str:
        return (PROPERTIES if self.moment is None else PROPERTY_VERSIONS).name

    def holds(self, alias: str) -> list[str]:
        """The conditions that a row held at the moment; none are needed for now."""
        if self.moment is None:
            return []
        self.parameters["at"] = self.moment.position
        return [f"{alias}.from_position <= :at", f"{alias}.to_position > :at"]

    def bind(self, value: Any) -> str:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f":{name}"


def page_statement(
    query: ListQuery,
    actor: Actor,
    after: tuple[Any, ...] | None,
    moment: Moment | None = None,
) -> tuple[str, dict[str, Any]]:
    """The statement for one page and its parameters.

    Rows are `(document, id, locations, status, sort values...)`; there is one row more than
    `query.limit` when something comes after the page. `after` = the sort values of the marker.
    """
    statement = Statement(moment)
    # Of the past a project lists its own first, because its images are few beside those that
    # ever had a tag; who lists everything starts from the tag.
    narrowed = moment is None or actor.is_admin
    source, joins = _source(query, statement) if narrowed else ("", [])
    filters = _filters(query, bool(source), statement)
    conditions = [*joins, *filters, *_then(query, actor, source, statement)]
    expressions = [_sort_expression(key, source) for key, _ in query.sort]
    if after is not None:
        conditions.append(beyond(query, expressions, after, statement))
    order = ", ".join(f"s{n} {way}" for n, (_, way) in enumerate(query.sort))
    limit = f"LIMIT {query.limit + 1}"
    columns = ", ".join(
        [f"{DOCUMENT} AS document", "i.id", "i.locations", "i.status"]
        + [f"{expression} AS s{n}" for n, expression in enumerate(expressions)]
    )
    inner = ", ".join(
        f"{expression} {way}" for expression, (_, way) in zip(expressions, query.sort, strict=True)
    )
    selects = []
    branches = _branches(query, actor, statement)
    for table, conditions_of_branch in _in_blocks(branches, source, statement):
        where = " AND ".join([*conditions_of_branch, *conditions])
        selects.append(
            f"SELECT {columns} FROM {table}{source}{statement.images} i "
            f"WHERE {where} ORDER BY {inner} {limit}"
        )
    if len(selects) == 1:
        return selects[0], statement.parameters
    union = " UNION ALL ".join(f"SELECT * FROM ({select}) b{n}" for n, select in enumerate(selects))
    return f"SELECT * FROM ({union}) page ORDER BY {order} {limit}", statement.parameters


def marker_statement(query: ListQuery, moment: Moment | None = None) -> str:
    """Gives `(owner, visibility, is_member, document, sort values...)` of the image `:id`.

    `is_member` is about `:project`. With a moment, `:at` is its position.
    """
    statement = Statement(moment)
    member = " AND ".join(["m.image_id = i.id", "m.member = :project", *statement.holds("m")])
    image = " AND ".join(["i.id = :id", *statement.holds("i")])
    expressions = ", ".join(SORT_EXPRESSIONS[key] for key, _ in query.sort)
    return (
        f"SELECT i.owner, i.visibility, EXISTS (SELECT 1 FROM {statement.members} m WHERE "
        f"{member}), i.document, {expressions} FROM {statement.images} i WHERE {image}"
    )


def _then(query: ListQuery, actor: Actor, source: str, statement: Statement) -> list[str]:
    """What a row of the past must fulfil beside the filters: it held, and may be seen today."""
    moment = statement.moment
    if moment is None:
        return []
    conditions = statement.holds("i")
    if query.sort[0][0] == "created_at":
        # Only a list by age can start there; another would be led to the wrong index.
        born = _sort_expression("created_at", source)
        conditions.append(f"{born} <= {statement.bind(moment.newest_created_at)}")
    if not actor.is_admin:
        conditions.append(visible_today(statement.bind(actor.project)))
    return conditions


def visible_today(project: str) -> str:
    """The condition that the image of span `i` may be seen today by the project.

    `project` is a parameter. What was deleted since is seen by the project that owned it last.
    """
    return (
        f"(EXISTS (SELECT 1 FROM {IMAGES.name} n WHERE n.id = i.id AND (n.owner IS NULL "
        f"OR n.owner = {project} OR n.visibility IN ('public', 'community') "
        f"OR (n.visibility = 'shared' AND EXISTS (SELECT 1 FROM {MEMBERS.name} o "
        f"WHERE o.image_id = n.id AND o.member = {project})))) "
        f"OR (NOT EXISTS (SELECT 1 FROM {IMAGES.name} n WHERE n.id = i.id) AND {project} = "
        f"(SELECT l.owner FROM {IMAGE_VERSIONS.name} l WHERE l.id = i.id "
        "ORDER BY l.from_position DESC LIMIT 1)))"
    )


def _in_blocks(
    branches: list[tuple[str, list[str]]], source: str, statement: Statement
) -> list[tuple[str, list[str]]]:
    """The branches, each once per block of spans; those that start from members go by these."""
    if statement.moment is None:
        return branches
    alias = "t" if source else "i"
    blocks = [statement.bind(block) for block in statement.moment.blocks]
    result = []
    for table, conditions in branches:
        if table:
            result.append((table, [*conditions, *statement.holds("m")]))
        else:
            result += [("", [f"{alias}.block = {block}", *conditions]) for block in blocks]
    return result


def _source(query: ListQuery, statement: Statement) -> tuple[str, list[str]]:
    """The table to walk before the images, if a tag or property narrows the list.

    CROSS JOIN makes SQLite keep this order; PostgreSQL decides for itself.
    """
    if query.tags:
        tag = statement.bind(query.tags[0])
        return f"{statement.tags} t CROSS JOIN ", [
            "i.id = t.image_id",
            f"t.tag = {tag}",
            *statement.holds("t"),
        ]
    if query.properties:
        name, value = query.properties[0]
        return f"{statement.properties} t CROSS JOIN ", [
            "i.id = t.image_id",
            *property_conditions("t", name, value, statement),
            *statement.holds("t"),
        ]
    return "", []


def _sort_expression(key: str, source: str) -> str:
    # The narrowing table has the age too, so that its index gives the order.
    if source and key == "created_at":
        return "t.created_at"
    if source and key == "id":
        return "t.image_id"
    return SORT_EXPRESSIONS[key]


def property_conditions(table: str, name: str, value: str, statement: Statement) -> list[str]:
    return [
        f"{table}.name = {statement.bind(name)}",
        f"{table}.value_start = {statement.bind(value[:INDEXED_CHARACTERS])}",
        f"{table}.value = {statement.bind(value)}",
    ]


def _filters(query: ListQuery, narrowed: bool, statement: Statement) -> list[str]:
    """All conditions of the query but the one, if any, by which the source narrows the list."""
    conditions = ["i.os_hidden" if query.hidden else "NOT i.os_hidden"]
    tags = query.tags[1:] if narrowed else query.tags
    properties = query.properties if query.tags or not narrowed else query.properties[1:]
    conditions += having(tags, properties, statement)
    conditions += [column_condition(condition, statement) for condition in query.filters]
    return conditions


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
        counted = f"SELECT count(*) FROM {statement.tags} x WHERE {wanted}"
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
        counted = f"SELECT count(*) FROM {statement.properties} x WHERE {wanted}"
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
    """Whether a row could hold the value at all; if not, nothing needs to be asked."""
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


def _branches(query: ListQuery, actor: Actor, statement: Statement) -> list[tuple[str, list[str]]]:
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
        (f"{statement.members} m CROSS JOIN ", [*shared_with_me, foreign]),
    ]
    if wanted != "shared":
        branches.append(("", ["i.visibility = 'public'", foreign]))
    if wanted == "all":
        branches.append(("", ["i.visibility = 'community'", foreign]))
    return branches
