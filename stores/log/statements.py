"""Statements written once with `:name` parameters, in the form that each database takes."""

import re
from functools import lru_cache
from pathlib import Path

_TOKEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|::\w+|:([a-z_][a-z0-9_]*)", re.IGNORECASE)


@lru_cache(maxsize=1024)
def numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """PostgreSQL's form: `$1`, `$2`... and the names in that order."""
    names: list[str] = []

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0]  # Quoted text or a cast.
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _TOKEN.sub(replace, sql), tuple(names)


def migrations(database: str) -> list[tuple[str, str]]:
    """`(name, SQL)` of the numbered migrations for `sqlite` or `postgresql`, in order."""
    folder = Path(__file__).with_name("migrations")
    return [
        (path.name.removesuffix(f".{database}.sql"), path.read_text())
        for path in sorted(folder.glob(f"*.{database}.sql"))
    ]
