"""From the settings of a store to its driver."""

from collections.abc import Callable, Mapping
from typing import Any

from calotype.stores.images.driver import Driver

Options = Mapping[str, Any]


def _open_file(options: Options) -> Driver:
    from calotype.stores.images.file import open_file

    return open_file(options)


def _open_s3(options: Options) -> Driver:
    from calotype.stores.images.s3.driver import open_s3

    return open_s3(options)


_KINDS: dict[str, Callable[[Options], Driver]] = {"file": _open_file, "s3": _open_s3}


def open_driver(kind: str, options: Options) -> Driver:
    """The driver of the store that `options` describe.

    Raises ValueError naming the option and the fix; StoreError when a directory cannot be made.
    Does not talk to a server: `Driver.check` does.
    """
    opening = _KINDS.get(kind)
    if opening is None:
        raise ValueError(f"kind: no store of kind {kind!r}; use one of {', '.join(_KINDS)}.")
    return opening(options)
