"""From a ListQuery to one SQL statement for a page, however many rows that reads.

What a caller may see is a few sets of images (own, public, shared with me, ...). Each is read in
its own order with a limit; a page is the best of their first rows. A list as of a `Moment` is the
same statement over the tables of row versions, with the condition that a row held then. `walks.py`
has the statements that read lists of the present with a bound.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from calotype.commands.policy.actor import Actor
from calotype.projections.images.conditions import (
    SORT_EXPRESSIONS,
    Statement,
    beyond,
    column_condition,
    columns_of,
    having,
    merged,
    order_of,
)
from calotype.projections.images.listing import ListQuery, Moment
from calotype.projections.images.page_drivers import by_kind, tagged_of
from calotype.projections.images.page_sets import Branch, keys_of, narrow, sets_of
from calotype.projections.images.tables import IMAGES, MEMBERS


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
    # Spelled so that SQLite does not prefer an index in another order for it.
    hidden = "i.os_hidden" if query.hidden else "NOT i.os_hidden"
    branches, tagged = sets_of(query, actor, statement, hidden), tagged_of(query)
    # Of the past a project lists its own first, because its images are few beside those that
    # ever had a tag; a caller who lists everything starts from the tag.
    narrowed = bool(tagged) and (moment is None or actor.is_admin)
    if narrowed:
        first, *tagged = tagged
        for branch in branches:
            narrow(branch, first, statement)
    conditions = having(*by_kind(tagged), statement)
    conditions += [column_condition(condition, statement) for condition in query.filters]
    if moment is not None:
        branches = _in_blocks(branches, "t" if narrowed else "i", statement)
        conditions += statement.holds("i")
        if not actor.is_admin:
            project = statement.bind(actor.project)
            conditions.append(visible_today(project, moment.tables.images))
    selects = []
    for branch in branches:
        keys = keys_of(query, branch)
        where = [*branch.conditions(), *conditions]
        if moment is not None and query.sort[0][0] == "created_at":
            # Only a list by age can start there; another would be led to the wrong index.
            where.append(f"{keys[0]} <= {statement.bind(moment.newest_created_at)}")
        if after is not None:
            where.append(beyond(query, keys, after, statement))
        order = order_of(query, keys)
        selects.append(branch.select(columns_of(keys), where, order, query.limit + 1, statement))
    return merged(selects, order_of(query), query.limit + 1), statement.parameters


def image_statement(columns: Sequence[str], moment: Moment | None = None) -> str:
    """Gives `(owner, visibility, status, is_member, document, columns...)` of the image `:id`.

    `is_member` is about `:project`. With a moment, `:at` is its position.
    """
    statement = Statement(moment)
    member = " AND ".join(["m.image_id = i.id", "m.member = :project", *statement.holds("m")])
    image = " AND ".join(["i.id = :id", *statement.holds("i")])
    return (
        f"SELECT i.owner, i.visibility, i.status, EXISTS (SELECT 1 FROM {statement.tables.members} "
        f"m WHERE {member}), i.document, {', '.join(columns)} FROM {statement.tables.images} i "
        f"WHERE {image}"
    )


def marker_statement(query: ListQuery, moment: Moment | None = None) -> str:
    """`image_statement` with the sort values of the list."""
    return image_statement([SORT_EXPRESSIONS[key] for key, _ in query.sort], moment)


def visible_today(project: str, versions: str) -> str:
    """The condition that the project may see the image of row version `i` today.

    `project` is a parameter, `versions` the table of row versions of images. What was deleted
    since is seen by the project that owned it last.
    """
    return (
        f"(EXISTS (SELECT 1 FROM {IMAGES.name} n WHERE n.id = i.id AND (n.owner IS NULL "
        f"OR n.owner = {project} OR n.visibility IN ('public', 'community') "
        f"OR (n.visibility = 'shared' AND EXISTS (SELECT 1 FROM {MEMBERS.name} o "
        f"WHERE o.image_id = n.id AND o.member = {project})))) "
        f"OR (NOT EXISTS (SELECT 1 FROM {IMAGES.name} n WHERE n.id = i.id) AND {project} = "
        f"(SELECT l.owner FROM {versions} l WHERE l.id = i.id "
        "ORDER BY l.from_position DESC LIMIT 1)))"
    )


def _in_blocks(branches: list[Branch], alias: str, statement: Statement) -> list[Branch]:
    """The branches, each once per block of row versions; the one that starts from members once."""
    assert statement.moment is not None
    blocks = [statement.bind(block) for block in statement.moment.blocks]
    result = []
    for branch in branches:
        if branch.source and alias == "i":
            result.append(branch)
            continue
        for block in blocks:
            result.append(replace(branch, indexed=[f"{alias}.block = {block}", *branch.indexed]))
    return result
