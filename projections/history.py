"""The history of one image, read straight from its events: never behind, and nothing kept for it.

Each change says when, who and by which request, and what it did to the image as the API shows it,
as a JSON patch (RFC 6902). Applying all patches in order to nothing gives the present image.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from eventsourcing.persistence import StoredEvent

from calotype.commands.image import EVENT_TYPES, Image, clock_text
from calotype.commands.protections import Readable
from calotype.projections.images import image_document, readable_document
from calotype.projections.positions import Positions
from calotype.stores.log.log import event_mapper
from calotype.stores.log.recorder import GroupCommitRecorder

_EVENTS = (
    "SELECT originator_version, topic, state, notification_id FROM stored_events "
    "WHERE originator_id = :id ORDER BY originator_version"
)
_DETAILS = ("member", "status", "store", "reason", "retained_until")
"""What an event may tell beside the patch. Places of bytes and names of processes stay inside."""
_LONG = 64
"""Histories of more events than this are folded in a thread."""

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

    Custom properties that are not `readable` (None: all are) are in no patch.
    """
    rows = await recorder.fetch(_EVENTS, {"id": image_id})
    rows = [row for row in rows if row[1] in EVENT_TYPES]  # Other things have ids and events too.
    if not rows:
        return None
    if len(rows) > _LONG:
        return await asyncio.to_thread(fold_history, image_id, rows, after, limit, readable)
    return fold_history(image_id, rows, after, limit, readable)


def fold_history(
    image_id: UUID,
    rows: Sequence[tuple[Any, ...]],
    after: int,
    limit: int,
    readable: Readable | None = None,
) -> History:
    """The same from rows `(version, topic, state, position)` that were read, all there are."""
    mapper = event_mapper()
    image: Any = None
    changes: list[Change] = []
    before: dict[str, Any] | None = None
    for version, topic, state, position in rows:
        event: Any = mapper.to_domain_event(StoredEvent(image_id, version, topic, bytes(state)))
        wanted = position > after and len(changes) < limit
        if wanted and image is not None and before is None:
            before = shown_document(image, readable)
        image = event.mutate(image)
        if wanted:
            now = shown_document(image, readable)
            changes.append(_change(event, position, difference(before, now)))
            before = now
    return History(image, changes, bool(changes) and changes[-1].version < rows[-1][0])


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
