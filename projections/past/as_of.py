"""Moments of the past: from what a caller names to a position whose rows can be read.

A moment is a position, or an RFC 3339 time, which means everything before the first event that
is later. The tables of row versions follow the log; a caller waits a few seconds for a moment that
they have not reached.
"""

import re
from datetime import UTC, datetime

from calotype.commands.errors import Invalid, Unavailable
from calotype.commands.images.events import clock_text
from calotype.projections.engine.follower import wait_until_reached
from calotype.projections.engine.positions import Positions, positions_of
from calotype.projections.images.listing import Moment
from calotype.projections.past.row_versions import FOLLOWER, LIST_TABLES, MOMENTS, blocks_at
from calotype.stores.log.recorder import GroupCommitRecorder

LONGEST_WAIT_SECONDS = 5.0

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,12})?([Zz]|[ +-]\d\d:\d\d)", re.ASCII
)
_HEAD = "SELECT max(notification_id) FROM stored_events"
_OF_TIME = (
    f"SELECT position FROM {MOMENTS.name} WHERE clock <= :clock "
    "ORDER BY clock DESC, position DESC LIMIT 1"
)
_NEWEST = f"SELECT newest_created_at FROM {MOMENTS.name} WHERE position = :position"


class Behind(Unavailable):
    """The tables of the past have not reached the moment yet (503)."""

    headers = {"Retry-After": "1"}


class Moments:
    """Finds moments in one log."""

    def __init__(
        self, recorder: GroupCommitRecorder, *, wait_seconds: float = LONGEST_WAIT_SECONDS
    ) -> None:
        self._recorder = recorder
        self._wait_seconds = wait_seconds
        self._positions: Positions | None = None

    async def positions(self) -> Positions:
        """The public form of this log's positions."""
        if self._positions is None:
            self._positions = await positions_of(self._recorder)
        return self._positions

    async def at(self, text: str, field: str) -> Moment:
        """The moment that `text` names, a position or a time.

        Raises Invalid naming `field` for what is neither, for a position of another log, and for
        a moment that has not come yet; Behind when the tables do not reach it in time.
        """
        head = (await self._recorder.fetch(_HEAD))[0][0] or 0
        if text.startswith("p"):
            position = (await self.positions()).decode(text, field)
            if position > head:
                raise Invalid(f"'{field}' is beyond the end of the event log.", field)
            await self._wait_for(position)
        else:
            clock = clock_text(parse_time(text, field))
            await self._wait_for(head)
            rows = await self._recorder.fetch(_OF_TIME, {"clock": clock})
            position = rows[0][0] if rows else 0
        return await self._moment(position, head)

    async def _moment(self, position: int, head: int) -> Moment:
        rows = await self._recorder.fetch(_NEWEST, {"position": position})
        newest = rows[0][0] if rows else ""
        return Moment(position, LIST_TABLES, tuple(blocks_at(position, head)), newest)

    async def _wait_for(self, position: int) -> None:
        if not await wait_until_reached(self._recorder, FOLLOWER, position, self._wait_seconds):
            raise Behind("The tables of past moments are still being brought up to date.")


def rfc3339(text: str) -> datetime:
    """The time that RFC 3339 text says, in UTC. Raises ValueError for other text."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time")
    day, clock, fraction, offset = match.groups()
    # A plus sign arrives as a blank where the caller did not encode it.
    offset = "+00:00" if offset in "Zz" else offset.replace(" ", "+")
    digits = (fraction or ".0")[:7]
    try:
        return datetime.fromisoformat(f"{day}T{clock}{digits:0<7}{offset}").astimezone(UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from None


def parse_time(text: str, field: str) -> datetime:
    """The RFC 3339 time. Raises Invalid naming `field` for other text and for the future."""
    try:
        moment = rfc3339(text)
    except ValueError:
        raise Invalid(
            f"'{field}' is neither a position that this service gave out nor an RFC 3339 time "
            "such as 2026-01-31T12:00:00Z.",
            field,
        ) from None
    if moment > datetime.now(UTC):
        raise Invalid(f"'{field}' lies in the future.", field)
    return moment
