"""How a list of the present is read: by statements that read a bounded number of rows.

Where an index gives a caller's list in order, one statement walks it and stops after the page.
Otherwise two statements are tried: the few rows that one of the conditions leaves, if they are
few; and a walk in the order of the list which asks of each row whether it fits, and ends after a
while. What neither answers is a scan, `pages.page_statement` from where the walk ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from calotype.commands.policy import Actor
from calotype.projections.images import INDEXED_CHARACTERS
from calotype.projections.listing import Filter, ListQuery
from calotype.projections.pages import (
    SORT_EXPRESSIONS,
    Statement,
    beyond,
    column_condition,
    having,
    is_storable,
)
from calotype.projections.tables import IMAGES, MEMBERS, PROPERTIES, TAGS

FEW_PAGES, WALKED_PAGES = 30, 14
"""How many rows count as few, and how many a walk looks at, in pages of the caller's size."""
SMALLEST_PAGE, LARGEST_PAGE = 26, 1001
BRANCHES_OF_VALUES = 8
"""So many values of `in:` are walked side by side; more are looked for otherwise."""

_EQUAL = (
    "name", "status", "container_format", "disk_format", "size", "virtual_size", "checksum",
    "os_hash_value", "os_hash_algo", "min_ram", "min_disk", "protected", "updated_at",
)  # fmt: skip
_RARE = ("id", "name", "checksum", "os_hash_value", "size", "virtual_size")
_RANGE = ("size", "virtual_size", "min_ram", "min_disk", "updated_at", "created_at")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_AGES = ("i.created_at", "i.id")


@dataclass(frozen=True, slots=True)
class Tagged:
    """A tag (`name` is None) or a custom property that images of the list have."""

    name: str | None
    value: str


Driver = Filter | Tagged
"""A condition of the list that an index answers."""


@dataclass(frozen=True, slots=True)
class Walk:
    """A statement whose rows are those of `page_statement`, each with whether it fits."""

    sql: str
    parameters: dict[str, Any]
    bound: int | None
    """How many rows it looks at: the last of them is given even if it does not fit. None: an
    index gives the list, and all rows fit."""


@dataclass(slots=True)
class _Branch:
    """One set of images: where its index begins, what that index answers, and what it does not."""

    source: str = ""
    indexed: list[str] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)
    """What keeps this set apart from those before it: an image that comes twice would be counted
    twice where a walk ends."""
    mostly: list[str] = field(default_factory=list)
    """What nearly all rows of the index fulfil, so that a walk need not be bounded for it."""
    asked: list[str] = field(default_factory=list)
    ages: tuple[str, str] = _AGES


def drivers(query: ListQuery) -> list[Driver]:
    """The conditions that an index answers, of which one may leave few rows."""
    tagged = [Tagged(None, tag) for tag in query.tags]
    tagged += [Tagged(name, value) for name, value in query.properties]
    return [*tagged, *(condition for condition in query.filters if _index_of(condition))]


def is_rare(driver: Driver | None) -> bool:
    """Whether few images are to be expected by nature: of one name or checksum, or of a caller."""
    if isinstance(driver, Filter):
        return driver.column in _RARE and driver.operator in ("eq", "in")
    return driver is None


def has_order_of_sets(query: ListQuery, actor: Actor) -> bool:
    """Whether the caller's own indexes have the order of the list, and not only all images'."""
    key = query.sort[0][0]
    return _is_ordered(query) and (
        key == "created_at" or (key == "name" and _have_names(query, actor))
    )


def is_impossible(query: ListQuery) -> bool:
    """Whether a filter names nothing that any row could hold."""
    return any(
        not any(is_storable(condition.column, value) for value in condition.values)
        for condition in query.filters
    )


def few(query: ListQuery) -> int:
    """How many rows are few for a page of this list."""
    ids = [len(c.values) for c in query.filters if c.column == "id"]
    return max([FEW_PAGES * _page(query), *ids])


