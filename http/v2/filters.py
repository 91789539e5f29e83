"""The query string of `GET /v2/images`: its grammar, its errors, and the links of a page."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from calotype.commands.errors import Invalid
from calotype.http.paths import link
from calotype.projections.images.listing import Direction, Filter, ListQuery, Operator

SORT_KEYS = (
    "name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at",
)  # fmt: skip
VISIBILITIES = ("public", "private", "shared", "community", "all")
MEMBER_STATUSES = ("pending", "accepted", "rejected", "all")
_CHOOSABLE = ("name", "status", "id", "container_format", "disk_format")
_TEXT = ("checksum", "os_hash_algo", "os_hash_value", "owner")
_INTEGER = ("size", "virtual_size", "min_disk", "min_ram")
_TIME = ("created_at", "updated_at")
_TIME_OPERATORS = ("gt", "gte", "lt", "lte", "eq", "neq")
_REPEATABLE = ("tag", "sort", "sort_key", "sort_dir")
_LONGEST_VALUE = 4096
_Given = TypeVar("_Given")
_QUOTED_VALUE = re.compile(r'"((?:[^"\\]|\\.)*)"|([^",]*)', re.DOTALL)
_OFFSET_WITHOUT_SIGN = re.compile(r"(.+[T ].+) ([0-9]{2}(?::?[0-9]{2})?)", re.DOTALL)


def parse_list(
    parameters: Iterable[tuple[str, str]],
    *,
    default_limit: int = 25,
    max_limit: int = 1000,
    most_filters: int = 20,
    most_values: int = 256,
) -> ListQuery:
    """What a list request asks for, with at most so many filters of a kind, and values of `in:`.

    Raises Invalid naming the parameter and the fix.
    """
    limit, marker, visibility, member_status, hidden = default_limit, None, None, "accepted", False
    tags: list[str] = []
    filters: list[Filter] = []
    properties: list[tuple[str, str]] = []
    sorting: list[tuple[str, str]] = []
    for name, value in _last_of_each(parameters):
        if name == "limit":
            limit = _limit(value)
        elif name == "marker":
            marker = value
        elif name in ("sort", "sort_key", "sort_dir"):
            sorting.append((name, value))
        elif name == "visibility":
            visibility = _choice(name, value, VISIBILITIES) if value else None
        elif name == "member_status":
            member_status = _choice(name, value, MEMBER_STATUSES)
        elif name == "os_hidden":
            hidden = _choice(name, value.lower(), ("true", "false")) == "true"
        elif name == "tag":
            tags.append(value)
        elif name == "changes-since":
            raise Invalid("Parameter 'changes-since' is not supported; use updated_at=gte:TIME.")
        elif name != "deleted" and not _column_filter(name, value, filters):
            properties.append((name, value))
    tags, filters, properties = _distinct(tags), _distinct(filters), _distinct(properties)
    _check_number("tag", tags, most_filters)
    _check_number("custom property", properties, most_filters)
    _check_number("attribute", filters, most_filters)
    for condition in filters:
        if len(condition.values) > most_values:
            raise Invalid(
                f"Parameter '{condition.column}': in: takes at most {most_values} values "
                "(limits.filter_values)."
            )
    return ListQuery(
        limit=min(limit, max_limit),
        marker=marker,
        sort=_sort(sorting),
        visibility=visibility,
        member_status=member_status,
        hidden=hidden,
        tags=tuple(tags),
        filters=tuple(filters),
        properties=tuple(properties),
    )


def _last_of_each(parameters: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The parameters that count: of one that is given several times the last, as for Glance."""
    counting: dict[object, tuple[str, str]] = {}
    for number, (name, value) in enumerate(parameters):
        counting[number if name in _REPEATABLE else name] = (name, value)
    return list(counting.values())


def _distinct(given: list[_Given]) -> list[_Given]:
    return list(dict.fromkeys(given))


def _check_number(kind: str, given: Sequence[object], most: int) -> None:
    if len(given) > most:
        raise Invalid(
            f"A list takes at most {most} filters by {kind} (limits.list_filters); "
            f"there are {len(given)}."
        )


def page_links(
    parameters: list[tuple[str, str]], next_marker: str | None, path: str = "/v2/images"
) -> tuple[str, str | None]:
    """The paths of the first page and of the next one (None: there is none).

    All parameters are kept, repeated ones too; only the marker is taken out or put in.
    """
    kept = [(name, value) for name, value in parameters if name != "marker"]
    first = link(path, kept)
    if next_marker is None:
        return first, None
    # Behind the same text: it may be long, and encoding it is dear.
    return first, f"{first}{'&' if kept else '?'}{link('', [('marker', next_marker)])[1:]}"


