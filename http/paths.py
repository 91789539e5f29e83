"""Paths in our answers that lead on: one way to write them, whatever their parameters hold."""

from collections.abc import Iterable
from urllib.parse import quote


def link(path: str, parameters: Iterable[tuple[str, str]], *, safe: str = "") -> str:
    """A path without host, with these parameters in their order, encoded but for `safe`."""
    pairs = [f"{quote(name, safe='')}={quote(value, safe=safe)}" for name, value in parameters]
    return quote(path) + ("?" + "&".join(pairs) if pairs else "")
