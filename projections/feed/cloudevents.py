"""Stored events as CloudEvents 1.0 in structured JSON, each in the view of its reader.

What a view shows is a list of what it may show: operators alone see a field of a
later event type, until it is added here.
"""

from typing import Any
from uuid import UUID

import orjson

from calotype.commands.images.download import DataSent
from calotype.commands.policy.protections import Readable
from calotype.projections.engine.positions import Positions
from calotype.projections.feed.audience import FULL, OWN, SHARED, WITHDRAWN

SCHEMAS = "/log/v1/schemas"
TYPE_PREFIX = "org.calotype."
"""What the types of events begin with outside of the log, so that they are nobody else's."""
SNAPSHOT = TYPE_PREFIX + "image.snapshot"
"""The type of the events that a snapshot is made of; none of the log has it."""
_SCHEMA = "urn:calotype:schema:"
INTERNAL = frozenset({"originator_topic", "class_version", "command_id"})
"""Fields of a stored event's state that only the log itself uses; no view shows them."""

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
    "announced_size",
    "store",
    "reason",
    "bytes_sent",
    "bytes_asked",
    "deletion",
    "retained_until",
}
SHOWN = {OWN: _SHOWN_TO_OWNERS, SHARED: _SHOWN_TO_MEMBERS, WITHDRAWN: frozenset({"timestamp"})}
"""The fields of an event's state that each view shows; the view `full` shows all but `INTERNAL`.

Places of bytes and names of processes are for operators; the actor and the request are for the
owner as well."""
_WHO = frozenset({"actor", "request_id", "traceparent"})


def type_of(topic: str) -> str:
    """The type that events of this topic have outside of the log."""
    return TYPE_PREFIX + topic


def topic_of(name: str) -> str:
    """The topic in the log of a type, which callers may also name without its prefix."""
    return name.removeprefix(TYPE_PREFIX)


def schema_urn(topic: str, version: int) -> str:
    """The name of the schema of the data of such events, which `SCHEMAS` gives out."""
    return f"{_SCHEMA}{type_of(topic)}:{version}"


def shown_in(view: str, topic: str) -> frozenset[str] | None:
    """The fields that the view shows of events of this type; None: all but `INTERNAL`.

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
    facts = {
        name: value
        for name, value in state.items()
        if (name not in INTERNAL if shown is None else name in shown)
    }
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": positions.encode(position),
        "source": source_of(positions, position),
        "type": type_of(topic),
        "subject": str(originator_id),
        "time": state["timestamp"],
        "datacontenttype": "application/json",
        "dataschema": schema_urn(topic, state.get("class_version", 1)),
        "view": view,
    }
    if facts.get("traceparent"):
        event["traceparent"] = facts["traceparent"]
    if "request_id" in facts:
        event["requestid"] = facts["request_id"]
    if "actor" in facts and facts["actor"]["project"] is not None:
        event["project"] = facts["actor"]["project"]
    event["data"] = {**facts, "version": version}
    return event


def encoded_event(positions: Positions, row: tuple[Any, ...]) -> bytes:
    """The JSON of a row `(position, originator id, version, topic, state, view)`."""
    position, originator_id, version, topic, state, view = row
    return orjson.dumps(
        cloud_event(
            positions,
            position=position,
            originator_id=originator_id,
            version=version,
            topic=topic,
            state=orjson.loads(bytes(state)),
            view=view,
        )
    )


def encoded_snapshot(
    positions: Positions, position: int, image_id: UUID | str, document: str, view: str
) -> bytes:
    """The JSON of one image of a snapshot; its data is the image as the API shows it."""
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": f"{positions.encode(position)}/{image_id}",
            "source": source_of(positions, position),
            "type": SNAPSHOT,
            "subject": str(image_id),
            "datacontenttype": "application/json",
            "dataschema": f"{_SCHEMA}image",
            "view": view,
            "data": orjson.Fragment(document.encode()),
        }
    )


def readable_event(event: bytes, readable: Readable | None) -> bytes:
    """A CloudEvent of the feed or of a snapshot with what the reader may read of properties.

    None: the reader may read all of them, and the event is passed on unparsed.
    """
    if readable is None:
        return event
    decoded = orjson.loads(event)
    data = decoded["data"]
    if decoded["type"] == SNAPSHOT:
        decoded["data"] = {name: value for name, value in data.items() if name in readable}
    if "properties" in data:
        given = data["properties"]
        data["properties"] = {name: value for name, value in given.items() if name in readable}
    if "removed_properties" in data:
        data["removed_properties"] = [n for n in data["removed_properties"] if n in readable]
    return orjson.dumps(decoded)


def source_of(positions: Positions, position: int) -> str:
    """The `source` of the events of a log; of older ones after a new epoch that of before."""
    return f"urn:calotype:log:{positions.log_of(position)}"
