"""Writing the event log to a file, in flat memory, so that the file is whole or not there."""

import base64
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from eventsourcing.persistence import Notification

from calotype.projections.engine.positions import Positions
from calotype.projections.feed.audience import FULL
from calotype.projections.feed.cloudevents import encoded_event
from calotype.stores.log.recorder import GroupCommitRecorder

PAGE_EVENTS = 1000
PAGE_BYTES = 4 << 20

Encode = Callable[[Positions, Notification], bytes]


@dataclass(frozen=True, slots=True)
class Form:
    """How a file of events looks: what is before, between and after them."""

    encode: Encode
    start: bytes
    between: bytes
    end: bytes


def row_of(notification: Notification) -> tuple[Any, ...]:
    """The row that `encoded_event` takes, with everything shown."""
    return (
        notification.id,
        notification.originator_id,
        notification.originator_version,
        notification.topic,
        notification.state,
        FULL,
    )


def stored_line(positions: Positions, notification: Notification) -> bytes:
    """One stored event as JSON. What is read from it again is the same to the last byte."""
    state = bytes(notification.state)
    # One identity for the whole file, also where the log was set back once: it is of one log.
    line: dict[str, Any] = {
        "position": Positions(positions.log_id).encode(notification.id),
        "id": str(notification.originator_id),
        "version": notification.originator_version,
        "topic": notification.topic,
    }
    if _is_plain(state):
        line["state"] = orjson.Fragment(state)
    else:
        line["state_base64"] = base64.b64encode(state).decode()
    return orjson.dumps(line)


FORMS = {
    "ndjson": Form(stored_line, b"", b"\n", b"\n"),
    "cloudevents": Form(
        lambda positions, notification: encoded_event(positions, row_of(notification)),
        b"[",
        b",\n",
        b"]\n",
    ),
}


@dataclass(frozen=True, slots=True)
class Export:
    """The events from position `first` to `last`, both included."""

    recorder: GroupCommitRecorder
    positions: Positions
    first: int
    last: int
    form: Form

    @property
    def count(self) -> int:
        return max(0, self.last - self.first + 1)

    def write(self, file: Path, advance: Callable[[int], Any]) -> None:
        """Writes the file, or to standard output for `-`. Raises OSError; then there is no file."""
        if str(file) == "-":
            self._write_to(sys.stdout.buffer, advance)
            sys.stdout.buffer.flush()
            return
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with unfinished.open("wb") as out:
                self._write_to(out, advance)
                out.flush()
                os.fsync(out.fileno())
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)

    def _write_to(self, out: BinaryIO, advance: Callable[[int], Any]) -> None:
        out.write(self.form.start)
        written = 0
        for notification in self._events():
            if written:
                out.write(self.form.between)
            out.write(self.form.encode(self.positions, notification))
            written += 1
            advance(1)
        # An empty log makes an empty file, and not a line without an event.
        out.write(self.form.end if written or self.form.start else b"")

    def _events(self) -> Iterator[Notification]:
        position = self.first
        while position <= self.last:
            page = self.recorder.select_notifications(
                position, PAGE_EVENTS, self.last, limit_bytes=PAGE_BYTES
            )
            if not page:
                return
            yield from page
            position = page[-1].id + 1


def _is_plain(state: bytes) -> bool:
    """Whether reading and writing it as JSON gives these bytes again."""
    try:
        return orjson.dumps(orjson.loads(state)) == state
    except orjson.JSONDecodeError:
        return False
