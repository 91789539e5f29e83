"""The history of one image, read straight from its events: never behind.

Each change has its time, actor and request, and what it did to the image as the API shows it, as a
JSON patch (RFC 6902). Applying all patches in order to nothing gives the present image.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from eventsourcing.persistence import StoredEvent

from calotype.commands.images.events import EVENT_TYPES, clock_text
from calotype.commands.images.image import Image
from calotype.commands.images.snapshots import IMAGE_SNAPSHOTS
from calotype.commands.policy.protections import Readable
from calotype.projections.engine.positions import Positions
from calotype.projections.images.rows import image_document, readable_document
from calotype.stores.log.log import event_mapper, keep
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.snapshots import SNAPSHOT, VERSION_AT, Row, Streams, bytes_of
from calotype.stores.log.statements import within_bytes

PAGE_BYTES = 4 << 20
"""A page whose events have become this long ends early."""
DOCUMENTS_BYTES = 16 << 20
"""And one that has compared so many bytes of documents."""
_AFTER = "stored_events WHERE originator_id = :id AND originator_version > :version"
_PAGE = (
    f"SELECT originator_version, topic, state, notification_id FROM {_AFTER} "
    f"AND {within_bytes('originator_version', _AFTER)} ORDER BY originator_version LIMIT :limit"
)
_DETAILS = ("member", "status", "store", "reason", "retained_until")
"""What an event may show beside the patch. Places of bytes and names of processes stay inside."""
_LONG, _LARGE_BYTES = 100, 256 << 10
"""More events or bytes than this are folded in a thread."""
_STREAMS = Streams(event_mapper(), IMAGE_SNAPSHOTS)

Patch = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Change:
    """One event of an image."""

    position: int
    version: int
    """1 for the image's creation, then counting up."""
    type: str
    time: str
    """RFC 3339 in UTC with microseconds."""
    actor: dict[str, Any]
    """`user`, `project`, `roles`."""
    request_id: str
    traceparent: str | None
    details: dict[str, Any]
    patch: Patch
    """RFC 6902, from the image before the event to the image after it; empty where the API
    shows no difference, as for members and for bytes that were removed later."""

    def shown(self, positions: Positions) -> dict[str, Any]:
        """The change as the API and the command line give it."""
        parts = (self.traceparent or "").split("-")
        return {
            "position": positions.encode(self.position),
            "version": self.version,
            "type": self.type,
            "time": self.time,
            "actor": self.actor,
            "request_id": self.request_id,
            "trace_id": parts[1] if len(parts) > 1 else None,
            "details": self.details,
            "patch": self.patch,
        }


@dataclass(frozen=True, slots=True)
class History:
    """A page of changes, and the image as all its events make it."""

    image: Image
    changes: list[Change]
    more: bool
    """Whether something comes after this page."""


async def history_of(
    recorder: GroupCommitRecorder,
    image_id: UUID,
    *,
    after: int = 0,
    limit: int,
    readable: Readable | None = None,
) -> History | None:
    """The changes after position `after`, at most `limit`, oldest first; None: no such image.

    Custom properties that are not `readable` (None: all are) are in no patch. A page ends early
    where its events, or the documents that it compares, become long; it has at least one change
    if there is any.
    """
    version = 0
    before: list[Row] = []
    if after:
        version = (await recorder.fetch(VERSION_AT, {"id": image_id, "position": after}))[0][0]
        if version:
            before = await recorder.fetch(*_STREAMS.since(image_id, until=version + 1))
    values = {"id": image_id, "version": version, "limit": limit + 1, "bytes": PAGE_BYTES}
    page = await recorder.fetch(_PAGE, values, heavy=True)
    rest: list[Row] = []
    if len(page) > limit or bytes_of(page) >= PAGE_BYTES:
        page = page[:limit]
        rest = await recorder.fetch(*_STREAMS.since(image_id, page[-1][0]))
    read = [*before, *page, *rest]
    # Other things have ids and events too.
    if not read or not (read[0][1] in EVENT_TYPES or read[0][1] == SNAPSHOT):
        return None
    if len(read) > _LONG or bytes_of(read) > _LARGE_BYTES:
        history, missing = await asyncio.to_thread(_folded, image_id, before, page, rest, readable)
        keep(recorder, missing)
        return history
    return _folded(image_id, before, page, rest, readable)[0]


def _folded(
    image_id: UUID, before: list[Row], page: list[Row], rest: list[Row], readable: Readable | None
) -> tuple[History, list[Row]]:
    """The history, and the snapshots that were missing on the way to it."""
    image, missing = _STREAMS.fold_and_mend(None, image_id, before)
    image, changes = changes_of(image, image_id, page, readable)
    rest = [*((*row[:3], None) for row in page[len(changes) :]), *rest]
    image, more_missing = _STREAMS.fold_and_mend(image, image_id, rest)
    return History(image, changes, bool(rest)), missing + more_missing


def changes_of(
    image: Image | None, image_id: UUID, rows: Sequence[Row], readable: Readable | None = None
) -> tuple[Any, list[Change]]:
    """The image after events `(version, topic, state, position)`, and what each changed.

    `image` is what it was before, and is changed. Fewer events are looked at than are given where
    the documents become long.
    """
    mapper = event_mapper()
    changes: list[Change] = []
    before, documents_bytes = None, 0
    if image is not None and rows:
        before = shown_document(image, readable)
    for version, topic, state, position in rows:
        if changes and documents_bytes >= DOCUMENTS_BYTES:
            break
        event: Any = mapper.to_domain_event(StoredEvent(image_id, version, topic, bytes(state)))
        image = event.mutate(image)
        assert image is not None
        document = readable_document(image_document(image), readable)
        documents_bytes += len(document)
        now: dict[str, Any] = orjson.loads(document)
        changes.append(_change(event, position, difference(before, now)))
        before = now
    return image, changes


def shown_document(image: Image, readable: Readable | None = None) -> dict[str, Any]:
    """The image as the API shows it to this reader; a deleted one with that status."""
    document: dict[str, Any] = orjson.loads(readable_document(image_document(image), readable))
    return document


def _change(event: Any, position: int, patch: Patch) -> Change:
    return Change(
        position=position,
        version=event.originator_version,
        type=event.TOPIC,
        time=clock_text(event.timestamp),
        actor=event.actor,
        request_id=event.request_id,
        traceparent=event.traceparent,
        details={name: getattr(event, name) for name in _DETAILS if hasattr(event, name)},
        patch=patch,
    )


def difference(before: dict[str, Any] | None, after: dict[str, Any] | None) -> Patch:
    """The JSON patch (RFC 6902) that turns one flat document into the other.

    None is no document: it appears and vanishes as a whole, at the path "". Lists, such as the
    tags, are replaced as a whole.
    """
    if before is None or after is None:
        if before is after:
            return []
        return [{"op": "remove", "path": ""} if after is None else _add("", after)]
    patch: Patch = [
        {"op": "remove", "path": _pointer(name)} for name in before if name not in after
    ]
    for name, value in after.items():
        if name not in before:
            patch.append(_add(_pointer(name), value))
        elif before[name] != value or type(before[name]) is not type(value):
            patch.append({"op": "replace", "path": _pointer(name), "value": value})
    return patch


def _add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def _pointer(name: str) -> str:
    """RFC 6901: `~` and `/` in a name are escaped."""
    return "/" + name.replace("~", "~0").replace("/", "~1")
