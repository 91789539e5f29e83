"""Positions as the world sees them: opaque text that names the log it belongs to.

A position of another log would silently mean another moment, so the text carries the log's
random identity and is refused anywhere else.
"""

import re
from dataclasses import dataclass

from calotype.commands.errors import Invalid
from calotype.stores.log.recorder import GroupCommitRecorder

_FORM = re.compile(r"p([0-9a-f]{12})-([0-9a-f]{1,15})")
_IDENTITY = "SELECT id FROM log_identity"


@dataclass(frozen=True, slots=True)
class Positions:
    """Turns positions of one log into text and back."""

    log_id: str
    """Twelve hexadecimal digits, made once when the log was."""

    def encode(self, position: int) -> str:
        """The opaque text of a position; 0 stands for the beginning, before all events."""
        return f"p{self.log_id}-{position:x}"

    def decode(self, text: str, field: str = "position") -> int:
        """The position. Raises Invalid naming `field` for other text and for another log's."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise Invalid(f"'{field}' is not a position that this service gave out.", field)
        if match[1] != self.log_id:
            raise Invalid(f"'{field}' is a position of another event log.", field)
        return int(match[2], 16)


async def positions_of(recorder: GroupCommitRecorder) -> Positions:
    """The positions of this recorder's log; ask once and keep the answer."""
    return Positions((await recorder.fetch(_IDENTITY))[0][0])


def positions_now(recorder: GroupCommitRecorder) -> Positions:
    """The same, synchronously, for tools."""
    return Positions(recorder.fetch_now(_IDENTITY)[0][0])
