"""Stored events as CloudEvents 1.0 in structured JSON, each in the view of who reads it.

What a view shows is a list of what it may show: a field that some later event type brings is
seen by operators only, until somebody decides otherwise here.
"""

from typing import Any
from uuid import UUID

import orjson

from calotype.commands.download import DataSent
from calotype.commands.protections import Readable
from calotype.projections.audience import FULL, OWN, SHARED, WITHDRAWN
from calotype.projections.images import readable_document
from calotype.projections.positions import Positions

SCHEMAS = "/log/v1/schemas"
SNAPSHOT = "image.snapshot"
"""The type of the events that a snapshot is made of; none of the log has it."""

_SHOWN_TO_MEMBERS = frozenset(
    {
        "timestamp",
        "image_id",
        "fields",
        "tags",
        "tag",
        "properties",
        "removed_properties",
        "size",
        "virtual_size",
        "checksum",
        "os_hash_algo",
        "os_hash_value",
        "member",
        "status",
        "restored_to",
    }
)
_SHOWN_TO_OWNERS = _SHOWN_TO_MEMBERS | {
    "actor",
    "request_id",
    "traceparent",
    "upload_id",
    "store",
    "reason",
    "bytes_sent",
    "bytes_asked",
    "deletion",
    "retained_until",
}
SHOWN = {OWN: _SHOWN_TO_OWNERS, SHARED: _SHOWN_TO_MEMBERS, WITHDRAWN: frozenset({"timestamp"})}
"""The fields of an event's state that each view shows; the view `full` shows all.

Places of bytes and names of processes are for operators; who did it and by which request is for
the owner as well."""
_WHO = frozenset({"actor", "request_id", "traceparent"})


def shown_in(view: str, topic: str) -> frozenset[str] | None:
    """The fields that the view shows of events of this type; None: all.

    Owners learn that their image was read, and not by which stranger.
    """
    if view not in SHOWN:
        return None
    return SHOWN[view] - _WHO if topic == DataSent.TOPIC else SHOWN[view]


def cloud_event(
    positions: Positions,
    *,
    position: int,
    originator_id: UUID | str,
    version: int,
    topic: str,
    state: dict[str, Any],
    view: str = FULL,
) -> dict[str, Any]:
    """The CloudEvent of one stored event, whose decoded state is given, as the view shows it."""
    shown = shown_in(view, topic)
    told = {k: v for k, v in state.items() if shown is None or k in shown}
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": positions.encode(position),
        "source": source_of(positions),
        "type": topic,
        "subject": str(originator_id),
        "time": state["timestamp"],
        "datacontenttype": "application/json",
        "dataschema": f"{SCHEMAS}/{topic}?version={state.get('class_version', 1)}",
        "view": view,
    }
    if told.get("traceparent"):
        event["traceparent"] = told["traceparent"]
    if "request_id" in told:
        event["requestid"] = told["request_id"]
    if "actor" in told and told["actor"]["project"] is not None:
        event["project"] = told["actor"]["project"]
    event["data"] = {**told, "version": version}
    return event


def encoded_event(
    positions: Positions, row: tuple[Any, ...], readable: Readable | None = None
) -> bytes:
    """The JSON of a row `(position, originator id, version, topic, state, view)`.

    Custom properties that are not `readable` (None: all are) are not in it.
    """
    position, originator_id, version, topic, stored, view = row
    state = orjson.loads(bytes(stored))
    if readable is not None:
        _leave_out_unreadable(state, readable)
    return orjson.dumps(
        cloud_event(
            positions,
            position=position,
            originator_id=originator_id,
            version=version,
            topic=topic,
            state=state,
            view=view,
        )
    )


def _leave_out_unreadable(state: dict[str, Any], readable: Readable) -> None:
    """Takes custom properties out of an event's state: those it sets, and those it removes."""
    if "properties" in state:
        given = state["properties"]
        state["properties"] = {name: value for name, value in given.items() if name in readable}
    if "removed_properties" in state:
        state["removed_properties"] = [n for n in state["removed_properties"] if n in readable]


def encoded_snapshot(
    positions: Positions,
    position: int,
    image_id: UUID | str,
    document: str,
    view: str,
    readable: Readable | None = None,
) -> bytes:
    """The JSON of one image of a snapshot; its data is the image as the API shows it."""
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": f"{positions.encode(position)}/{image_id}",
            "source": source_of(positions),
            "type": SNAPSHOT,
            "subject": str(image_id),
            "datacontenttype": "application/json",
            "dataschema": "/v2/schemas/image",
            "view": view,
            "data": orjson.Fragment(readable_document(document.encode(), readable)),
        }
    )


def source_of(positions: Positions) -> str:
    """The `source` of all events of one log."""
    return f"urn:calotype:log:{positions.log_id}"
