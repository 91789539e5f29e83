"""The sets of images that a caller lists, each with the index that has it in order."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from calotype.commands.policy.actor import Actor
from calotype.projections.images.conditions import (
    SORT_EXPRESSIONS,
    Statement,
    column_condition,
    having,
    is_storable,
)
from calotype.projections.images.listing import Filter, ListQuery
from calotype.projections.images.page_drivers import (
    EQUAL,
    Driver,
    Tagged,
    as_indexed,
    by_kind,
    order_of_index,
    tagged_of,
)
from calotype.projections.images.rows import INDEXED_CHARACTERS

BRANCHES_OF_VALUES = 8
"""So many values of `in:` are walked side by side; more are looked for otherwise."""
AGES = ("i.created_at", "i.id")


@dataclass(slots=True)
class Branch:
    """One set of images that a caller lists: its conditions, by what its index does for them."""

    source: str = ""
    """The table to start from, joined with the images; empty: the images themselves."""
    indexed: list[str] = field(default_factory=list)
    """What the index answers: a walk reads no row that does not fulfil it."""
    apart: list[str] = field(default_factory=list)
    """What keeps this set apart from those before it: an image that comes twice would be counted
    twice where a walk ends."""
    mostly: list[str] = field(default_factory=list)
    """What nearly all rows of the index fulfil, so that a walk need not be bounded for it."""
    asked: list[str] = field(default_factory=list)
    """What many rows of the index do not fulfil, so that a walk must be bounded."""
    ages: tuple[str, str] = AGES

    def conditions(self) -> list[str]:
        """All of them, for a statement that has no bound."""
        return [*self.indexed, *self.apart, *self.mostly, *self.asked]

    def select(
        self, columns: str, where: Sequence[str], order: str, limit: int, statement: Statement
    ) -> str:
        """The first rows of the set's table in an order."""
        return (
            f"SELECT {columns} FROM {self.source}{statement.tables.images} i "
            f"WHERE {' AND '.join(where) or '1 = 1'} ORDER BY {order} LIMIT {limit}"
        )


def sets_of(query: ListQuery, actor: Actor, statement: Statement, hidden: str = "") -> list[Branch]:
    """The sets of images that the caller lists, each by age.

    `hidden` is the condition on whether images are hidden, if not as the indexes by age have it.
    """
    wanted, hidden = query.visibility, hidden or is_hidden(query, statement)

    def seen_as(*kinds: str, apart: Sequence[str] = ()) -> list[Branch]:
        return [
            Branch(indexed=[f"i.visibility = '{kind}'", hidden], apart=[*apart]) for kind in kinds
        ]

    if wanted in ("public", "community") or (actor.is_admin and wanted in ("private", "shared")):
        return seen_as(wanted)
    if actor.is_admin:
        mostly = "i.visibility <> 'community'"
        if actor.project is not None:
            mostly = f"({mostly} OR i.owner = {statement.bind(actor.project)})"
        return [Branch(indexed=[hidden], mostly=[] if wanted == "all" else [mostly])]
    by_all = {"all": ("public", "community"), None: ("public",)}.get(wanted, ())
    if actor.project is None:
        return seen_as(*by_all) or [Branch(indexed=["1 = 0"])]
    project = statement.bind(actor.project)
    foreign = f"(i.owner IS NULL OR i.owner <> {project})"
    own = Branch(indexed=[f"i.owner = {project}", hidden])
    if wanted in ("private", "shared"):
        own.asked.append(f"i.visibility = '{wanted}'")
    if wanted == "private":
        return [own]
    statuses = ["pending", "accepted", "rejected"]
    if query.member_status != "all":
        statuses = [query.member_status]
    shared = [
        Branch(
            source=f"{statement.tables.members} m CROSS JOIN ",
            indexed=[
                "i.id = m.image_id",
                f"m.member = {project}",
                f"m.status = '{status}'",
                *statement.holds("m"),
            ],
            apart=[foreign],
            mostly=["i.visibility = 'shared'", hidden],
            ages=AGES if statement.moment else ("m.image_created_at", "m.image_id"),
        )
        for status in statuses
    ]
    return [own, *shared, *seen_as(*by_all, apart=[foreign])]


def branches_of(
    query: ListQuery, actor: Actor, driver: Driver | None, statement: Statement
) -> list[Branch]:
    """The sets, in the order of the list, with all conditions of the query."""
    key = query.sort[0][0]
    sets = sets_of(query, actor, statement)
    if not has_order_of_sets(query, actor):
        # Only the order of all images has an index: each row is checked for what the caller sees.
        asked = (
            []
            if actor.is_admin and query.visibility in (None, "all")
            else [visible(query, actor, statement)]
        )
        mostly = sets[0].mostly if not asked else []
        sets = [Branch(mostly=mostly, asked=asked)]
        (sets[0].asked if query.hidden else sets[0].mostly).append(is_hidden(query, statement))
    if key == "created_at" and isinstance(driver, Tagged):
        for branch in sets:
            narrow(branch, driver, statement)
    result = []
    for branch in sets:
        result += _conditioned(branch, query, actor, driver, statement)
    return result


def has_order_of_sets(query: ListQuery, actor: Actor) -> bool:
    """Whether the caller's own indexes have the order of the list, and not only all images'."""
    key = query.sort[0][0]
    usual = query.visibility is None and query.member_status == "accepted" and not query.hidden
    # By name each of a project's usual sets is small or has an index.
    by_name = usual and not actor.is_admin and actor.project is not None
    return is_ordered(query) and (key == "created_at" or (key == "name" and by_name))


