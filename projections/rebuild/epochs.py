"""What is remembered of a log outside its database, and the new epoch of a log that was set back.

A database that is restored from an older copy, or that has lost its last changes, would give out
positions a second time, for other events. Outside, a `Head` remembers how far the log had come; the
log is held against it at every start. `begin_epoch` is the way on: the log gets a new identity, so
that positions of what was lost are refused, and those of what is there stay what they were.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from calotype.commands.images.events import clock_text
from calotype.projections.engine.positions import Positions, positions_now
from calotype.projections.past.row_versions import timestamp_in
from calotype.projections.seal.seal import event_leaf, events_after
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.statements import Fetch

FORMAT = "calotype-head-1"

_INSERT = (
    "INSERT INTO log_lineage (number, id, valid_to, last_event_at, ended_at) "
    "VALUES (:number, :id, :valid_to, :last, :now)"
)
_LOST = "SELECT last_event_at, ended_at FROM log_lineage"


@dataclass(frozen=True, slots=True)
class Head:
    """How far a log had come."""

    log_id: str
    position: int
    event: str
    """The leaf hash of the event at the position; empty for a log without events."""
    former: tuple[tuple[str, int], ...]
    """The former identities of the log, as `Positions.former`."""

    def encoded(self) -> bytes:
        """As it is kept outside the database."""
        return orjson.dumps(
            {
                "format": FORMAT,
                "log": self.log_id,
                "position": self.position,
                "event": self.event,
                "former": self.former,
                "written_at": clock_text(datetime.now(UTC)),
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )


class NotAHead(ValueError):
    """What is kept there is not a head that this version can read."""


class OfAnotherLog(Exception):
    """What was remembered is of another log altogether."""


class SetBack(Exception):
    """The log is not what it was: events that it had are gone. The message says from where on."""


def decoded(content: bytes) -> Head:
    """The head that was encoded. Raises NotAHead."""
    try:
        told = orjson.loads(content)
        if told["format"] != FORMAT:
            raise NotAHead("it has another format")
        former = tuple((str(log), int(valid_to)) for log, valid_to in told["former"])
        return Head(str(told["log"]), int(told["position"]), str(told["event"]), former)
    except (KeyError, TypeError, ValueError) as error:
        raise NotAHead(f"it cannot be read ({type(error).__name__})") from None


def head_of(recorder: GroupCommitRecorder) -> Head:
    """How far the log has come now."""
    positions, position = positions_now(recorder), recorder.max_notification_id() or 0
    return Head(positions.log_id, position, _event_at(recorder, position), positions.former)


def check(recorder: GroupCommitRecorder, remembered: Head) -> None:
    """Raises SetBack or OfAnotherLog unless the log goes on from what was remembered of it."""
    positions = positions_now(recorder)
    if remembered.log_id in dict(positions.former):
        return  # It was set back since, and a new epoch was begun for that.
    if remembered.log_id != positions.log_id:
        if positions.log_id in dict(remembered.former):
            raise SetBack("it is a copy from before the log got its present identity")
        raise OfAnotherLog(f"it is of the log {remembered.log_id}, this is {positions.log_id}")
    head, text = recorder.max_notification_id() or 0, positions.encode(remembered.position)
    if head < remembered.position:
        raise SetBack(f"it ends at {positions.encode(head)} and had come to {text}")
    if _event_at(recorder, remembered.position) != remembered.event:
        raise SetBack(f"the event at {text} is another one than it was")


async def begin_epoch(
    recorder: GroupCommitRecorder, remembered: Sequence[Head], valid_to: int | None = None
) -> Positions:
    """Gives the log a new identity; the positions that it has from then on.

    Positions of the former identities hold up to `valid_to`: without it up to the last event that
    is known to be the same. Nobody may be serving.
    """
    positions = positions_now(recorder)
    head = recorder.max_notification_id() or 0
    end = _same_until(recorder, positions, remembered, head) if valid_to is None else valid_to
    end = min(end, head)
    former = {log: min(known, end) for log, known in positions.former}
    former[positions.log_id] = end
    for one in remembered:
        # Identities of epochs that this copy does not know, because it is from before them.
        common = dict(one.former).get(positions.log_id)
        if common is not None:
            for log, known in (*one.former, (one.log_id, one.position)):
                former.setdefault(log, min(known, common, end))
    new_id = secrets.token_hex(6)
    last, now = _last_event_at(recorder, end), clock_text(datetime.now(UTC))
    begun_before = {row[0] for row in recorder.fetch_now("SELECT id FROM log_lineage")}

    def write(fetch: Fetch) -> None:
        for number, (log, holds_to) in enumerate(former.items(), 1):
            values: dict[str, Any] = {"id": log, "valid_to": holds_to}
            if log in begun_before:
                fetch("UPDATE log_lineage SET valid_to = :valid_to WHERE id = :id", values)
            else:
                fetch(_INSERT, {**values, "number": number, "last": last, "now": now})
        fetch("UPDATE log_identity SET id = :id", {"id": new_id})

    await recorder.transact("log identity", write)
    return positions_now(recorder)


def lost_times(recorder: GroupCommitRecorder) -> list[tuple[datetime, datetime]]:
    """From when until when events were written that the log has lost, for each time it lost some.

    Bytes of that time may be the only ones of images that the log no longer knows.
    """
    rows = recorder.fetch_now(_LOST)
    return [(datetime.fromisoformat(last), datetime.fromisoformat(ended)) for last, ended in rows]


def last_event_time(recorder: GroupCommitRecorder) -> datetime:
    """When the last event was written; the beginning of time for a log without events."""
    head = recorder.max_notification_id() or 0
    return datetime.fromisoformat(_last_event_at(recorder, head))


def _same_until(
    recorder: GroupCommitRecorder, positions: Positions, remembered: Sequence[Head], head: int
) -> int:
    """The last position known to name the same event as before."""
    end = head
    for one in remembered:
        if one.log_id == positions.log_id and one.position <= head:
            same = _event_at(recorder, one.position) == one.event
            # How long ago the two parted nobody remembers.
            end = end if same else 0
        elif positions.log_id in dict(one.former):
            end = min(end, dict(one.former)[positions.log_id])
    return end


def _event_at(recorder: GroupCommitRecorder, position: int) -> str:
    found = events_after(recorder, position - 1, 1) if position else []
    return event_leaf(found[0]).hex() if found and found[0].id == position else ""


def _last_event_at(recorder: GroupCommitRecorder, position: int) -> str:
    found = events_after(recorder, position - 1, 1) if position else []
    moment = timestamp_in(found[0].state) if found else datetime(1970, 1, 1, tzinfo=UTC)
    return clock_text(moment)
