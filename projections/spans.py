"""The rows of the query tables with the positions between which each held.

Every row that the images projection ever wrote lives on here as a span: its columns, the position
of the event that made it, and that of the event that ended it. A moment of the past is then one
indexed query. The rows come from the same pure function that writes the live tables, so then and
now cannot mean different things.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

import orjson
from eventsourcing.persistence import Notification, StoredEvent

from calotype.commands.image import EVENT_TYPES, Image
from calotype.projections.images import rows_of
from calotype.projections.tables import IMAGES, MEMBERS, PROPERTIES, TAGS
from calotype.stores.log.log import event_mapper
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Column, Index, Replace, Table

FOLLOWER = "image_versions_1"
"""The name of the checkpoint of the follower that keeps these tables."""
FOREVER = 2**62
"""The end of a span that still holds."""
OPEN_BLOCK = -1
CACHED_IMAGES = 4096

# In the index, so that rows which did not hold at the moment are passed over without a look.
_AGE, _HELD = ("created_at", "id"), ("from_position", "to_position")
_LEVEL_BITS, _STEP_BITS = 56, 4
_OF_IMAGE = (
    "SELECT originator_version, topic, state, notification_id FROM stored_events "
    "WHERE originator_id = :id AND notification_id < :before ORDER BY originator_version"
)


def _spans_of(table: Table, name: str, *indexes: tuple[str, ...], where: str = "") -> Table:
    made = [Index(f"{name}_{n}", columns) for n, columns in enumerate(indexes)]
    if where:
        # Last, because of indexes that look equally good SQLite takes the one made last.
        made += [
            Index(f"{name}_{kind}", ("block", "created_at", "id"), f"visibility = '{kind}'")
            for kind in ("public", "community")
        ]
    return Table(
        name=name,
        columns=(
            Column("span", "uuid"),
            *table.columns,
            Column("from_position", "integer"),
            Column("to_position", "integer"),
            Column("block", "integer"),
        ),
        key=("span",),
        owner="span",
        indexes=tuple(made),
    )


IMAGE_SPANS = _spans_of(
    IMAGES,
    "image_versions_1",
    ("id", "from_position"),
    ("block", *_AGE, *_HELD),
    ("block", "owner", *_AGE, *_HELD),
    ("block", "coalesce(name, '')", *_AGE, *_HELD),
    where="visibility",
)
MEMBER_SPANS = _spans_of(
    MEMBERS, "image_member_versions_1", ("member", "status", "image_id"), ("image_id", "member")
)
TAG_SPANS = _spans_of(
    TAGS, "image_tag_versions_1", ("tag", "block", "created_at", "image_id"), ("image_id", "tag")
)
PROPERTY_SPANS = _spans_of(
    PROPERTIES,
    "image_property_versions_1",
    ("name", "value_start", "block", "created_at", "image_id"),
    ("image_id", "name"),
)
MOMENTS = Table(
    name="log_moments_1",
    columns=(
        Column("id", "uuid"),
        Column("position", "integer"),
        Column("clock", "text"),
        Column("newest_created_at", "text"),
    ),
    key=("id",),
    owner="id",
    indexes=(
        Index("log_moments_1_by_position", ("position",)),
        Index("log_moments_1_by_clock", ("clock", "position")),
    ),
)
"""One row per event: the latest time of any event, and the latest birth of any image, up to it.

Clocks of machines differ, positions do not: `clock` never runs backwards along the log, and no
image that existed at a position has a later `created_at` than `newest_created_at`."""

SPAN_TABLES = (IMAGE_SPANS, MEMBER_SPANS, TAG_SPANS, PROPERTY_SPANS, MOMENTS)
_SPANS = {IMAGES: IMAGE_SPANS, MEMBERS: MEMBER_SPANS, TAGS: TAG_SPANS, PROPERTIES: PROPERTY_SPANS}
_LAST_MOMENT = (
    f"SELECT clock, newest_created_at FROM {MOMENTS.name} "
    "WHERE position < :before ORDER BY position DESC LIMIT 1"
)


def block_of(start: int, end: int) -> int:
    """The smallest aligned block of 16^n positions that holds the span `start` to `end` - 1.

    So whoever asks for one moment looks only into the few blocks around it, and millions of
    spans that were over before, or began after, are never touched. Open spans have their own.
    """
    if end == FOREVER:
        return OPEN_BLOCK
    level = 0
    while start >> _STEP_BITS * level != (end - 1) >> _STEP_BITS * level:
        level += 1
    return level << _LEVEL_BITS | start >> _STEP_BITS * level


def blocks_at(position: int, last_position: int) -> list[int]:
    """The blocks in which every span that holds at `position` is found."""
    blocks, level = [OPEN_BLOCK], 0
    while True:
        blocks.append(level << _LEVEL_BITS | position >> _STEP_BITS * level)
        if last_position >> _STEP_BITS * level == 0:
            return blocks
        level += 1


def clock_text(moment: datetime) -> str:
    """A moment in UTC with microseconds, so that text sorts as time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").zfill(27)


