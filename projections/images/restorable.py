"""Deleted images that can be restored: their rows and queries.

A row is there from the deletion until the image is restored or purged, written in the transaction
that appends the event. Callers compare the end of the window with their clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from calotype.commands.images.image import Image
from calotype.projections.images.tables import RESTORABLE
from calotype.stores.log.recorder import GroupCommitRecorder

_RETAINED = "retained"
_OVER = (
    f"SELECT id FROM {RESTORABLE.name} WHERE retained_until <= :now "
    "ORDER BY retained_until, id LIMIT :limit"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which restorable images; None leaves a condition out. Times are `clock_text`."""

    now: str
    """What has a later end of its window than this can be restored."""
    owner: str | None = None
    deleted_by: str | None = None
    deleted_after: str | None = None
    """At this time or later."""
    deleted_before: str | None = None
    """Before this time."""


@dataclass(frozen=True, slots=True)
class Row:
    """One restorable image."""

    id: UUID
    deleted_at: str
    retained_until: str
    document: bytes
    """What the API lists of it: one JSON object."""


def restorable_rows(image: Image) -> list[tuple[Any, ...]]:
    """The image's row, or none."""
    deletion = image.deletion
    if deletion is None or deletion.retained_until is None or deletion.purged_at is not None:
        return []
    kept = sum(blob.state == _RETAINED for blob in image.blobs.values())
    held_bytes = kept * (image.size or 0)
    deleted_by = deletion.actor["user"]
    document = {
        "id": image.image_id,
        "name": image.fields["name"],
        "owner": image.owner,
        "visibility": image.visibility,
        "status": deletion.restores_to,
        "size": image.size,
        "held_bytes": held_bytes,
        "deleted_at": deletion.deleted_at,
        "deleted_by": {"user": deleted_by, "project": deletion.actor["project"]},
        "retained_until": deletion.retained_until,
    }
    return [
        (
            image.id,
            image.owner,
            deleted_by,
            deletion.deleted_at,
            deletion.retained_until,
            held_bytes,
            orjson.dumps(document).decode(),
        )
    ]


async def restorable_page(
    recorder: GroupCommitRecorder, wanted: Wanted, after: tuple[str, UUID] | None, limit: int
) -> list[Row]:
    """The next of them, the latest deletion first; `after` is `(deleted_at, id)` of the last."""
    where, values = _conditions(wanted)
    if after is not None:
        where += " AND (deleted_at, id) < (:age, :id)"
        values |= {"age": after[0], "id": after[1]}
    sql = (
        f"SELECT id, deleted_at, retained_until, document FROM {RESTORABLE.name} WHERE {where} "
        "ORDER BY deleted_at DESC, id DESC LIMIT :limit"
    )
    rows = await recorder.fetch(sql, {**values, "limit": limit}, heavy=True)
    return [Row(UUID(str(row[0])), row[1], row[2], row[3].encode()) for row in rows]


async def restorable_total(recorder: GroupCommitRecorder, wanted: Wanted) -> tuple[int, int]:
    """How many there are, and how many bytes they hold in the stores."""
    where, values = _conditions(wanted)
    sql = f"SELECT count(*), coalesce(sum(held_bytes), 0) FROM {RESTORABLE.name} WHERE {where}"
    rows = await recorder.fetch(sql, values, heavy=True)
    return rows[0][0], int(rows[0][1])


async def retention_over(recorder: GroupCommitRecorder, now: str, limit: int) -> Sequence[UUID]:
    """The images whose window is over, the longest first."""
    rows = await recorder.fetch(_OVER, {"now": now, "limit": limit}, heavy=True)
    return [UUID(str(row[0])) for row in rows]


def _conditions(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    conditions = ["retained_until > :now"]
    values: dict[str, Any] = {"now": wanted.now}
    for name, condition in (
        ("owner", "owner = :owner"),
        ("deleted_by", "deleted_by = :deleted_by"),
        ("deleted_after", "deleted_at >= :deleted_after"),
        ("deleted_before", "deleted_at < :deleted_before"),
    ):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(condition)
            values[name] = value
    return " AND ".join(conditions), values