def _column_filter(name: str, value: str, filters: list[Filter]) -> bool:
    """Adds the filter if the name is one of a column; False for a custom property."""
    if name in _CHOOSABLE:
        filters.append(_choosing_filter(name, value))
    elif name in _TEXT:
        filters.append(Filter(name, "eq", (value,)))
    elif name in _INTEGER:
        filters.append(Filter(name, "eq", (_integer(name, value),)))
    elif name in _TIME:
        filters.append(_time_filter(name, value))
    elif name == "protected":
        chosen = _choice(name, value, ("true", "false"))
        filters.append(Filter(name, "eq", (chosen == "true",)))
    elif name[-4:] in ("_min", "_max") and name[:-4] in _INTEGER:
        operator: Operator = "gte" if name.endswith("_min") else "lte"
        filters.append(Filter(name[:-4], operator, (_integer(name, value),)))
    else:
        return False
    return True


def _choosing_filter(name: str, value: str) -> Filter:
    operator, colon, rest = value.partition(":")
    if colon and operator == "eq":
        return Filter(name, "eq", (rest,))
    if colon and operator == "in":
        return Filter(name, "in", _values(name, rest))
    if colon and operator in ("neq", "gt", "gte", "lt", "lte"):
        raise Invalid(f"Parameter '{name}': operator '{operator}' is not supported; use eq or in.")
    # Glance refuses any other colon; here it is part of a name such as "ubuntu:22.04".
    return Filter(name, "eq", (value,))


def _values(name: str, text: str) -> tuple[str, ...]:
    """`a,"b,c","say \\"x\\""` -> the values; quotes protect commas, a backslash quotes."""
    values: list[str] = []
    at = 0
    while True:
        match = _QUOTED_VALUE.match(text, at)
        assert match is not None
        quoted, bare = match.groups()
        values.append(bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.S))
        at = match.end()
        if at == len(text):
            return tuple(values)
        if text[at] != ",":
            raise Invalid(f"Parameter '{name}': put each value of in: in double quotes or in none.")
        at += 1


def _time_filter(name: str, value: str) -> Filter:
    operator, colon, rest = value.partition(":")
    if colon and operator.isalpha():
        if operator not in _TIME_OPERATORS:
            raise Invalid(
                f"Parameter '{name}': operator '{operator[:20]}' is not supported; use one of "
                f"{', '.join(_TIME_OPERATORS)}."
            )
    else:
        operator, rest = "eq", value
    try:
        # A plus sign arrives as a blank where the caller did not encode it.
        moment = datetime.fromisoformat(_OFFSET_WITHOUT_SIGN.sub(r"\1+\2", rest))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        raise Invalid(
            f"Parameter '{name}': '{rest[:40]}' is no ISO 8601 time such as 2026-01-31T12:00:00Z."
        ) from None
    return Filter(name, cast(Operator, operator), (text.zfill(20),))


def _sort(parameters: list[tuple[str, str]]) -> tuple[tuple[str, Direction], ...]:
    new = [value for name, value in parameters if name == "sort"]
    keys = [value for name, value in parameters if name == "sort_key"]
    ways = [value for name, value in parameters if name == "sort_dir"]
    if new and (keys or ways):
        raise Invalid("Parameter 'sort' cannot be mixed with sort_key and sort_dir; use one form.")
    if new:
        pairs = [_sort_pair(part) for part in ",".join(new).split(",")]
    else:
        pairs = _old_sort(keys, ways)
    for key, way in pairs:
        _choice("sort" if new else "sort_key", key, SORT_KEYS)
        _choice("sort" if new else "sort_dir", way, ("asc", "desc"))
    given_ways = {way for _, way in pairs}
    last = given_ways.pop() if len(given_ways) == 1 else "desc"
    result: dict[str, Any] = {}
    for key, way in [*pairs, ("created_at", last), ("id", last)]:
        result.setdefault(key, way)
    return tuple(result.items())


def _sort_pair(part: str) -> tuple[str, str]:
    key, colon, way = part.strip().partition(":")
    return key, way if colon else "desc"


def _old_sort(keys: list[str], ways: list[str]) -> list[tuple[str, str]]:
    if not keys and not ways:
        return []
    keys = keys or ["created_at"]
    ways = ways or ["desc"]
    if len(ways) == 1:
        ways = ways * len(keys)
    if len(ways) != len(keys):
        raise Invalid("Give one sort_dir for all sort_key parameters, or one for each.")
    return list(zip(keys, ways, strict=True))


def _limit(value: str) -> int:
    number = _integer("limit", value)
    if number < 0:
        raise Invalid("Parameter 'limit' must not be negative.")
    return number


def _integer(name: str, value: str) -> int:
    if len(value) > _LONGEST_VALUE or not re.fullmatch(r"\s*[+-]?[0-9]{1,40}\s*", value):
        raise Invalid(f"Parameter '{name}' must be an integer.")
    return int(value)


def _choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise Invalid(f"Parameter '{name}' must be one of {', '.join(choices)}.")
    return value
