"""The seal: a Merkle tree over the stored events, kept as tiles, with signed checkpoints.

A follower. What it writes depends on the log alone, and rows and checkpoint change in one
transaction with the fence of its lease, so that a sealer that lost its lease writes nothing.
"""

import asyncio
import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from eventsourcing.persistence import IntegrityError

from calotype.projections.engine.follower import Follower
from calotype.projections.engine.positions import positions_now
from calotype.projections.seal.signed_note import Signer
from calotype.projections.seal.tiles import (
    HEIGHT,
    HIGHEST_LEVEL,
    WIDTH,
    GrowingTiles,
    Tile,
    hashes_in,
    width_at,
)
from calotype.projections.seal.verify_proof import (
    BadNote,
    Checkpoint,
    encoded,
    event_entry,
    leaf_hash,
    open_checkpoint,
)
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.statements import within_bytes
from calotype.stores.log.tables import Column, Index, Replace, Table

NAME = "audit_seal_1"
"""The seal's checkpoint in `tracking`: how many events, from the first, are sealed."""
PAGE_EVENTS = 4096
PAGE_BYTES = 16 << 20
REST_SECONDS = 1.0
"""How long it collects events before it writes the last, partial tiles again."""

_NAMESPACE = UUID("6f1f5a0e-2f0c-5c7e-9a55-0d3b5d8f4a11")

TILES = Table(
    name="audit_tiles_1",
    columns=(
        Column("id", "uuid"),
        Column("level", "integer"),
        Column("number", "integer"),
        Column("hashes", "text"),
    ),
    key=("id",),
    owner="id",
    indexes=(Index("audit_tiles_1_by_place", ("level", "number")),),
)
"""The tiles of the tree; `hashes` in base64. A tile only ever gets longer."""

CHECKPOINTS = Table(
    name="audit_checkpoints_1",
    columns=(
        Column("id", "uuid"),
        Column("size", "integer"),
        Column("note", "text"),
        Column("signed_at", "text"),
    ),
    key=("id",),
    owner="id",
    indexes=(Index("audit_checkpoints_1_by_size", ("size",)),),
)
"""The last signed checkpoint of each hour (UTC) in which something was sealed."""

SEAL_TABLES = (TILES, CHECKPOINTS)


_AFTER = "stored_events WHERE notification_id > :after"
_EVENTS = (
    "SELECT notification_id, CAST(originator_id AS text), originator_version, topic, state "
    f"FROM {_AFTER} AND {within_bytes('notification_id', _AFTER)} "
    "ORDER BY notification_id LIMIT :limit"
)


class LogRow(NamedTuple):
    """A stored event in the order of `event_entry`, much cheaper to read than a Notification."""

    id: int
    originator_id: str
    originator_version: int
    topic: str
    state: bytes


class SealBroken(Exception):
    """The log is not what was sealed; the message names the position."""


def tile_id(tile: Tile) -> UUID:
    """The key of a tile's row."""
    return uuid5(_NAMESPACE, f"tile/{tile.level}/{tile.number}")


def events_after(recorder: GroupCommitRecorder, position: int, limit: int) -> list[LogRow]:
    """The next events in their order, at most `limit`; fewer where they are long."""
    values = {"after": position, "limit": limit, "bytes": PAGE_BYTES}
    rows = recorder.fetch_now(_EVENTS, values)
    return list(map(LogRow._make, rows))


def event_leaf(event: LogRow) -> bytes:
    """The leaf of a stored event."""
    return leaf_hash(event_entry(*event))


def checkpoint_row(signer: Signer, size: int, root: bytes) -> Replace:
    """A signed checkpoint, in the place of this hour's last one."""
    now = datetime.now(UTC)
    row_id = uuid5(_NAMESPACE, f"checkpoint/{now:%Y-%m-%dT%H}")
    note = signer.sign(Checkpoint(signer.name, size, root).text)
    return Replace(CHECKPOINTS, row_id, [(row_id, size, note, now.isoformat())])


