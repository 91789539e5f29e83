"""What sinks store beside their checkpoints: parked events, and trouble."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from calotype.commands.images.events import clock_text
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Column, Index, Replace, Table

_NAMESPACE = UUID("6c5f0d0e-5b0c-5c0b-8d43-9a8f1c1b2e77")
_LONGEST_TEXT = 1000

PARKED = Table(
    name="sink_parked_1",
    columns=(
        Column("id", "uuid"),
        Column("sink", "text"),
        Column("position", "integer"),
        Column("topic", "text"),
        Column("error", "text"),
        Column("parked_at", "text"),
    ),
    key=("id",),
    owner="id",
    indexes=(Index("sink_parked_1_by_sink", ("sink", "position")),),
)
"""Events that a sink passed because its broker rejects them permanently."""

STATES = Table(
    name="sink_states_1",
    columns=(
        Column("id", "uuid"),
        Column("sink", "text"),
        Column("trouble", "text"),
        Column("since", "text"),
    ),
    key=("id",),
    owner="id",
)
"""The trouble of a sink, as its leader reports it; the empty text: none."""

_OF_SINK = (
    f"SELECT position, topic, error, parked_at FROM {PARKED.name} "
    "WHERE sink = :sink ORDER BY position"
)
_TROUBLE = f"SELECT trouble, since FROM {STATES.name} WHERE sink = :sink"


@dataclass(frozen=True, slots=True)
class Parked:
    """One event that a sink passed."""

    position: int
    topic: str
    error: str
    parked_at: str
    """RFC 3339 in UTC."""


def checkpoint_of(sink: str) -> str:
    """The name of a sink's checkpoint in `tracking`."""
    return f"sink:{sink}"


def lease_of(sink: str) -> str:
    """The name of the lease of a sink; no other name begins with it."""
    return f"sink:{sink}/"


def parking(sink: str, refused: Mapping[int, str], topics: Mapping[int, str]) -> list[Replace]:
    """The rows that park refused events, by position."""
    now = clock_text(datetime.now(UTC))
    return [
        Replace(PARKED, row_id, [(row_id, sink, position, topics[position], _plain(error), now)])
        for position, error in sorted(refused.items())
        for row_id in [_row_id(sink, position)]
    ]


def leaving(sink: str, position: int) -> Replace:
    """The change that ends the parking of an event."""
    return Replace(PARKED, _row_id(sink, position), [])


def troubled(sink: str, trouble: str) -> Replace:
    """The change that notes what stops the sink from now on; the empty text: nothing does."""
    row_id = uuid5(_NAMESPACE, sink)
    now = clock_text(datetime.now(UTC))
    return Replace(STATES, row_id, [(row_id, sink, _plain(trouble), now)])


def parked_of(recorder: GroupCommitRecorder, sink: str) -> list[Parked]:
    """The parked events of a sink, in the order of the log."""
    return [Parked(*row) for row in recorder.fetch_now(_OF_SINK, {"sink": sink})]


def trouble_of(recorder: GroupCommitRecorder, sink: str) -> tuple[str, str]:
    """What stops the sink, and since when; two empty texts when nothing does."""
    rows: list[tuple[Any, ...]] = recorder.fetch_now(_TROUBLE, {"sink": sink})
    return (rows[0][0], rows[0][1]) if rows and rows[0][0] else ("", "")


def _row_id(sink: str, position: int) -> UUID:
    return uuid5(_NAMESPACE, f"{sink}/{position}")


def _plain(text: str) -> str:
    """Text that every database can hold."""
    return text.replace("\x00", "")[:_LONGEST_TEXT]
