"""The catalogue says what the events are: every type, every field, no more and no less."""

from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from eventsourcing.persistence import StoredEvent

from calotype.commands.images.download import LOG_EVENT_TYPES
from calotype.projections.engine.positions import Positions
from calotype.projections.feed.audience import OWN, SHARED, WITHDRAWN
from calotype.projections.feed.catalogue import (
    SAMPLE_ID,
    asyncapi,
    catalogue,
    fields_of,
    sample_event,
    sample_state,
    schema_of,
)
from calotype.projections.feed.cloudevents import SHOWN, cloud_event, type_of
from calotype.stores.log.log import event_mapper

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "commands"
TOPICS = sorted(LOG_EVENT_TYPES)


def golden() -> list[dict[str, Any]]:
    files = [GOLDEN / "golden_events.ndjson", GOLDEN / "golden_downloads.ndjson"]
    return [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]


def valid(schema: dict[str, Any], value: Any) -> bool:
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    return bool(validator.is_valid(value))


def test_every_type_is_in_the_catalogue_and_in_the_asyncapi_document() -> None:
    assert [entry["type"] for entry in catalogue()["types"]] == [type_of(topic) for topic in TOPICS]
    assert sorted(asyncapi()["components"]["messages"]) == TOPICS


def test_every_type_is_described_and_no_word_of_the_inside_is_in_the_public_form() -> None:
    described = {entry["type"]: entry["description"] for entry in catalogue()["types"]}
    assert all(text.endswith(".") for text in described.values()), described
    assert len(set(described.values())) == len(TOPICS)
    public = orjson.dumps([asyncapi(), catalogue(), *map(schema_of, TOPICS)]).decode()
    for word in ("originator", "class_version", "command_id", "aggregate"):
        assert word not in public


@pytest.mark.parametrize("topic", TOPICS)
def test_a_sample_is_an_event_that_the_log_could_hold(topic: str) -> None:
    state = orjson.dumps(sample_state(LOG_EVENT_TYPES[topic]))
    mapper = event_mapper()
    event: Any = mapper.to_domain_event(StoredEvent(SAMPLE_ID, 1, topic, state))
    assert orjson.loads(mapper.to_stored_event(event).state) == orjson.loads(state)
    assert valid(schema_of(topic), sample_event(topic)["data"])
    assert None not in sample_state(LOG_EVENT_TYPES[topic]).values()


@pytest.mark.parametrize("stored", golden(), ids=lambda stored: stored["topic"])
@pytest.mark.parametrize("view", ["full", OWN, SHARED, WITHDRAWN])
def test_real_events_are_as_their_schema_says_in_every_view(
    stored: dict[str, Any], view: str
) -> None:
    event = cloud_event(
        Positions("0a1b2c3d4e5f"),
        position=1,
        originator_id=stored["id"],
        version=stored["version"],
        topic=stored["topic"],
        state=stored["state"],
        view=view,
    )
    schema = schema_of(stored["topic"], stored["state"].get("class_version", 1))
    assert valid(schema, event["data"])
    shown = {name for name, of in schema["properties"].items() if view in of.get("x-shown-to", ())}
    assert set(event["data"]) == shown | {"version"}
    message = asyncapi()["components"]["messages"][stored["topic"]]
    assert valid(message["payload"], event)
    # And the schema is not one that takes everything.
    assert not valid(schema, {**event["data"], "surprise": 1})
    assert not valid(schema, {**event["data"], "timestamp": 5})


def test_places_of_bytes_and_names_of_processes_are_shown_to_operators_only() -> None:
    for topic in TOPICS:
        for name, schema in schema_of(topic)["properties"].items():
            if name in ("url", "holder", "locations", "stores"):
                assert schema["x-shown-to"] == ["full"], (topic, name)
            if name in ("actor", "request_id", "traceparent", "reason"):
                assert SHARED not in schema["x-shown-to"], (topic, name)


def test_views_name_only_fields_that_some_event_has() -> None:
    known = {name for kind in LOG_EVENT_TYPES.values() for name in fields_of(kind)}
    assert set().union(*SHOWN.values()) <= known


def test_the_asyncapi_document_in_the_documentation_is_up_to_date() -> None:
    written = orjson.loads((ROOT / "docs" / "asyncapi.json").read_bytes())
    assert written == asyncapi(), "write it again: calotype log catalogue > docs/asyncapi.json"
