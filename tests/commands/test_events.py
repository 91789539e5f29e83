"""Events that were ever stored can be read for ever: one golden sample a type and version."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from eventsourcing.persistence import StoredEvent

from calotype.commands.images.download import LOG_EVENT_TYPES
from calotype.commands.images.events import EVENT_TYPES, ImageEvent
from calotype.commands.images.image import Image
from calotype.commands.marks import Mark, Personal, Technical, marks_of
from calotype.projections.feed.catalogue import fields_of, version_of
from calotype.stores.log.log import event_mapper

GOLDEN = Path(__file__).with_name("golden_events.ndjson")
"""One line an event of one image's life: `topic`, `version`, `id`, `state`."""


def _samples() -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in GOLDEN.read_bytes().splitlines()]


def test_there_is_a_sample_of_every_type() -> None:
    assert {sample["topic"] for sample in _samples()} == set(EVENT_TYPES)


def test_the_samples_still_make_the_image_that_they_made_when_they_were_stored() -> None:
    image: Image | None = None
    mapper = event_mapper()
    for sample in _samples():
        stored = StoredEvent(
            sample["id"], sample["version"], sample["topic"], orjson.dumps(sample["state"])
        )
        event: Any = mapper.to_domain_event(stored)
        image = event.mutate(image)
        if sample["state"].get("class_version", 1) < version_of(EVENT_TYPES[sample["topic"]]):
            continue
        # Reading and writing again changes nothing.
        assert orjson.loads(mapper.to_stored_event(event).state) == sample["state"]
    assert image is not None
    assert (image.status, image.version) == ("deleted", len(_samples()))
    assert image.tags == ["x"]
    assert image.properties == {"os_distro": "debian"}
    assert image.locations == [{"url": "s3+http://s/b/k2", "metadata": {"store": "default"}}]
    assert image.blobs == {}
    assert image.members == {}
    assert image.former_members == {"p2": "2026-01-02T03:04:05Z"}


@pytest.mark.parametrize("sample", _samples(), ids=lambda sample: sample["topic"])
def test_no_event_holds_more_than_it_says(sample: dict[str, Any]) -> None:
    kind, version = EVENT_TYPES[sample["topic"]], sample["state"].get("class_version", 1)
    marked = {"class_version"} if version > 1 else set()
    assert set(sample["state"]) == set(fields_of(kind, version)) | marked


@pytest.mark.parametrize("topic", sorted(LOG_EVENT_TYPES))
def test_every_field_of_every_event_is_marked(topic: str) -> None:
    marks = marks_of(LOG_EVENT_TYPES[topic])
    assert {name for name, mark in marks.items() if mark is None} == set()
    assert marks["actor"] is Mark.PERSONAL
    assert marks["originator_id"] is Mark.TECHNICAL


def test_a_field_without_a_mark_is_found() -> None:
    class Renamed(ImageEvent):
        name: str
        size: Technical[int]
        by: Personal[str]

    marks = marks_of(Renamed)
    assert (marks["name"], marks["size"], marks["by"]) == (None, Mark.TECHNICAL, Mark.PERSONAL)


def test_what_callers_write_is_free_text() -> None:
    free = {
        (topic, name)
        for topic, kind in LOG_EVENT_TYPES.items()
        for name, mark in marks_of(kind).items()
        if mark is Mark.FREE_TEXT
    }
    assert {("image.created", "properties"), ("image.tag_added", "tag")} <= free
    assert {("image.purged", "reason"), ("image.member_added", "member")} <= free
    assert ("image.data_stored", "checksum") not in free
