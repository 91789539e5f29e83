"""The catalogue of event types: a JSON Schema and a sample of each, and an AsyncAPI document.

All of it is made from the event classes and their annotations, so that it cannot fall behind them.
"""

from functools import cache
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from calotype.commands.images.download import LOG_EVENT_TYPES, DataSent
from calotype.commands.images.events import Created, ImageEvent
from calotype.projections.engine.positions import Positions
from calotype.projections.feed.audience import FULL, OWN, SHARED, WITHDRAWN
from calotype.projections.feed.cloudevents import (
    INTERNAL,
    SCHEMAS,
    cloud_event,
    schema_urn,
    shown_in,
    type_of,
)

EventType = type[ImageEvent] | type[DataSent]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INTERNAL = ("originator_id", "originator_version")
"""What the library keeps beside the state; a CloudEvent says it as `subject` and `version`."""

_PLACE = "file:///var/lib/calotype/images/8c1f1c2e-6f0b-4c52-9f0e-6d8b0b4c1a77-5d41402a"
SAMPLE_ID = "8c1f1c2e-6f0b-4c52-9f0e-6d8b0b4c1a77"
_SAMPLES: dict[str, Any] = {
    "timestamp": "2026-01-02T03:04:05.678901Z",
    "originator_topic": "image",
    "actor": {"user": "u1", "project": "p1", "roles": ["member", "reader"]},
    "request_id": "req-3b1f0b52-5a63-4a0e-9c1d-2f7f0f5f4a11",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "command_id": "5f1d7a84db00d2fc",
    "image_id": SAMPLE_ID,
    "fields": {"name": "debian-13", "visibility": "shared", "owner": "p1"},
    "tags": ["stable"],
    "properties": {"os_distro": "debian"},
    "removed_properties": ["os_version"],
    "tag": "stable",
    "upload_id": "5d41402a",
    "store": "default",
    "url": _PLACE,
    "holder": "host-1-4711",
    "announced_size": 10,
    "reason": "the client closed the connection",
    "size": 10,
    "virtual_size": 10,
    "checksum": "781e5e245d69b566979b86e28d23f2c7",
    "os_hash_algo": "sha512",
    "os_hash_value": "bb96c2fc40d2d54617d6f276febe571f623a8dadf0b734855299b0e107fda32c"
    "f6b69f2da32b36445d73690b93cbd0f7bfc20e0f7f28553d2a4428f23b716e90",
    "locations": [{"url": _PLACE, "metadata": {"store": "default"}}],
    "stores": {_PLACE: "default"},
    "member": "p2",
    "owner": "p1",
    "bytes_sent": 10,
    "bytes_asked": 10,
    "status": "accepted",
    "retained_until": "2026-01-09T03:04:05.678901Z",
    "deletion": 6,
    "restored_to": "active",
}
"""One plausible value for each field that an event may have; a new field needs one here."""


class _WithoutDefaults(GenerateJsonSchema):
    """Schemas that leave out what JSON Schema assumes: objects may have any members."""

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        if made.get("additionalProperties") is True:
            del made["additionalProperties"]
        return made


def fields_of(kind: EventType, version: int | None = None) -> dict[str, Any]:
    """The fields of an event's state with their types, in that version or the newest."""
    hints, since = get_type_hints(kind), getattr(kind, "FIELDS_SINCE", {})
    return {
        name: hints[name]
        for name in kind.__dataclass_fields__
        if name not in _INTERNAL and since.get(name, 1) <= (version or version_of(kind))
    }


def version_of(kind: EventType) -> int:
    """The version of the event type itself; grows when it gets more fields."""
    version: int = getattr(kind, "class_version", 1)
    return version


def sample_state(kind: EventType) -> dict[str, Any]:
    """A whole state of such an event, as the log would hold it."""
    state = {name: _SAMPLES[name] for name in fields_of(kind)}
    if version_of(kind) > 1:
        state["class_version"] = version_of(kind)
    return state


def sample_event(topic: str) -> dict[str, Any]:
    """A CloudEvent of this type as operators get it."""
    kind = LOG_EVENT_TYPES[topic]
    return cloud_event(
        Positions("0a1b2c3d4e5f"),
        position=42,
        originator_id=SAMPLE_ID,
        version=1 if kind in (Created, DataSent) else 7,
        topic=topic,
        state=sample_state(kind),
    )


