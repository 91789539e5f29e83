"""What every project has by the log: to fill the counters, and to verify them.

Appends keep the counters by adding. Here they are computed in another way: as the sum over all
images of what each takes up. Events do not change, so the sum at a position may take long, and is
then brought to a later position by those images alone that changed in between.
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from calotype.commands.images.image import Image
from calotype.commands.images.usage import NOTHING, USAGE, Amounts, counts
from calotype.projections.rebuild.fold_by_stream import (
    HIGHEST,
    LOWEST,
    Row,
    counted,
    events_by_stream,
    folded_images,
)
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.statements import Fetch
from calotype.stores.log.tables import added

Totals = dict[str, Amounts]
"""What each project has; a project that has nothing is not there."""

_CHANGED = (
    "SELECT DISTINCT originator_id FROM stored_events "
    "WHERE notification_id > :after AND notification_id <= :until"
)
_COUNTERS = f"SELECT {', '.join(column.name for column in USAGE.columns)} FROM {USAGE.name}"
_HEAD = "SELECT max(notification_id) FROM stored_events"


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
    """What every project had at a position; `progress` gets the number of events of each page."""
    totals: Totals = {}
    events = counted(events_by_stream(recorder.fetch_now, LOWEST, HIGHEST, until), progress)
    for _, image in folded_images(events):
        _change(totals, None, image)
    return totals


def carried(fetch: Fetch, totals: Totals, after: int, until: int) -> Totals:
    """The totals at `until`, made of those at the earlier position `after`."""
    totals = dict(totals)
    for (image_id,) in fetch(_CHANGED, {"after": after, "until": until}):
        stream = UUID(str(image_id))
        events = events_by_stream(fetch, stream, stream, until)
        for before, image in folded_images(events, after):
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


def _change(totals: Totals, before: Any, image: Image) -> None:
    for count in counts(before, image.usage):
        totals[count.key] = added(totals.get(count.key), count.amounts)