def is_ordered(query: ListQuery) -> bool:
    """Whether an index has the order: by one key, then by age, all in one direction."""
    keys = [key for key, _ in query.sort]
    one_way = len({way for _, way in query.sort}) == 1
    return one_way and (keys in (["id"], ["created_at", "id"]) or keys[1:] == ["created_at", "id"])


def narrow(branch: Branch, driver: Tagged, statement: Statement) -> None:
    """Starts the branch from the table of tags or properties, where its set has an index there.

    A project was offered few images, so each of these is checked for the tag.
    """
    if branch.source:
        tags, properties = by_kind([driver])
        branch.mostly += having(tags, properties, statement)
        return
    tables, known = statement.tables, []
    if statement.moment is None:  # The tables of the past do not have whose an image is.
        indexes = ("i.owner = ", "i.visibility = 'public'", "i.visibility = 'community'")
        known = [condition for condition in branch.indexed if condition.startswith(indexes)]
    rest = [condition for condition in branch.indexed if condition not in known]
    conditions = ["i.id = t.image_id", *statement.holds("t")]
    if driver.name is None:
        conditions.append(f"t.tag = {statement.bind(driver.value)}")
    else:
        start = statement.bind(driver.value[:INDEXED_CHARACTERS])
        conditions += [f"t.name = {statement.bind(driver.name)}", f"t.value_start = {start}"]
        if len(driver.value) >= INDEXED_CHARACTERS:
            branch.mostly.append(f"t.value = {statement.bind(driver.value)}")
    table = tables.tags if driver.name is None else tables.properties
    branch.source = f"{table} t CROSS JOIN "
    branch.indexed = [*conditions, *(condition.replace("i.", "t.", 1) for condition in known)]
    branch.mostly += rest
    branch.ages = ("t.created_at", "t.image_id")


def _conditioned(
    branch: Branch,
    query: ListQuery,
    actor: Actor,
    driver: Driver | None,
    statement: Statement,
) -> list[Branch]:
    """The branch with the filters of the query: one for each value that its index is walked by."""
    key = query.sort[0][0]
    tagged = [one for one in tagged_of(query) if one != driver]
    branch.asked += having(*by_kind(tagged), statement)
    if isinstance(driver, Tagged) and key != "created_at":
        branch.asked += having(*by_kind([driver]), statement)
    values: tuple[Any, ...] = ()
    for condition in query.filters:
        if condition.operator != "neq" and condition.column == key:
            for bound in _bounds(condition):
                text = column_condition(bound, statement)
                branch.indexed.append(text.replace("i.created_at", branch.ages[0]))
        elif not values and _is_walked_by(branch, condition, actor, driver, key):
            values = tuple(dict.fromkeys(condition.values))
            walked = condition
        else:
            text = column_condition(condition, statement)
            if branch.source and query.member_status == "accepted":
                # What a project accepted is as few as it wants. Spelled so that no index is taken
                # for it: these images are found by their ids.
                branch.mostly.append(f"({text}) IS TRUE")
            else:
                branch.asked.append(text)
    if not values:
        return [branch]
    # In the index of the value is no room for whether images are hidden.
    indexed = [text for text in branch.indexed if "os_hidden" not in text]
    mostly = [*branch.mostly, *(text for text in branch.indexed if "os_hidden" in text)]
    if walked.column == "owner":
        indexed, mostly = branch.indexed, branch.mostly
    return [
        replace(branch, indexed=[*indexed, *as_indexed(one, statement)], mostly=mostly)
        for value in values
        for one in [Filter(walked.column, "eq", (value,))]
        if is_storable(walked.column, value)
    ]


def _bounds(condition: Filter) -> list[Filter]:
    """A filter by the key of the order as the ends of what is walked.

    Of an equality SQLite knows how many rows it fits, and would rather sort these than walk.
    """
    if condition.operator != "eq":
        return [condition]
    return [Filter(condition.column, way, condition.values) for way in ("gte", "lte")]


def _is_walked_by(
    branch: Branch, condition: Filter, actor: Actor, driver: Driver | None, key: str
) -> bool:
    """Whether an index holds this set's images with the value by age."""
    if key != "created_at" or branch.source or len(condition.values) > BRANCHES_OF_VALUES:
        return False
    if condition.operator not in ("eq", "in") or not order_of_index(condition):
        return False
    if "visibility" not in "".join(branch.indexed) and "owner" not in "".join(branch.indexed):
        return condition == driver and condition.column in (*EQUAL, "owner")
    if "i.visibility = 'public'" in branch.indexed:
        return condition.column == "name"
    return "i.owner = " in branch.indexed[0] and condition.column in ("name", "status")


def visible(query: ListQuery, actor: Actor, statement: Statement) -> str:
    """The condition that image `i` is in one of the sets that the caller lists."""
    sets = []
    for branch in sets_of(query, actor, statement):
        texts = [text for text in branch.indexed if "os_hidden" not in text]
        if branch.source:
            texts = [
                f"EXISTS (SELECT 1 FROM {statement.tables.members} m WHERE {' AND '.join(texts)})"
            ]
        rest = [*branch.apart, *branch.mostly, *branch.asked]
        rest = [text for text in rest if "os_hidden" not in text]
        sets.append(" AND ".join([*texts, *rest]) or "1 = 1")
    return "(" + " OR ".join(f"({text})" for text in sets) + ")"


def keys_of(query: ListQuery, branch: Branch) -> list[str]:
    """What the list is ordered by, as the set's index has it where that is by age."""
    ages = branch.ages if query.sort[0][0] == "created_at" else AGES
    by_age = dict(zip(("created_at", "id"), ages, strict=True))
    return [by_age.get(key) or SORT_EXPRESSIONS[key] for key, _ in query.sort]


def is_hidden(query: ListQuery, statement: Statement) -> str:
    return f"i.os_hidden = {statement.bind(query.hidden)}"
