"""Folding by stream: the rows that an image leaves in the tables, made from all its events at once.

Followers and appends see one event after the other, and write what it changes. Here an image is
folded from its first event and written once, which suits a rebuild and a comparison. The folds
are the same. Only one image is held in memory.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from uuid import UUID

from eventsourcing.persistence import StoredEvent

from calotype.commands.images.events import EVENT_TYPES
from calotype.commands.images.image import Image
from calotype.projections.feed.audience import EVENT_AUDIENCE, audience_of, told_of, told_of_others
from calotype.projections.images.rows import all_rows_of
from calotype.projections.past.row_versions import ImageTimeline, Noted, finished
from calotype.stores.log.log import event_mapper
from calotype.stores.log.statements import Fetch
from calotype.stores.log.tables import Table

PAGE_EVENTS = 1000
LOWEST, HIGHEST = UUID(int=0), UUID(int=2**128 - 1)
"""The ends of the range of all streams."""

Row = tuple[Any, ...]
Rows = Iterator[tuple[Table, Row]]

_EVENTS = (
    "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events "
    "WHERE (originator_id, originator_version) > (:id, :version) AND originator_id <= :last "
    "AND notification_id <= :until ORDER BY originator_id, originator_version "
    f"LIMIT {PAGE_EVENTS}"
)
_IN_ORDER = (
    "SELECT notification_id, topic, state FROM stored_events "
    "WHERE notification_id > :after AND notification_id <= :until ORDER BY notification_id "
    f"LIMIT {PAGE_EVENTS}"
)


class LogEvent(NamedTuple):
    """An event as it is stored."""

    position: int
    originator_id: UUID
    version: int
    topic: str
    state: bytes


def events_by_stream(fetch: Fetch, first: UUID, last: UUID, until: int) -> Iterator[LogEvent]:
    """All events up to position `until` of what has an id from `first` to `last`, by id."""
    current, seen, version = first, str(first), -1
    while True:
        page = fetch(_EVENTS, {"id": current, "version": version, "last": last, "until": until})
        for position, text, version, topic, state in page:
            if text != seen:
                seen = text
                current = text if isinstance(text, UUID) else UUID(text)
            yield LogEvent(position, current, version, topic, bytes(state))
        if len(page) < PAGE_EVENTS:
            return


def events_in_order(fetch: Fetch, after: int, until: int) -> list[tuple[int, str, bytes]]:
    """A page of events by position: position, topic and state; a short one is the last."""
    page = fetch(_IN_ORDER, {"after": after, "until": until})
    return [(position, topic, bytes(state)) for position, topic, state in page]


def counted(events: Iterable[LogEvent], progress: Callable[[int], None]) -> Iterator[LogEvent]:
    """The same events; `progress` gets the number of each page of them, and of the rest."""
    count = 0
    for event in events:
        yield event
        count += 1
        if count == PAGE_EVENTS:
            progress(count)
            count = 0
    progress(count)


def folded_images(events: Iterable[LogEvent], position: int = 0) -> Iterator[tuple[Any, Image]]:
    """Each image of these streams, and its usage at the position (None: it did not exist)."""
    decode = decoder()
    image: Any = None
    usage: Any = None
    for stored in events:
        if stored.topic not in EVENT_TYPES:
            continue
        if image is not None and image.id != stored.originator_id:
            yield usage, image
            image = usage = None
        image = decode(stored).mutate(image)
        if stored.position <= position:
            usage = image.usage
    if image is not None:
        yield usage, image


def image_rows(events: Iterable[LogEvent]) -> Rows:
    """The rows of the tables that are written with every append."""
    for _, image in folded_images(events):
        yield from all_rows_of(image)


def span_rows(events: Iterable[LogEvent]) -> Rows:
    """The row versions."""
    decode = decoder()
    life = ImageTimeline()
    noted: Noted = {}
    for stored in events:
        if stored.topic not in EVENT_TYPES:
            continue
        if life.image is not None and life.image.id != stored.originator_id:
            yield from life.open_rows()
            life = ImageTimeline()
        life.apply(decode(stored), stored.position, noted)
        yield from finished(noted)
    yield from life.open_rows()


def audience_rows(events: Iterable[LogEvent]) -> Rows:
    """The audience of every event."""
    decode = decoder()
    image: Image | None = None
    for stored in events:
        if stored.topic in EVENT_TYPES:
            if image is not None and image.id != stored.originator_id:
                image = None
            before = audience_of(image)
            event = decode(stored)
            now: Image = event.mutate(image)
            told = told_of(before, event, now)
            image = now
        else:
            told = told_of_others(stored.topic, stored.state)
        for project, view in told.items():
            yield EVENT_AUDIENCE, (stored.position, project, stored.topic, view)


def decoder() -> Callable[[LogEvent], Any]:
    """What makes domain events of stored ones."""
    mapper = event_mapper()

    def decode(event: LogEvent) -> Any:
        stored = StoredEvent(event.originator_id, event.version, event.topic, event.state)
        return mapper.to_domain_event(stored)

    return decode
