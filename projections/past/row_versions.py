"""The rows of the query tables with the positions between which each held.

Every row that the images projection ever wrote is kept here as a version: its columns, the position
of the event that made it, and that of the event that ended it. A list as of a moment is then one
indexed query. The rows come from the same pure function that writes the live tables, so then and
now cannot mean different things.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import orjson
from eventsourcing.persistence import Notification, StoredEvent

from calotype.commands.images.events import Created, api_time, clock_text
from calotype.projections.images.listing import ListTables
from calotype.projections.images.rows import rows_of
from calotype.projections.images.tables import IMAGES, MEMBERS, PROPERTIES, TAGS
from calotype.stores.log.tables import Change, Column, Index, Put, Table, key_getter

FOLLOWER = "image_versions_2"
"""The name of the checkpoint of the follower that keeps these tables."""
FOREVER = 2**62
"""The end of a version that still holds."""
OPEN_BLOCK = -1

# In the index, so that rows which did not hold at the moment are passed over without a look.
_AGE, _HELD = ("created_at", "id"), ("from_position", "to_position")
_LEVEL_BITS, _STEP_BITS, _NUMBER_BITS = 56, 4, 16


# The live tables have more columns, which say who lists a row; here the image's versions say it.
_MEMBER_COLUMNS, _TAG_COLUMNS, _PROPERTY_COLUMNS = 5, 3, 5
_OWN_COLUMNS = 4
"""Columns that a table of versions has besides those of the live table."""


def _versions_of(
    table: Table, name: str, *indexes: tuple[str, ...], where: str = "", width: int | None = None
) -> Table:
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
            Column("span", "integer"),
            *table.columns[:width],
            Column("from_position", "integer"),
            Column("to_position", "integer"),
            Column("block", "integer"),
        ),
        key=("span",),
        owner="span",
        indexes=tuple(made),
        grows=("to_position", "block"),
    )


IMAGE_VERSIONS = _versions_of(
    IMAGES,
    "image_versions_2",
    ("id", "from_position"),
    ("block", *_AGE, *_HELD),
    ("block", "owner", *_AGE, *_HELD),
    ("block", "coalesce(name, '')", *_AGE, *_HELD),
    where="visibility",
)
MEMBER_VERSIONS = _versions_of(
    MEMBERS,
    "image_member_versions_2",
    ("member", "status", "image_id"),
    ("image_id", "member"),
    width=_MEMBER_COLUMNS,
)
TAG_VERSIONS = _versions_of(
    TAGS,
    "image_tag_versions_2",
    ("tag", "block", "created_at", "image_id"),
    ("image_id", "tag"),
    width=_TAG_COLUMNS,
)
PROPERTY_VERSIONS = _versions_of(
    PROPERTIES,
    "image_property_versions_2",
    ("name", "value_start", "block", "created_at", "image_id"),
    ("image_id", "name"),
    width=_PROPERTY_COLUMNS,
)
MOMENTS = Table(
    name="log_moments_2",
    columns=(
        Column("position", "integer"),
        Column("clock", "text"),
        Column("newest_created_at", "text"),
    ),
    key=("position",),
    owner="position",
    indexes=(Index("log_moments_2_by_clock", ("clock", "position")),),
)
"""One row per event: the latest time of any event, and the latest birth of any image, up to it.

Clocks of machines differ, positions do not: `clock` never runs backwards along the log, and no
image that existed at a position has a later `created_at` than `newest_created_at`."""

VERSION_TABLES = (IMAGE_VERSIONS, MEMBER_VERSIONS, TAG_VERSIONS, PROPERTY_VERSIONS, MOMENTS)
LIST_TABLES = ListTables(
    IMAGE_VERSIONS.name, MEMBER_VERSIONS.name, TAG_VERSIONS.name, PROPERTY_VERSIONS.name
)
"""What a list as of a moment reads."""
VERSIONS = {
    live: (versions, key_getter(live))
    for live, versions in (
        (IMAGES, IMAGE_VERSIONS),
        (MEMBERS, MEMBER_VERSIONS),
        (TAGS, TAG_VERSIONS),
        (PROPERTIES, PROPERTY_VERSIONS),
    )
}


def kept(versions: Table, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a row of a live table is in its table of versions, which may have fewer columns."""
    return row[: len(versions.columns) - _OWN_COLUMNS]


def block_of(start: int, end: int) -> int:
    """The smallest aligned block of 16^n positions that holds the version `start` to `end` - 1.

    A query for one moment reads only the few blocks around it, and none of the millions of versions
    that ended before or began after. Open versions have a block of their own.
    """
    if end == FOREVER:
        return OPEN_BLOCK
    level = 0
    while start >> _STEP_BITS * level != (end - 1) >> _STEP_BITS * level:
        level += 1
    return level << _LEVEL_BITS | start >> _STEP_BITS * level


