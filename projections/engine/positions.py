"""Positions as the world sees them: opaque text that names the log it belongs to.

A position of another log would silently mean another moment, so the text carries the log's
random identity and is refused anywhere else. A log that was set back to an older copy goes on under
a new identity (`epochs.py`): positions of the former one hold as far as the copy reached.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from calotype.commands.errors import Invalid
from calotype.stores.log.recorder import GroupCommitRecorder

_FORM = re.compile(r"p([0-9a-f]{12})-([0-9a-f]{1,15})")
_IDENTITIES = (
    "SELECT id, -1 AS valid_to, 0 AS number FROM log_identity "
    "UNION ALL SELECT id, valid_to, number FROM log_lineage ORDER BY number"
)


@dataclass(frozen=True, slots=True)
class Positions:
    """Turns positions of one log into text and back."""

    log_id: str
    """Twelve hexadecimal digits, made once when the log was."""
    former: tuple[tuple[str, int], ...] = ()
    """The identities that it had before, the oldest first, each with the last position that it
    names; empty for a log that was never set back."""

    def log_of(self, position: int) -> str:
        """The identity under which this position was given out first."""
        return next((log for log, valid_to in self.former if position <= valid_to), self.log_id)

    def encode(self, position: int) -> str:
        """The opaque text of a position; 0 stands for the beginning, before all events."""
        return f"p{self.log_of(position)}-{position:x}"

    def decode(self, text: str, field: str = "position") -> int:
        """The position. Raises Invalid naming `field` for other text and for another log's."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise Invalid(f"'{field}' is not a position that this service gave out.", field)
        position = int(match[2], 16)
        if match[1] == self.log_id:
            return position
        valid_to = dict(self.former).get(match[1])
        if valid_to is None:
            raise Invalid(f"'{field}' is a position of another event log.", field)
        if position > valid_to:
            raise Invalid(
                f"'{field}' is a position of events that were lost when the event log was set back "
                f"to an older copy; the last one before that is {self.encode(valid_to)}.",
                field,
            )
        return position


async def positions_of(recorder: GroupCommitRecorder) -> Positions:
    """The positions of this recorder's log; ask once and keep the answer."""
    return _positions(await recorder.fetch(_IDENTITIES))


def positions_now(recorder: GroupCommitRecorder) -> Positions:
    """The same, synchronously, for tools."""
    return _positions(recorder.fetch_now(_IDENTITIES))


def _positions(rows: Sequence[tuple[Any, ...]]) -> Positions:
    return Positions(rows[0][0], tuple((log, valid_to) for log, valid_to, _ in rows[1:]))
