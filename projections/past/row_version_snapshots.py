"""Snapshots for the follower that keeps row versions: an image, and since when each row holds.

Like those of aggregates (`calotype.stores.log.snapshots`) they stand outside the log, are written
in the transaction that moves the follower on, and are of no use to other code. Only the last of
each image is kept.
"""

from typing import Any
from uuid import UUID

import orjson

from calotype.commands.images.image import EVENT_TYPES, Image
from calotype.commands.images.snapshots import decode_image, encode_image, fingerprint_of
from calotype.projections.images.rows import all_rows_of, rows_of
from calotype.projections.past.row_versions import SPANS, ImageLife, Span, kept
from calotype.stores.log.recorder import Fetch
from calotype.stores.log.snapshots import SNAPSHOT_EVENTS
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
FINGERPRINT = fingerprint_of(Image, *EVENT_TYPES.values(), ImageLife, rows_of)

_FIND = (
    f"SELECT state FROM {VERSION_SNAPSHOTS.name} "
    "WHERE image_id = :id AND version < :until AND fingerprint = :fingerprint"
)


def find(fetch: Fetch, image_id: UUID, until: int) -> ImageLife | None:
    """The image as its snapshot has it, if there is one of a version before `until`."""
    rows = fetch(_FIND, {"id": image_id, "until": until, "fingerprint": FINGERPRINT})
    if not rows:
        return None
    facts: dict[str, Any] = orjson.loads(rows[0][0])
    life = ImageLife()
    life.image = decode_image(facts["image"])
    life.saved_version = life.image.version
    starts = iter(facts["starts"])
    for table, row in all_rows_of(life.image):
        if table in SPANS:
            spans, key_of = SPANS[table]
            life.open.setdefault(spans, {})[key_of(row)] = Span(kept(spans, row), *next(starts))
    return life


def due(life: ImageLife) -> bool:
    """Whether so many events have come since the last snapshot that it is time for another."""
    return bool(life.image.version // SNAPSHOT_EVENTS > life.saved_version // SNAPSHOT_EVENTS)


def saved(lives: list[ImageLife]) -> Put:
    """The change that writes the snapshots of these images."""
    for life in lives:
        life.saved_version = life.image.version
    rows = [(life.image.id, life.image.version, FINGERPRINT, encode(life)) for life in lives]
    return Put(VERSION_SNAPSHOTS, rows)


def encode(life: ImageLife) -> str:
    """The image, and since when each of its rows holds, as text."""
    starts = []
    for table, row in all_rows_of(life.image):
        if table in SPANS:
            spans, key_of = SPANS[table]
            span = life.open[spans][key_of(row)]
            starts.append((span.start, span.number))
    return orjson.dumps({"image": encode_image(life.image), "starts": starts}).decode()
