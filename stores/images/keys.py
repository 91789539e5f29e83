"""Which names may stand in a store."""

import re

from calotype.stores.images.driver import StoreForbidden

MARKER = ".calotype"
"""The name of what a store keeps about itself; with its leading dot it can be no key."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)


def is_key(text: str) -> bool:
    """Whether `text` is a plain name: letters, digits, `.`, `_`, `-`, no leading dot."""
    return _KEY.fullmatch(text) is not None


def checked_key(text: str) -> str:
    """`text` itself. Raises StoreForbidden unless it is a plain name of 1 to 200 characters."""
    if _KEY.fullmatch(text) is None:
        raise StoreForbidden(
            f"{text[:80]!r} cannot be a key: use 1 to 200 letters, digits, '.', '_' or '-', "
            "the first one a letter or digit."
        )
    return text


def key_in(url: str, place: str) -> str:
    """The key that `url` names directly under `place`. Raises StoreForbidden for any other."""
    if not url.startswith(place) or not is_key(url[len(place) :]):
        raise StoreForbidden(f"This location is not in the store at {place}")
    return url[len(place) :]