def schema_of(topic: str, version: int | None = None) -> dict[str, Any]:
    """The JSON Schema of the `data` of this event type, with a sample of the newest version.

    What was stored in an older version is given out so, and has that version's schema. Operators
    get all fields. `x-shown-to` says of each field which other views have it; what a view has is
    always there, so `anyOf` lists the views.
    """
    kind = LOG_EVENT_TYPES[topic]
    version = version or version_of(kind)
    fields = {n: hint for n, hint in fields_of(kind, version).items() if n not in INTERNAL}
    shown_to = {view: shown_in(view, topic) or frozenset() for view in (OWN, SHARED, WITHDRAWN)}
    properties: dict[str, Any] = {}
    for name, hint in fields.items():
        views = [view for view, shown in shown_to.items() if name in shown]
        properties[name] = {**json_schema(hint), "x-shown-to": [FULL, *views]}
    properties["version"] = {
        "type": "integer",
        "minimum": 1,
        "description": "The event's number in the life of what it happened to, counting from 1.",
    }
    of_views = [[name for name in fields if name in shown] for shown in shown_to.values()]
    newest = version == version_of(kind)
    return {
        "$schema": DIALECT,
        "$id": schema_urn(topic, version),
        "title": type_of(topic),
        "description": " ".join(_description(kind).split()),
        "x-version": version,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "anyOf": [{"required": ["version", *names]} for names in [list(fields), *of_views]],
        "examples": [sample_event(topic)["data"]] if newest else [],
    }


def catalogue() -> dict[str, Any]:
    """Every event type with its version, and where its schema is."""
    return {
        "types": [
            {
                "type": type_of(topic),
                "version": version_of(kind),
                "description": " ".join(_description(kind).split()),
                "schema": f"{SCHEMAS}/{type_of(topic)}",
                "sample": sample_event(topic),
            }
            for topic, kind in sorted(LOG_EVENT_TYPES.items())
        ],
        "asyncapi": "/log/v1/asyncapi",
    }


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of the feed."""
    topics = sorted(LOG_EVENT_TYPES)
    messages = {topic: {"$ref": f"#/components/messages/{topic}"} for topic in topics}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Calotype event feed",
            "version": "1",
            "description": "Every change of every image, once and in order, from any position. "
            "Read it in batches, by long poll or as Server-Sent Events, or let the service keep "
            "the place of a named consumer, whose members share the work.",
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": {
            "events": {
                "address": "/log/v1/events",
                "description": "Parameters: after, types, image, limit, wait, snapshot.",
                "messages": messages,
            },
            "consumer": {
                "address": "/log/v1/consumers/{name}/fetch",
                "description": "POST with member, limit, ack_seconds, wait. Each event comes with "
                "a token that is answered at /log/v1/consumers/{name}/ack; without an answer it "
                "comes again.",
                "parameters": {"name": {"description": "The consumer's name."}},
                "messages": messages,
            },
        },
        "operations": {
            "follow": {
                "action": "send",
                "channel": {"$ref": "#/channels/events"},
                "summary": "What happened after a position.",
                "messages": [{"$ref": f"#/channels/events/messages/{topic}"} for topic in topics],
            },
            "share": {
                "action": "send",
                "channel": {"$ref": "#/channels/consumer"},
                "summary": "Events for one member of a named consumer to work on.",
                "messages": [{"$ref": f"#/channels/consumer/messages/{topic}"} for topic in topics],
            },
        },
        "components": {"messages": {topic: _message(topic) for topic in topics}},
    }


def _message(topic: str) -> dict[str, Any]:
    sample = sample_event(topic)
    versions = range(version_of(LOG_EVENT_TYPES[topic]), 0, -1)
    schemas = [_without_place(schema_of(topic, version)) for version in versions]
    return {
        "name": type_of(topic),
        "title": type_of(topic),
        "summary": schemas[0]["description"],
        "contentType": "application/cloudevents+json",
        "payload": {
            "type": "object",
            "required": ["specversion", "id", "source", "type", "subject", "time", "view", "data"],
            "properties": {
                "specversion": {"const": "1.0"},
                "id": {"type": "string", "description": "The event's position in the log."},
                "source": {"type": "string", "format": "uri"},
                "type": {"const": type_of(topic)},
                "subject": {"type": "string", "format": "uuid", "description": "The image."},
                "time": {"type": "string", "format": "date-time"},
                "datacontenttype": {"const": "application/json"},
                "dataschema": {"type": "string", "format": "uri"},
                "view": {"enum": [FULL, OWN, SHARED, WITHDRAWN]},
                "traceparent": {"type": "string"},
                "requestid": {"type": "string"},
                "project": {"type": "string", "description": "The project of who did it."},
                "data": schemas[0] if len(schemas) == 1 else {"anyOf": schemas},
            },
        },
        "examples": [{"payload": sample}],
    }


def _without_place(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema inside of another document has no address of its own on the web."""
    return {name: value for name, value in schema.items() if name not in ("$schema", "$id")}


@cache
def json_schema(hint: Any) -> dict[str, Any]:
    """The JSON Schema of a value with this type annotation."""
    return TypeAdapter(hint).json_schema(schema_generator=_WithoutDefaults)


def _description(kind: type) -> str:
    """The words of the class, or of the one that the library has put another in front of."""
    for known in kind.__mro__:
        own = vars(known).get("__doc__") or ""
        # A dataclass without words of its own documents itself with its signature.
        if own and not own.startswith(f"{known.__name__}("):
            return own
    raise LookupError(f"{kind} says nothing of itself")