def blocks_at(position: int, last_position: int) -> list[int]:
    """The blocks in which every version that holds at `position` is found."""
    blocks, level = [OPEN_BLOCK], 0
    while True:
        blocks.append(level << _LEVEL_BITS | position >> _STEP_BITS * level)
        if last_position >> _STEP_BITS * level == 0:
            return blocks
        level += 1


def stored_of(notification: Notification) -> StoredEvent:
    """The stored event in a notification."""
    return StoredEvent(
        notification.originator_id,
        notification.originator_version,
        notification.topic,
        bytes(notification.state),
    )


class RowVersion:
    """One row of a live table, from the position that made it to the one that ended it."""

    __slots__ = ("end", "noted", "number", "row", "start")

    def __init__(self, row: tuple[Any, ...], start: int, number: int) -> None:
        self.row = row
        self.start = start
        self.end = FOREVER
        self.number = number
        """Which of the versions that this event began; part of the key."""
        self.noted = False

    def columns(self) -> tuple[Any, ...]:
        """The row of the table of versions."""
        key = self.start << _NUMBER_BITS | self.number
        return (key, *self.row, self.start, self.end, block_of(self.start, self.end))


Noted = dict[Table, list[RowVersion]]
"""Versions that began or ended, by their table; each once."""


class ImageTimeline:
    """One image while its events are folded: its state, and which rows hold since when."""

    __slots__ = ("image", "open", "saved_version")

    def __init__(self) -> None:
        self.image: Any = None
        self.open: dict[Table, dict[Any, RowVersion]] = {}
        """The rows that hold, by their table of versions and their key."""
        self.saved_version = 0
        """The version of the last snapshot; 0: there is none."""

    def apply(self, event: Any, position: int, noted: Noted) -> None:
        """Applies the image's next event; adds the versions that it begins and ends to `noted`."""
        self.image = event.mutate(self.image)
        number = 0
        for change in rows_of(self.image, [event]):
            if change.table not in VERSIONS:
                continue
            table, key_of = VERSIONS[change.table]
            versions = noted.setdefault(table, [])
            held = self.open.setdefault(table, {})
            rows = {key_of(row): kept(table, row) for row in change.rows}
            for key, version in list(held.items()):
                if rows.get(key) == version.row:
                    del rows[key]
                    continue
                version.end = position
                del held[key]
                if not version.noted:
                    version.noted = True
                    versions.append(version)
            for key, row in rows.items():
                version = held[key] = RowVersion(row, position, number)
                version.noted = True
                versions.append(version)
                number += 1

    def about_bytes(self) -> int:
        """What it takes in memory, about: the image twice as a document, and a row of each part."""
        documents = sum(
            len(version.row[1]) for version in self.open.get(IMAGE_VERSIONS, {}).values()
        )
        return 3 * documents + 512 * sum(map(len, self.open.values()))

    def open_rows(self) -> Iterator[tuple[Table, tuple[Any, ...]]]:
        """The rows of the versions that still hold, each with its table of versions."""
        for table, held in self.open.items():
            for version in held.values():
                yield table, version.columns()


def finished(noted: Noted) -> Iterator[tuple[Table, tuple[Any, ...]]]:
    """The rows of the noted versions that have ended, which may be noted again from now on."""
    for table, versions in noted.items():
        for version in versions:
            version.noted = False
            if version.end != FOREVER:
                yield table, version.columns()
        versions.clear()


def written(noted: Noted) -> list[Change]:
    """The rows of the noted versions, which may be noted again from now on."""
    changes: list[Change] = []
    for table, versions in noted.items():
        if versions:
            changes.append(Put(table, [version.columns() for version in versions]))
        for version in versions:
            version.noted = False
    noted.clear()
    return changes


def moment_after(before: tuple[str, str], topic: str, timestamp: datetime) -> tuple[str, str]:
    """`clock` and `newest_created_at` of MOMENTS after an event, given those of the one before."""
    born = api_time(timestamp) if topic == Created.TOPIC else ""
    return max(before[0], clock_text(timestamp)), max(before[1], born)


def moment_rows(
    events: Iterable[tuple[int, str, bytes]], before: tuple[str, str] = ("", "")
) -> Iterator[tuple[int, str, str]]:
    """The rows of MOMENTS for events `(position, topic, state)` in the order of the log.

    `before` are the columns `clock` and `newest_created_at` of the event before them.
    """
    for position, topic, state in events:
        before = moment_after(before, topic, timestamp_in(state))
        yield (position, *before)


def timestamp_in(state: bytes) -> datetime:
    """The time of a stored event of any type."""
    return datetime.fromisoformat(orjson.loads(bytes(state))["timestamp"])
