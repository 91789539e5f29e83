"""What a list of images may ask for: the parsed form of the query string of `GET /v2/images`."""

from dataclasses import dataclass
from typing import Literal

Operator = Literal["eq", "neq", "gt", "gte", "lt", "lte", "in"]
Direction = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on one column of the image table.

    `values` holds one value, except for `in`, where it holds one or more. Integers for integer
    columns, booleans for boolean ones, `YYYY-MM-DDTHH:MM:SSZ` text for times, text otherwise.
    """

    column: str
    operator: Operator
    values: tuple[str | int | bool, ...]


@dataclass(frozen=True, slots=True)
class ListQuery:
    """One page of a list: what to leave out, how to order it, where it begins."""

    limit: int
    """How many images at most; 0 for an empty page."""
    marker: str | None = None
    """The id of the last image of the page before, or None for the first page."""
    sort: tuple[tuple[str, Direction], ...] = (("created_at", "desc"), ("id", "desc"))
    """Sort keys in order, always ending in the tie-breakers `created_at` and `id`."""
    visibility: str | None = None
    """public, private, shared, community, all, or None for the default mixture."""
    member_status: str = "accepted"
    """Which memberships count: pending, accepted, rejected or all."""
    hidden: bool = False
    """Whether to list the hidden images (only) or the others (only)."""
    tags: tuple[str, ...] = ()
    """Tags that must all be on the image."""
    filters: tuple[Filter, ...] = ()
    """Conditions on columns, all of which must hold."""
    properties: tuple[tuple[str, str], ...] = ()
    """Custom properties that must be there with exactly this value."""


@dataclass(frozen=True, slots=True)
class ListTables:
    """The names of the tables that a list reads."""

    images: str
    members: str
    tags: str
    properties: str


@dataclass(frozen=True, slots=True)
class Moment:
    """A position of the log, with what makes the row versions that held there quick to find."""

    position: int
    tables: ListTables
    """The tables of row versions."""
    blocks: tuple[int, ...]
    """The blocks that may hold then; see `calotype.projections.past.row_versions.block_of`."""
    newest_created_at: str
    """No image that existed then has a later `created_at`."""
