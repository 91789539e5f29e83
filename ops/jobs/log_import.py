"""Making a log from an export: the same events at the same positions, and the rows they mean."""

import asyncio
import base64
import binascii
import concurrent.futures
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from eventsourcing.persistence import StoredEvent

from calotype.commands.errors import Invalid
from calotype.commands.images.download import LOG_EVENT_TYPES
from calotype.commands.images.image import Image
from calotype.commands.images.usage import counts
from calotype.projections.engine.positions import Positions
from calotype.projections.images.rows import rows_of
from calotype.stores.log.append import Append
from calotype.stores.log.log import event_mapper
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Change

PAGE_EVENTS = 500
CACHED_IMAGES = 4096
LONGEST_LINE_BYTES = 16 << 20

_LOG_ID = "SELECT id FROM log_identity"
_SET_LOG_ID = "UPDATE log_identity SET id = :id"
_KEYS = ("position", "id", "version", "topic")


class ImportRefused(Exception):
    """The file or the log is not fit for an import; the message says which line and why."""


@dataclass(frozen=True, slots=True)
class Line:
    """One event of the file."""

    number: int
    size: int
    position: int
    log_id: str
    stored: StoredEvent


class Importer:
    """Imports one file. The log must be empty, or hold the beginning of the same file."""

    def __init__(self, recorder: GroupCommitRecorder, *, keep_identity: bool = False) -> None:
        self._recorder = recorder
        self._keep_identity = keep_identity
        self._mapper = event_mapper()
        self._images: OrderedDict[UUID, Any] = OrderedDict()

    def run(self, file: Path, *, resume: bool, advance: Callable[[int], Any]) -> int:
        """Imports all events; how many are in the log now. Raises ImportRefused.

        Each page is one transaction. An import that was cut short leaves the beginning of the
        file, which `resume` recognises and goes on after.
        """
        if asyncio.run(self._recorder.live_leases("process:")):
            raise ImportRefused("processes serve on this log; stop them first")
        present = self._recorder.max_notification_id() or 0
        if present and not resume:
            raise ImportRefused(
                "the log is not empty; import into a new one, or --resume an import of this file"
            )
        page: list[Line] = []
        last = 0
        for line in read_lines(file):
            if line.position != last + 1:
                missing = Positions(line.log_id).encode(last + 1)
                raise ImportRefused(
                    f"line {line.number}: event {missing} is missing; "
                    "an import needs the log from its beginning"
                )
            if last == 0 and self._keep_identity:
                self._take_identity(line.log_id)
            last = line.position
            page.append(line)
            if len(page) == PAGE_EVENTS:
                self._take(page, present, advance)
                page = []
        if page:
            self._take(page, present, advance)
        if last < present:
            raise ImportRefused(f"the log holds {present} events already, the file only {last}")
        return last

    def _take(self, page: list[Line], present: int, advance: Callable[[int], Any]) -> None:
        here = [line for line in page if line.position <= present]
        if here:
            self._check_same(here)
        missing = page[len(here) :]
        if missing:
            self._append(missing)
        advance(sum(line.size for line in page))

    def _check_same(self, lines: list[Line]) -> None:
        """Raises ImportRefused unless the log has these events already."""
        found = self._recorder.select_notifications(lines[0].position, len(lines))
        for line, there in zip(lines, found, strict=True):
            known = (there.originator_id, there.originator_version, there.topic, there.state)
            stored = line.stored
            if known != (
                stored.originator_id,
                stored.originator_version,
                stored.topic,
                stored.state,
            ):
                raise ImportRefused(f"line {line.number}: the log has another event there")

    def _append(self, lines: list[Line]) -> None:
        changes = self._changes(lines)
        future: concurrent.futures.Future[list[int]] = concurrent.futures.Future()
        stored = [line.stored for line in lines]
        self._recorder.submit(Append(stored, lambda: changes, None, future))
        positions = future.result()
        if positions != [line.position for line in lines]:
            raise ImportRefused(
                f"line {lines[0].number}: somebody else writes to this log; empty it and start over"
            )

    def _changes(self, lines: list[Line]) -> list[Change]:
        events: dict[UUID, list[Any]] = {}
        usages: dict[UUID, Any] = {}
        images: dict[UUID, Any] = {}
        for line in lines:
            image_id = line.stored.originator_id
            assert isinstance(image_id, UUID)
            try:
                event: Any = self._mapper.to_domain_event(line.stored)
                if image_id not in images:
                    image = self._image(image_id, line.stored.originator_version)
                    usages[image_id] = image.usage if isinstance(image, Image) else None
                    images[image_id] = image
                images[image_id] = event.mutate(images[image_id])
            except Exception as error:
                raise ImportRefused(
                    f"line {line.number}: cannot be applied: {type(error).__name__}: {error}"
                ) from None
            events.setdefault(image_id, []).append(event)
        self._remember(images)
        changes: list[Change] = []
        for key, happened in events.items():
            image = images[key]
            if isinstance(image, Image):  # A download has no rows.
                changes += rows_of(image, happened)
                changes += counts(usages[key], image.usage)
        return changes

    def _image(self, image_id: UUID, version: int) -> Any:
        image = self._images.pop(image_id, None)
        if image is None and version > 1:
            for stored in self._recorder.select_events(image_id):
                event: Any = self._mapper.to_domain_event(stored)
                image = event.mutate(image)
            if image is None:
                raise ValueError("the image was never created")
        return image

    def _remember(self, images: dict[UUID, Any]) -> None:
        self._images.update(images)
        while len(self._images) > CACHED_IMAGES:
            self._images.popitem(last=False)

    def _take_identity(self, log_id: str) -> None:
        if self._recorder.fetch_now(_LOG_ID)[0][0] != log_id:
            self._recorder.fetch_now(_SET_LOG_ID, {"id": log_id})


def read_lines(file: Path) -> Iterator[Line]:
    """The events of an export, one by one. Raises ImportRefused naming the line."""
    log_id = ""
    with file.open("rb") as source:
        number = 0
        while raw := source.readline(LONGEST_LINE_BYTES + 1):
            number += 1
            try:
                line = _line(number, raw)
            except (ValueError, KeyError, TypeError, AttributeError, Invalid) as error:
                text = getattr(error, "explanation", None) or str(error)
                raise ImportRefused(
                    f"line {number}: is not an event of an export: {text[:200]}"
                ) from None
            if log_id and line.log_id != log_id:
                raise ImportRefused(f"line {number}: is an event of another log")
            log_id = line.log_id
            yield line


def _line(number: int, raw: bytes) -> Line:
    if len(raw) > LONGEST_LINE_BYTES:
        raise ValueError("the line is too long")
    given = orjson.loads(raw)
    position, image_id, version, topic = (given[key] for key in _KEYS)
    if topic not in LOG_EVENT_TYPES:
        raise ValueError(f"there is no event type '{topic}'")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ValueError("'version' is not a whole number")
    log_id = position[1:13]
    state = orjson.dumps(given["state"]) if "state" in given else _decoded(given["state_base64"])
    stored = StoredEvent(UUID(image_id), version, topic, state)
    return Line(number, len(raw), Positions(log_id).decode(position), log_id, stored)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("'state_base64' is not base64") from None
