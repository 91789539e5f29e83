"""What each field of a stored event can tell of a person, marked beside the field.

Nothing is encrypted or erased by it yet: an erasure will read these marks to know what it must
make unreadable, and what it can leave.
"""

from enum import Enum
from typing import Annotated, Any, TypeVar, get_type_hints

Value = TypeVar("Value")


class Mark(Enum):
    """The kinds of fields."""

    TECHNICAL = "technical"
    """Made by the service or one of a few known words: numbers, ids of images, times, hashes."""
    PERSONAL = "personal"
    """Holds an identifier of a person."""
    FREE_TEXT = "free text"
    """Written by a caller, so anything can be in it."""


Technical = Annotated[Value, Mark.TECHNICAL]
Personal = Annotated[Value, Mark.PERSONAL]
FreeText = Annotated[Value, Mark.FREE_TEXT]

OF_THE_LIBRARY = frozenset({"originator_topic", "originator_id", "originator_version", "timestamp"})
"""Technical too, and in every event: which aggregate it is of, its number, and when it happened."""


def marks_of(kind: type[Any]) -> dict[str, Mark | None]:
    """The mark of each field of an event type; None for a field that has none."""
    hints = get_type_hints(kind, include_extras=True)
    marks: dict[str, Mark | None] = {}
    for name in kind.__dataclass_fields__:
        of_field = getattr(hints[name], "__metadata__", ())
        found = [mark for mark in of_field if isinstance(mark, Mark)]
        marks[name] = Mark.TECHNICAL if name in OF_THE_LIBRARY else found[0] if found else None
    return marks
