"""The projections: every set of tables that is made of the log, and how each is made.

There are two ways to the same rows: event by event, as an append or a follower does it, and image
by image from all its events (`fold_by_stream.py`), as comparing and rebuilding do it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Notification

from calotype.commands.images.events import EVENT_TYPES
from calotype.commands.images.usage import USAGE
from calotype.projections.engine.follower import Fold
from calotype.projections.feed import audience
from calotype.projections.feed.audience import EVENT_AUDIENCE, EventAudience
from calotype.projections.images.rows import rows_of
from calotype.projections.images.tables import TABLES
from calotype.projections.past import row_versions
from calotype.projections.past.latest import LatestImages
from calotype.projections.past.row_version_follower import RowVersionFolder
from calotype.projections.past.row_versions import MOMENTS, VERSION_TABLES, moment_rows
from calotype.projections.rebuild.fold_by_stream import (
    LogEvent,
    Row,
    Rows,
    audience_rows,
    image_rows,
    span_rows,
)
from calotype.projections.rebuild.snapshot_check import OF_IMAGES, OF_VERSIONS, SnapshotTable
from calotype.projections.rebuild.usage import counters_and_totals, recount
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.statements import Fetch
from calotype.stores.log.tables import Change, Table

_REACHED = "SELECT max(notification_id) FROM stored_events"
_TRACKED = "SELECT notification_id FROM tracking WHERE application_name = :name"


@dataclass(frozen=True, slots=True)
class InOrder:
    """A table with a row for each event that tells something of all events before it."""

    table: Table
    rows: Callable[[Iterable[tuple[int, str, bytes]], Any], Iterator[Row]]
    """From events `(position, topic, state)` and the columns of the row before them, but for its
    position. Positions come first in the rows."""
    start: Any
    """What stands for the row before the first one."""


@dataclass(frozen=True, slots=True)
class Sums:
    """A table whose rows are sums over all images: few, and made again in one step."""

    there_and_expected: Callable[
        [GroupCommitRecorder, Callable[[int], None]], tuple[list[Row], list[Row]]
    ]
    """The rows that are there, and those of the log; reports the events of each page."""
    count_again: Callable[[GroupCommitRecorder], None]


@dataclass(frozen=True, slots=True)
class Projection:
    """A set of tables that is made of the log by one fold."""

    name: str
    purpose: str
    """What they are for, in a line."""
    tables: tuple[Table, ...]
    rows: Callable[[Iterable[LogEvent]], Rows]
    """All rows but those `in_order`, given all events of some images, one image after another."""
    follow: Callable[[GroupCommitRecorder, Mapping[Table, Table]], Fold]
    """The fold that makes them event by event. What it looks up in a table of its own, it looks
    up in the one that the mapping gives for it."""
    follower: str | None = None
    """The follower that keeps them; None where they are written with the events."""
    owned_by_position: bool = False
    """Whether rows belong to an image by the position of its event, not by its id."""
    in_order: InOrder | None = None
    snapshots: SnapshotTable | None = None
    """What whoever keeps the rows starts from; a rebuild throws it away."""
    sums: Sums | None = None
    """Set where the rows are sums; the functions above then give nothing."""


class ImageRows:
    """Folds pages of the log into the rows that are written with every append."""

    def __init__(self, recorder: GroupCommitRecorder) -> None:
        self._images = LatestImages(recorder)

    def forget(self) -> None:
        """Drops the images that it remembers."""
        self._images.forget()

    def fold(self, page: Sequence[Notification]) -> list[Change]:
        """The rows that change by these events, the next in the log."""
        latest: dict[tuple[Table, UUID], Change] = {}
        for notification in page:
            if notification.topic in EVENT_TYPES:
                event, image = self._images.after(notification)
                for change in rows_of(image, [event]):
                    latest[change.table, change.owner] = change
        return list(latest.values())


PROJECTIONS = (
    Projection(
        "images",
        "what the API answers from: images, members, tags, properties, places of bytes, and "
        "what can be restored",
        TABLES,
        image_rows,
        lambda recorder, spare: ImageRows(recorder),
        snapshots=OF_IMAGES,
    ),
    Projection(
        "usage",
        "what every project has, for quotas",
        (USAGE,),
        lambda events: iter(()),
        lambda recorder, spare: ImageRows(recorder),
        sums=Sums(counters_and_totals, recount),
    ),
    Projection(
        "versions",
        "every row that there ever was, for history, lists as of a moment, and differences",
        VERSION_TABLES,
        span_rows,
        lambda recorder, spare: RowVersionFolder(recorder, moments=spare.get(MOMENTS, MOMENTS)),
        row_versions.FOLLOWER,
        snapshots=OF_VERSIONS,
        in_order=InOrder(MOMENTS, moment_rows, ("", "")),
    ),
    Projection(
        "audience",
        "which project may know of which event, for the feeds of projects",
        (EVENT_AUDIENCE,),
        audience_rows,
        lambda recorder, spare: EventAudience(recorder),
        audience.FOLLOWER,
        owned_by_position=True,
    ),
)
"""Everything that is made of the log, but for the seal: it is evidence of what the log was, and
made again it would prove nothing. `calotype audit verify` checks it."""


def reached(fetch: Fetch, what: Projection) -> int:
    """The position that the tables have reached."""
    if what.follower is None:
        return fetch(_REACHED)[0][0] or 0
    rows = fetch(_TRACKED, {"name": what.follower})
    return rows[0][0] if rows else 0


def image_column(table: Table) -> str:
    """The column with the id of the image that a row is of."""
    return "id" if any(column.name == "id" for column in table.columns) else "image_id"


def in_the_place_of(changes: Iterable[Change], tables: Mapping[Table, Table]) -> list[Change]:
    """The same changes of other tables."""
    return [_in_the_place_of(change, tables[change.table]) for change in changes]


def _in_the_place_of(change: Change, table: Table) -> Change:
    return replace(change, table=table)
