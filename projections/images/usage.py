"""What every project has, as the log says it: to fill the counters, and to verify them.

Appends keep the counters by adding. Here they are computed in another way: as the sum over all
images of what each takes up. Events do not change, so the sum at a position may take long, and is
then brought to a later position by those images alone that changed in between.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from uuid import UUID

from eventsourcing.persistence import StoredEvent

from calotype.commands.images.events import EVENT_TYPES
from calotype.commands.images.image import Image
from calotype.commands.images.usage import NOTHING, USAGE, Amounts, counts
from calotype.stores.log.log import event_mapper
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.statements import Fetch
from calotype.stores.log.tables import added

CHUNK_IMAGES = 500
Totals = dict[str, Amounts]
"""What each project has; a project that has nothing is not there."""
Row = tuple[Any, ...]

_LAST_OF_CHUNK = (
    "SELECT DISTINCT originator_id FROM stored_events WHERE originator_id >= :first "
    "ORDER BY originator_id LIMIT 1 OFFSET :others"
)
_EVENTS = (
    "SELECT originator_id, originator_version, topic, state, notification_id FROM stored_events "
    "WHERE originator_id >= :first AND originator_id <= :last AND notification_id <= :until "
    "ORDER BY originator_id, originator_version"
)
_CHANGED = (
    "SELECT DISTINCT originator_id FROM stored_events "
    "WHERE notification_id > :after AND notification_id <= :until"
)
_COUNTERS = f"SELECT {', '.join(column.name for column in USAGE.columns)} FROM {USAGE.name}"
_HEAD = "SELECT max(notification_id) FROM stored_events"
_HIGHEST = 2**128 - 1


def recount(recorder: GroupCommitRecorder) -> None:
    """Makes the counters again from the log, exactly, also while others append."""
    head = recorder.max_notification_id() or 0
    totals = totals_at(recorder, head)
    recorder.refill(USAGE, lambda now: _rows(carried(recorder.fetch_now, totals, head, now)))


def totals_at(
    recorder: GroupCommitRecorder,
    until: int,
    progress: Callable[[int], None] = lambda events: None,
) -> Totals:
    """What every project had at a position; `progress` gets the number of events of each chunk."""
    totals: Totals = {}
    first = 0
    while first <= _HIGHEST:
        values = {"first": UUID(int=first), "others": CHUNK_IMAGES - 1}
        ends = recorder.fetch_now(_LAST_OF_CHUNK, values)
        last = UUID(str(ends[0][0])) if ends else UUID(int=_HIGHEST)
        values = {"first": UUID(int=first), "last": last, "until": until}
        page = recorder.fetch_now(_EVENTS, values)
        for _, image in _images(page, until):
            _change(totals, None, image)
        progress(len(page))
        first = last.int + 1
    return totals


def carried(fetch: Fetch, totals: Totals, after: int, until: int) -> Totals:
    """The totals at `until`, made of those at the earlier position `after`."""
    totals = dict(totals)
    for (image_id,) in fetch(_CHANGED, {"after": after, "until": until}):
        of_one = {"first": image_id, "last": image_id, "until": until}
        for before, image in _images(fetch(_EVENTS, of_one), after):
            _change(totals, before, image)
    return totals


def counters_and_totals(
    recorder: GroupCommitRecorder, progress: Callable[[int], None] = lambda events: None
) -> tuple[list[Row], list[Row]]:
    """The rows that are there and those that the log gives, at one position.

    Rows of zeros are left out.
    """
    head = recorder.max_notification_id() or 0
    totals = totals_at(recorder, head, progress)
    with recorder.snapshot() as fetch:
        there = [row for row in fetch(_COUNTERS) if tuple(row[1:]) != NOTHING]
        now = fetch(_HEAD)[0][0] or 0
        return there, _rows(carried(fetch, totals, head, now))


def _rows(totals: Totals) -> list[Row]:
    return [(project, *amounts) for project, amounts in totals.items() if any(amounts)]


def _images(page: Iterable[Row], until: int) -> Iterator[tuple[Any, Image]]:
    """What each image took up at a position (None: there was no image), and the image now.

    The page holds all events of each image, one image after the other.
    """
    mapper = event_mapper()
    image: Any = None
    before: Any = None
    for originator_id, version, topic, state, position in page:
        if topic not in EVENT_TYPES:
            continue
        if version == Image.INITIAL_VERSION and image is not None:
            yield before, image
            image = before = None
        stored = StoredEvent(UUID(str(originator_id)), version, topic, bytes(state))
        image = mapper.to_domain_event(stored).mutate(image)  # type: ignore[attr-defined]
        if position <= until:
            before = image.usage
    if image is not None:
        yield before, image


def _change(totals: Totals, before: Any, image: Image) -> None:
    for count in counts(before, image.usage):
        totals[count.key] = added(totals.get(count.key), count.amounts)