class SealFold:
    """Makes tiles, and with a signer checkpoints, of the events in their order."""

    def __init__(self, recorder: GroupCommitRecorder, signer: Signer | None) -> None:
        self._recorder = recorder
        self._signer = signer
        self._tree: GrowingTiles | None = None

    def fold(self, page: Sequence[Any]) -> list[Replace]:
        """The tiles that these events change. Raises SealBroken where the log has a gap."""
        tree = self._tree
        if tree is None:
            tree = self._tree = stored_tree(self._recorder)
            if tree.size >= page[0].id:
                raise IntegrityError("another process has sealed these events already")
        for event in page:
            if event.id != tree.size + 1:
                missing = positions_now(self._recorder).encode(tree.size + 1)
                raise SealBroken(f"event {missing} is missing from the event log")
            tree.append(event_leaf(event))
        changes = [
            Replace(TILES, key, [(key, *tile, encoded(data))])
            for tile, data in tree.take_changed()
            for key in [tile_id(tile)]
        ]
        if self._signer is not None:
            changes.append(checkpoint_row(self._signer, tree.size, tree.root()))
        return changes

    def forget(self) -> None:
        """Drops the tree; it is taken up again from the stored tiles."""
        self._tree = None


def sealed_size(recorder: GroupCommitRecorder) -> int:
    """How many events are sealed."""
    return recorder.max_tracking_id(NAME) or 0


def stored_tree(recorder: GroupCommitRecorder) -> GrowingTiles:
    """The tree as it was sealed last.

    Raises SealBroken where a tile is missing, or where the log's last sealed event is another
    one now, as after the database was set back and went on.
    """
    size = sealed_size(recorder)
    edges: list[list[bytes]] = []
    for level in range(HIGHEST_LEVEL):
        tile = Tile(level, size >> HEIGHT * (level + 1))
        edges.append(_stored_hashes(recorder, tile, size))
    if size:
        _check_last(recorder, size)
    return GrowingTiles(size, edges)


def _stored_hashes(recorder: GroupCommitRecorder, tile: Tile, size: int) -> list[bytes]:
    width = width_at(tile, size)
    if not width:
        return []
    rows = recorder.fetch_now(
        "SELECT hashes FROM audit_tiles_1 WHERE id = :id", {"id": tile_id(tile)}
    )
    try:
        hashes = hashes_in(base64.b64decode(rows[0][0], validate=True)) if rows else []
    except (TypeError, ValueError):
        hashes = []
    if len(hashes) < width:
        raise SealBroken(f"the tile {tile.level}/{tile.number} of the seal is missing or too short")
    return hashes[:width]  # Another process may have made it longer since.


def _check_last(recorder: GroupCommitRecorder, size: int) -> None:
    last = events_after(recorder, size - 1, 1)
    leaves = _stored_hashes(recorder, Tile(0, (size - 1) // WIDTH), size)
    if not last or event_leaf(last[0]) != leaves[-1]:
        last_sealed = positions_now(recorder).encode(size)
        raise SealBroken(f"event {last_sealed} is not the one that was sealed")


def sealer(
    recorder: GroupCommitRecorder, signer: Signer | None, holder: str, *, rest: float = REST_SECONDS
) -> Follower:
    """The follower that seals; `rest` is the least time in seconds between two checkpoints."""
    return Follower(
        recorder,
        NAME,
        SealFold(recorder, signer),
        holder=holder,
        wait=lambda position: asyncio.sleep(rest),
        page_events=PAGE_EVENTS,
        read=partial(events_after, recorder),
        rest_seconds=rest,
    )


def standing_checkpoint(recorder: GroupCommitRecorder, signer: Signer) -> Replace | None:
    """The checkpoint that is due although nothing new happened: this key has signed none yet.

    None where the newest checkpoint is this key's, or where nothing is sealed.
    """
    size = sealed_size(recorder)
    newest = recorder.fetch_now(
        "SELECT note FROM audit_checkpoints_1 WHERE size >= :size", {"size": size}
    )
    if not size or any(_signed_by(signer, note) for (note,) in newest):
        return None
    tree = stored_tree(recorder)
    return checkpoint_row(signer, tree.size, tree.root())


def _signed_by(signer: Signer, note: str) -> bool:
    try:
        open_checkpoint(note, [signer.verifier])
    except BadNote:
        return False
    return True