def stored_of(notification: Notification) -> StoredEvent:
    """The stored event in a notification."""
    return StoredEvent(
        notification.originator_id,
        notification.originator_version,
        notification.topic,
        bytes(notification.state),
    )


@dataclass(slots=True)
class _Life:
    """One image while it is folded: its state, and which rows hold since when."""

    image: Any = None
    open: dict[Table, dict[tuple[Any, ...], tuple[int, tuple[Any, ...]]]] = field(
        default_factory=dict
    )

    def apply(self, event: Any, position: int) -> Iterator[Replace]:
        """Applies the event at `position`; gives the spans that it ends and begins."""
        self.image = event.mutate(self.image)
        for change in rows_of(self.image, [event]):
            if change.table in _SPANS:
                yield from self._turn(change, position)

    def _turn(self, change: Replace, position: int) -> Iterator[Replace]:
        names = [column.name for column in change.table.columns]
        at = [names.index(name) for name in change.table.key]
        after = {tuple(row[n] for n in at): row for row in change.rows}
        held = self.open.setdefault(change.table, {})
        for key, (start, row) in list(held.items()):
            if after.get(key) != row:
                del held[key]
                yield _span(change.table, key, row, start, position)
        for key, row in after.items():
            if key not in held:
                held[key] = (position, row)
                yield _span(change.table, key, row, position, FOREVER)


def _span(
    table: Table, key: tuple[Any, ...], row: tuple[Any, ...], start: int, end: int
) -> Replace:
    digest = blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest()
    # The position leads, so that new spans go to the end of the index.
    span = UUID(int=start << 64 | int.from_bytes(digest, "big"))
    return Replace(_SPANS[table], span, [(span, *row, start, end, block_of(start, end))])


class ImageSpans:
    """Folds pages of the log into spans, for a `Follower`. Works in any thread, one at a time."""

    def __init__(self, recorder: GroupCommitRecorder, cached_images: int = CACHED_IMAGES) -> None:
        self._recorder = recorder
        self._cached_images = cached_images
        self._mapper = event_mapper()
        self._lives: OrderedDict[UUID, _Life] = OrderedDict()
        self._moment: tuple[str, str] | None = None

    def forget(self) -> None:
        """Drops the images that it remembers."""
        self._lives.clear()
        self._moment = None

    def fold(self, page: Sequence[Notification]) -> list[Replace]:
        """The spans and moments that these events, the next in the log, make or end."""
        changes: dict[tuple[Table, UUID], Replace] = {}
        for notification in page:
            for change in self._changes_of(notification):
                changes[change.table, change.owner] = change
        while len(self._lives) > self._cached_images:
            self._lives.popitem(last=False)
        return list(changes.values())

    def _changes_of(self, notification: Notification) -> Iterator[Replace]:
        created_at = ""
        if notification.topic in EVENT_TYPES:
            life = self._life(notification)
            event: Any = self._mapper.to_domain_event(stored_of(notification))
            yield from life.apply(event, notification.id)
            moment = event.timestamp
            if isinstance(event, Image.Created):
                created_at = life.image.created_at
        else:
            moment = datetime.fromisoformat(orjson.loads(notification.state)["timestamp"])
        clock, newest = self._moment or self._moment_before(notification.id)
        self._moment = max(clock, clock_text(moment)), max(newest, created_at)
        owner = UUID(int=notification.id)
        yield Replace(MOMENTS, owner, [(owner, notification.id, *self._moment)])

    def _moment_before(self, position: int) -> tuple[str, str]:
        rows = self._recorder.fetch_now(_LAST_MOMENT, {"before": position})
        return (rows[0][0], rows[0][1]) if rows else ("", "")

    def _life(self, notification: Notification) -> _Life:
        image_id = notification.originator_id
        assert isinstance(image_id, UUID)
        life = self._lives.get(image_id)
        if life is None:
            life = self._lives[image_id] = _Life()
            if notification.originator_version > Image.INITIAL_VERSION:
                self._load(life, image_id, notification.id)
        self._lives.move_to_end(image_id)
        return life

    def _load(self, life: _Life, image_id: UUID, before: int) -> None:
        rows = self._recorder.fetch_now(_OF_IMAGE, {"id": image_id, "before": before})
        for version, topic, state, position in rows:
            stored = StoredEvent(image_id, version, topic, bytes(state))
            for _ in life.apply(self._mapper.to_domain_event(stored), position):
                pass  # These spans are in the tables already.
