"""Downloads that were ever stored can be read for ever, and hold no more than they say."""

from pathlib import Path
from typing import Any

import orjson
from eventsourcing.persistence import StoredEvent

from calotype.commands.images.download import LOG_EVENT_TYPES, DataSent
from calotype.commands.images.events import EVENT_TYPES
from calotype.stores.log.log import event_mapper

GOLDEN = Path(__file__).with_name("golden_downloads.ndjson")


def test_a_stored_download_is_still_what_it_was() -> None:
    (sample,) = [orjson.loads(line) for line in GOLDEN.read_bytes().splitlines()]
    state = orjson.dumps(sample["state"])
    mapper = event_mapper()
    stored = StoredEvent(sample["id"], sample["version"], sample["topic"], state)
    event: Any = mapper.to_domain_event(stored)
    over = event.mutate(None)
    assert (over.owner, over.bytes_sent, over.bytes_asked) == ("p1", 7, 10)
    assert orjson.loads(mapper.to_stored_event(event).state) == sample["state"]
    fields = set(DataSent.__dataclass_fields__) - {"originator_id", "originator_version"}
    assert set(sample["state"]) == fields


def test_the_log_holds_events_of_images_and_downloads() -> None:
    assert set(LOG_EVENT_TYPES) == {*EVENT_TYPES, "image.data_sent"}