def walk(
    query: ListQuery, actor: Actor, after: tuple[Any, ...] | None, driver: Driver | None
) -> Walk | None:
    """The walk along the list, by the index of `driver` where that has its order; or None."""
    if not _is_ordered(query):
        return None
    statement = Statement()
    branches = _branches(query, actor, driver, statement)
    bounded = any(branch.asked for branch in branches)
    rows = max(WALKED_PAGES * _page(query), query.limit + 1) if bounded else query.limit + 1
    by_age = query.sort[0][0] == "created_at"
    selects = []
    for branch in branches:
        keys = _expressions(query, branch.ages if by_age else _AGES)
        where = [*branch.indexed, *branch.apart, *([] if bounded else branch.mostly)]
        if after is not None:
            where.append(beyond(query, keys, after, statement))
        fits = " AND ".join([*branch.mostly, *branch.asked]) if bounded else ""
        selects.append(
            f"SELECT {_columns(keys)}, {f'({fits})' if fits else '1 = 1'} AS fits "
            f"FROM {branch.source}{IMAGES.name} i "
            f"WHERE {' AND '.join(where) or '1 = 1'} ORDER BY {_order(query, keys)} LIMIT {rows}"
        )
    sql = _merged(selects, _order(query), rows)
    if bounded:
        sql = (
            f"SELECT * FROM (SELECT p.*, row_number() OVER (ORDER BY {_order(query)}) AS n "
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
    keys = _expressions(query, _AGES)
    where = [_visible(query, actor, statement), *_all_conditions(query, statement)]
    if after is not None:
        where.append(beyond(query, keys, after, statement))
    where.append(f"(SELECT count(*) FROM few) <= {most}")
    page = (
        f"SELECT {_columns(keys)} FROM few i WHERE {' AND '.join(where)} "
        f"ORDER BY {_order(query, keys)} LIMIT {query.limit + 1}"
    )
    counted = "SELECT count(*) AS n FROM few"
    sql = (
        f"WITH few AS MATERIALIZED ({_few_rows(query, actor, driver, 'i.*', statement)}) "
        f"SELECT c.n, p.* FROM ({counted}) c LEFT JOIN ({page}) p ON 1 = 1 ORDER BY {_order(query)}"
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
    limit = f"LIMIT {few(query) + 1}"
    if driver is None:
        selects = []
        for branch in _sets(query, actor, statement):
            order = ", ".join(branch.ages)
            where = " AND ".join([*branch.indexed, *branch.apart, *branch.mostly])
            selects.append(
                f"SELECT {columns} FROM {branch.source}{IMAGES.name} i "
                f"WHERE {where} ORDER BY {order} {limit}"
            )
        return _merged(selects, "", few(query) + 1)
    if isinstance(driver, Tagged):
        branch = _Branch()
        _narrow(branch, driver, statement)
        where, order = " AND ".join(branch.indexed), ", ".join(branch.ages)
        return (
            f"SELECT {columns} FROM {branch.source}{IMAGES.name} i "
            f"WHERE {where} ORDER BY {order} {limit}"
        )
    where = _indexed_condition(driver, query, statement)
    order = _index_of(driver)
    return f"SELECT {columns} FROM {IMAGES.name} i WHERE {where} ORDER BY {order} {limit}"


# ---- the sets of a caller, and their indexes ----


def _sets(query: ListQuery, actor: Actor, statement: Statement) -> list[_Branch]:
    """The sets of images that the caller lists, each by age."""
    wanted, hidden = query.visibility, _hidden(query, statement)
    if actor.is_admin:
        if wanted in ("public", "private", "shared", "community"):
            return [_Branch(indexed=[f"i.visibility = '{wanted}'", hidden])]
        if wanted == "all":
            return [_Branch(indexed=[hidden])]
        mostly = "i.visibility <> 'community'"
        if actor.project is not None:
            mostly = f"({mostly} OR i.owner = {statement.bind(actor.project)})"
        return [_Branch(indexed=[hidden], mostly=[mostly])]
    kinds = _listed_by_all(wanted)
    if actor.project is None:
        return [_Branch(indexed=[f"i.visibility = '{kind}'", hidden]) for kind in kinds] or [
            _Branch(indexed=["1 = 0"])
        ]
    project = statement.bind(actor.project)
    foreign = f"(i.owner IS NULL OR i.owner <> {project})"
    if wanted in ("public", "community"):
        return [_Branch(indexed=[f"i.visibility = '{wanted}'", hidden])]
    own = _Branch(indexed=[f"i.owner = {project}", hidden])
    if wanted in ("private", "shared"):
        own.asked.append(f"i.visibility = '{wanted}'")
    if wanted == "private":
        return [own]
    statuses = ["pending", "accepted", "rejected"]
    if query.member_status != "all":
        statuses = [query.member_status]
    shared = [
        _Branch(
            source=f"{MEMBERS.name} m CROSS JOIN ",
            indexed=["i.id = m.image_id", f"m.member = {project}", f"m.status = '{status}'"],
            apart=[foreign],
            mostly=["i.visibility = 'shared'", hidden],
            ages=("m.image_created_at", "m.image_id"),
        )
        for status in statuses
    ]
    others = [
        _Branch(indexed=[f"i.visibility = '{kind}'", hidden], apart=[foreign]) for kind in kinds
    ]
    return [own, *shared, *others]


def _listed_by_all(wanted: str | None) -> tuple[str, ...]:
    if wanted == "all":
        return ("public", "community")
    return {None: ("public",), "public": ("public",), "community": ("community",)}.get(wanted, ())


def _branches(
    query: ListQuery, actor: Actor, driver: Driver | None, statement: Statement
) -> list[_Branch]:
    """The sets, in the order of the list, with all conditions of the query."""
    key = query.sort[0][0]
    sets = _sets(query, actor, statement)
    if not has_order_of_sets(query, actor):
        # Only the order of all images has an index: what the caller sees is asked of each.
        asked = (
            []
            if actor.is_admin and query.visibility in (None, "all")
            else [_visible(query, actor, statement)]
        )
        mostly = sets[0].mostly if not asked else []
        sets = [_Branch(mostly=mostly, asked=asked)]
        (sets[0].asked if query.hidden else sets[0].mostly).append(_hidden(query, statement))
    if key == "created_at" and isinstance(driver, Tagged):
        for branch in sets:
            _narrow(branch, driver, statement)
    result = []
    for branch in sets:
        result += _conditioned(branch, query, actor, driver, statement)
    return result


def _born_before(condition: Filter, branch: _Branch, key: str, statement: Statement) -> list[str]:
    """Where a list by age may begin, if images changed last before a time are asked for.

    An image is born before it changes, by any two clocks that differ by less than a day. Without
    this a walk from the newest would pass by all that are younger.
    """
    if condition.column != "updated_at" or key != "created_at":
        return []
    if condition.operator not in ("lt", "lte", "eq"):
        return []
    time = datetime.strptime(str(condition.values[0]), _TIME)
    if time.date() == date.max:
        return []
    return [f"{branch.ages[0]} <= {statement.bind((time + timedelta(days=1)).strftime(_TIME))}"]


def _have_names(query: ListQuery, actor: Actor) -> bool:
    """Whether each of the caller's sets is small or has an index by name."""
    if actor.is_admin or actor.project is None:
        return False
    return query.visibility is None and query.member_status == "accepted" and not query.hidden


def _narrow(branch: _Branch, driver: Tagged, statement: Statement) -> None:
    """Starts the branch from the table of tags or properties, where its set has an index there.

    What a project was offered is few, and of each it is asked whether it has the tag.
    """
    if branch.source:
        tags, properties = _tagged([driver])
        branch.mostly += having(tags, properties, statement)
        return
    table = TAGS if driver.name is None else PROPERTIES
    known = [condition for condition in branch.indexed if "i.owner = " in condition]
    known += [f"i.visibility = '{kind}'" for kind in ("public", "community")
              if f"i.visibility = '{kind}'" in branch.indexed]  # fmt: skip
    rest = [condition for condition in branch.indexed if condition not in known]
    conditions = ["i.id = t.image_id"]
    if driver.name is None:
        conditions.append(f"t.tag = {statement.bind(driver.value)}")
    else:
        start = statement.bind(driver.value[:INDEXED_CHARACTERS])
        conditions += [f"t.name = {statement.bind(driver.name)}", f"t.value_start = {start}"]
        if len(driver.value) >= INDEXED_CHARACTERS:
            branch.mostly.append(f"t.value = {statement.bind(driver.value)}")
    branch.source = f"{table.name} t CROSS JOIN "
    branch.indexed = [*conditions, *(condition.replace("i.", "t.", 1) for condition in known)]
    branch.mostly += rest
    branch.ages = ("t.created_at", "t.image_id")


def _conditioned(
    branch: _Branch,
    query: ListQuery,
    actor: Actor,
    driver: Driver | None,
    statement: Statement,
) -> list[_Branch]:
    """The branch with the filters of the query: one for each value that its index is walked by."""
    key = query.sort[0][0]
    tagged = [t for t in drivers(query) if isinstance(t, Tagged) and t != driver]
    branch.asked += having(*_tagged(tagged), statement)
    if isinstance(driver, Tagged) and key != "created_at":
        branch.asked += having(*_tagged([driver]), statement)
    values: tuple[Any, ...] = ()
    for condition in query.filters:
        if condition.operator != "neq" and condition.column == key:
            text = column_condition(condition, statement)
            branch.indexed.append(text.replace("i.created_at", branch.ages[0]))
        elif not values and _is_walked_by(branch, condition, actor, driver, key):
            values = tuple(dict.fromkeys(condition.values))
            walked = condition
        else:
            # What a project accepted is as few as it wants.
            accepted = branch.source and query.member_status == "accepted"
            texts = branch.mostly if accepted else branch.asked
            texts.append(column_condition(condition, statement))
            branch.indexed += _born_before(condition, branch, key, statement)
    if not values:
        return [branch]
    # In the index of the value is no room for whether images are hidden.
    indexed = [text for text in branch.indexed if "os_hidden" not in text]
    mostly = [*branch.mostly, *(text for text in branch.indexed if "os_hidden" in text)]
    if walked.column == "owner":
        indexed, mostly = branch.indexed, branch.mostly
    return [
        _Branch(
            branch.source,
            [*indexed, *_literals(one, statement)],
            branch.apart,
            mostly,
            branch.asked,
            branch.ages,
        )
        for value in values
        for one in [Filter(walked.column, "eq", (value,))]
        if is_storable(walked.column, value)
    ]


def _is_walked_by(
    branch: _Branch, condition: Filter, actor: Actor, driver: Driver | None, key: str
) -> bool:
    """Whether an index holds this set's images with the value by age."""
    if key != "created_at" or branch.source or len(condition.values) > BRANCHES_OF_VALUES:
        return False
    if condition.operator not in ("eq", "in") or not _index_of(condition):
        return False
    if "visibility" not in "".join(branch.indexed) and "owner" not in "".join(branch.indexed):
        return condition == driver and condition.column in (*_EQUAL, "owner")
    if "i.visibility = 'public'" in branch.indexed:
        return condition.column == "name"
    return "i.owner = " in branch.indexed[0] and condition.column in ("name", "status")


# ---- conditions ----


def _index_of(condition: Filter) -> str:
    """The order of the index that answers the filter; empty where there is none.

    Values that most images have are in no index.
    """
    column, operator, values = condition.column, condition.operator, condition.values
    if column == "id":
        return "i.id"
    if column == "owner":
        return "i.owner, i.os_hidden, i.created_at, i.id"
    if column == "created_at":
        return "" if operator == "neq" else "i.os_hidden, i.created_at, i.id"
    equal = operator in ("eq", "in") and column in _EQUAL
    between = operator not in ("eq", "in", "neq") and column in _RANGE
    usual = {
        "status": "active",
        "container_format": "bare",
        "os_hash_algo": "sha512",
        "protected": False,
        "min_ram": 0,
        "min_disk": 0,
    }
    if not (equal or between) or usual.get(column, object()) in values:
        return ""
    if column in ("min_ram", "min_disk") and (operator == "lte" or int(values[0]) <= 0):
        return ""
    if column == "protected":
        return "i.created_at, i.id"
    return f"{SORT_EXPRESSIONS.get(column, f'i.{column}')}, i.created_at, i.id"


def _literals(condition: Filter, statement: Statement) -> list[str]:
    """The filter and, spelled as the index has it, what its index is limited to."""
    limits = {
        "min_ram": "i.min_ram <> 0",
        "min_disk": "i.min_disk <> 0",
        "os_hash_algo": "i.os_hash_algo <> 'sha512'",
        "status": "i.status <> 'active'",
    }
    limit = limits.get(condition.column)
    if condition.column == "status" and "active" in condition.values:
        limit = None
    return [column_condition(condition, statement), *([limit] if limit else [])]


def _indexed_condition(condition: Filter, query: ListQuery, statement: Statement) -> str:
    texts = _literals(condition, statement)
    if condition.column in ("created_at", "owner"):
        texts.append(_hidden(query, statement))
    return " AND ".join(texts)


def _all_conditions(query: ListQuery, statement: Statement) -> list[str]:
    return [
        _hidden(query, statement),
        *having(query.tags, query.properties, statement),
        *(column_condition(condition, statement) for condition in query.filters),
    ]


def _visible(query: ListQuery, actor: Actor, statement: Statement) -> str:
    """The condition that image `i` is in one of the sets that the caller lists."""
    sets = []
    for branch in _sets(query, actor, statement):
        texts = [text for text in branch.indexed if "os_hidden" not in text]
        if branch.source:
            texts = [f"EXISTS (SELECT 1 FROM {MEMBERS.name} m WHERE {' AND '.join(texts)})"]
        rest = [*branch.apart, *branch.mostly, *branch.asked]
        rest = [text for text in rest if "os_hidden" not in text]
        sets.append(" AND ".join([*texts, *rest]) or "1 = 1")
    return "(" + " OR ".join(f"({text})" for text in sets) + ")"


def _hidden(query: ListQuery, statement: Statement) -> str:
    return f"i.os_hidden = {statement.bind(query.hidden)}"


def _tagged(tagged: Sequence[Tagged]) -> tuple[list[str], list[tuple[str, str]]]:
    tags = [one.value for one in tagged if one.name is None]
    return tags, [(one.name, one.value) for one in tagged if one.name is not None]


# ---- order ----


def _page(query: ListQuery) -> int:
    return min(max(query.limit + 1, SMALLEST_PAGE), LARGEST_PAGE)


def _is_ordered(query: ListQuery) -> bool:
    """Whether an index has the order: by one key, then by age, all in one direction."""
    keys = [key for key, _ in query.sort]
    one_way = len({way for _, way in query.sort}) == 1
    return one_way and (keys in (["id"], ["created_at", "id"]) or keys[1:] == ["created_at", "id"])


def _expressions(query: ListQuery, ages: tuple[str, str]) -> list[str]:
    by_age = dict(zip(("created_at", "id"), ages, strict=True))
    return [by_age.get(key) or SORT_EXPRESSIONS[key] for key, _ in query.sort]


def _order(query: ListQuery, keys: Sequence[str] = ()) -> str:
    names = keys or [f"s{n}" for n in range(len(query.sort))]
    return ", ".join(f"{name} {way}" for name, (_, way) in zip(names, query.sort, strict=True))


def _columns(keys: Sequence[str]) -> str:
    columns = ["i.document", "i.id", "i.locations", "i.status"]
    return ", ".join([*columns, *(f"{key} AS s{n}" for n, key in enumerate(keys))])


def _merged(selects: Sequence[str], order: str, limit: int) -> str:
    if len(selects) == 1:
        return selects[0]
    union = " UNION ALL ".join(f"SELECT * FROM ({select}) b{n}" for n, select in enumerate(selects))
    ordered = f"ORDER BY {order} " if order else ""
    return f"SELECT * FROM ({union}) page {ordered}LIMIT {limit}"
