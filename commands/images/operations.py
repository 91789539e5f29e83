"""One step of a PATCH on an image, as commands take it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Operation:
    """`path` holds the unescaped tokens of the JSON pointer.

    `strict` marks the v2.0 media type, where adding over a value is a conflict.
    """

    op: Literal["add", "replace", "remove"]
    path: tuple[str, ...]
    value: object = None
    strict: bool = False
