"""Statements written once with `:name` parameters, in the form that each database takes."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

_TOKEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|::\w+|:([a-z_][a-z0-9_]*)", re.IGNORECASE)


class Fetch(Protocol):
    """Rows of a query whose parameters are written `:name`, on either database."""

    def __call__(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]: ...


@lru_cache(maxsize=1024)
def numbered(sql: str, mark: str = "$") -> tuple[str, tuple[str, ...]]:
    """PostgreSQL's form: `$1`, `$2`... (SQLite has `?` for a mark) and the names in that order."""
    names: list[str] = []

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0]  # Quoted text or a cast.
        if name not in names:
            names.append(name)
        return f"{mark}{names.index(name) + 1}"

    return _TOKEN.sub(replace, sql), tuple(names)


def bound(sql: str, parameters: Mapping[str, Any] | None) -> tuple[str, list[Any]]:
    """The numbered form of a statement, and the values of its parameters in that order."""
    text, names = numbered(sql)
    return text, [parameters[name] for name in names] if parameters else []


def within_bytes(place: str, source: str) -> str:
    """The condition that keeps a page of events short, whatever they hold.

    Of the events that `source` gives, which is what follows FROM with its conditions, in the order
    of `place`, these are at most `:limit`, and only those that begin within `:bytes`: at least one
    if there is any. Lengths are known without reading what is long.
    """
    return (
        f"{place} <= (SELECT max(place) FROM (SELECT place, sum(size) OVER (ORDER BY place) - size "
        f"AS preceding FROM (SELECT {place} AS place, length(state) AS size FROM {source} "
        f"ORDER BY {place} LIMIT :limit) sizes) sums WHERE preceding < :bytes)"
    )


def migrations(database: str) -> list[tuple[str, str]]:
    """`(name, SQL)` of the numbered migrations for `sqlite` or `postgresql`, in order."""
    folder = Path(__file__).with_name("migrations")
    return [
        (path.name.removesuffix(f".{database}.sql"), path.read_text())
        for path in sorted(folder.glob(f"*.{database}.sql"))
    ]
