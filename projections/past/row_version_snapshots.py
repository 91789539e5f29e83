"""Snapshots for the follower that keeps row versions: an image, and since when each row holds.

Like those of aggregates (`calotype.stores.log.snapshots`) they are outside the log, are written in
the transaction that moves the follower's checkpoint, and are invalid after a change of the code.
Only the last of each image is kept.
"""

from typing import Any
from uuid import UUID

import orjson

from calotype.commands.images.events import EVENT_TYPES
from calotype.commands.images.image import Image
from calotype.commands.images.snapshots import decode_image, encode_image, fingerprint_of
from calotype.projections.images.rows import all_rows_of, rows_of
from calotype.projections.past.row_versions import VERSIONS, ImageTimeline, RowVersion, kept
from calotype.stores.log.snapshots import SNAPSHOT_EVENTS
from calotype.stores.log.statements import Fetch
from calotype.stores.log.tables import Column, Put, Table

VERSION_SNAPSHOTS = Table(
    name="image_version_snapshots_1",
    columns=(
        Column("image_id", "uuid"),
        Column("version", "integer"),
        Column("fingerprint", "text"),
        Column("state", "text"),
    ),
    key=("image_id",),
    owner="image_id",
    grows=("version", "fingerprint", "state"),
)
FINGERPRINT = fingerprint_of(Image, *EVENT_TYPES.values(), ImageTimeline, rows_of)

_FIND = (
    f"SELECT state FROM {VERSION_SNAPSHOTS.name} "
    "WHERE image_id = :id AND version < :until AND fingerprint = :fingerprint"
)


def find(fetch: Fetch, image_id: UUID, until: int) -> ImageTimeline | None:
    """The image as its snapshot has it, if there is one of a version before `until`."""
    rows = fetch(_FIND, {"id": image_id, "until": until, "fingerprint": FINGERPRINT})
    if not rows:
        return None
    facts: dict[str, Any] = orjson.loads(rows[0][0])
    timeline = ImageTimeline()
    timeline.image = decode_image(facts["image"])
    timeline.saved_version = timeline.image.version
    starts = iter(facts["starts"])
    for table, row in all_rows_of(timeline.image):
        if table in VERSIONS:
            versions, key_of = VERSIONS[table]
            timeline.open.setdefault(versions, {})[key_of(row)] = RowVersion(
                kept(versions, row), *next(starts)
            )
    return timeline


def due(timeline: ImageTimeline) -> bool:
    """Whether so many events have come since the last snapshot that it is time for another."""
    return bool(
        timeline.image.version // SNAPSHOT_EVENTS > timeline.saved_version // SNAPSHOT_EVENTS
    )


def saved(timelines: list[ImageTimeline]) -> Put:
    """The change that writes the snapshots of these images."""
    for timeline in timelines:
        timeline.saved_version = timeline.image.version
    rows = [
        (timeline.image.id, timeline.image.version, FINGERPRINT, encode(timeline))
        for timeline in timelines
    ]
    return Put(VERSION_SNAPSHOTS, rows)


def encode(timeline: ImageTimeline) -> str:
    """The image, and since when each of its rows holds, as text."""
    starts = []
    for table, row in all_rows_of(timeline.image):
        if table in VERSIONS:
            versions, key_of = VERSIONS[table]
            version = timeline.open[versions][key_of(row)]
            starts.append((version.start, version.number))
    return orjson.dumps({"image": encode_image(timeline.image), "starts": starts}).decode()
