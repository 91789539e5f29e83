"""Conditions of a list that an index answers, and how they are spelled for it."""

from collections.abc import Sequence
from dataclasses import dataclass

from calotype.projections.images.conditions import (
    SORT_EXPRESSIONS,
    Statement,
    column_condition,
    is_storable,
)
from calotype.projections.images.listing import Filter, ListQuery

EQUAL = (
    "name", "status", "container_format", "disk_format", "size", "virtual_size", "checksum",
    "os_hash_value", "os_hash_algo", "min_ram", "min_disk", "protected", "updated_at",
)  # fmt: skip
_RARE = ("id", "name", "checksum", "os_hash_value", "size", "virtual_size")
_RANGE = ("size", "virtual_size", "min_ram", "min_disk", "updated_at", "created_at")


@dataclass(frozen=True, slots=True)
class Tagged:
    """A tag (`name` is None) or a custom property that images of the list have."""

    name: str | None
    value: str


Driver = Filter | Tagged
"""A condition of the list that an index answers."""


def drivers(query: ListQuery) -> list[Driver]:
    """The conditions that an index answers, of which one may leave few rows.

    A filter by the key of the order is none: it says where the list begins and ends.
    """
    sorted_by = query.sort[0][0]
    filters = (c for c in query.filters if order_of_index(c) and c.column != sorted_by)
    return [*tagged_of(query), *filters]


def tagged_of(query: ListQuery) -> list[Tagged]:
    """The tags and custom properties that images of the list have, each with its own rows."""
    tags = [Tagged(None, tag) for tag in query.tags]
    return [*tags, *(Tagged(name, value) for name, value in query.properties)]


def is_rare(driver: Driver | None) -> bool:
    """Whether few images are to be expected by nature: of one name or checksum, or of a caller."""
    if isinstance(driver, Filter):
        return driver.column in _RARE and driver.operator in ("eq", "in")
    return driver is None


def is_impossible(query: ListQuery) -> bool:
    """Whether a filter names nothing that any row could hold."""
    return any(
        not any(is_storable(condition.column, value) for value in condition.values)
        for condition in query.filters
    )


def order_of_index(condition: Filter) -> str:
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
    equal = operator in ("eq", "in") and column in EQUAL
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
    if equal and len(values) == 1:
        # SQLite would sort by an expression although it is known to be equal.
        return "i.created_at, i.id"
    return f"{SORT_EXPRESSIONS.get(column, f'i.{column}')}, i.created_at, i.id"


def as_indexed(condition: Filter, statement: Statement) -> list[str]:
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


def by_kind(tagged: Sequence[Tagged]) -> tuple[list[str], list[tuple[str, str]]]:
    tags = [one.value for one in tagged if one.name is None]
    return tags, [(one.name, one.value) for one in tagged if one.name is not None]
