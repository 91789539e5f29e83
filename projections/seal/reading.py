"""Reading the seal: checkpoints, tiles, entry bundles, proofs, and what proves one event."""

import base64
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from calotype.commands.errors import NotFound
from calotype.projections.engine.follower import reached
from calotype.projections.engine.positions import positions_of
from calotype.projections.seal.merkle import (
    consistency_ranges,
    inclusion_ranges,
    subtree_hash,
)
from calotype.projections.seal.seal import NAME, LogRow, SealBroken, tile_id
from calotype.projections.seal.tiles import WIDTH, Tile, hash_from, tiles_of
from calotype.projections.seal.verify_proof import HASH_BYTES, encoded, event_entry, read_checkpoint
from calotype.stores.log.recorder import GroupCommitRecorder

EVENT_PROOF = "calotype-event-proof-1"
CONSISTENCY_PROOF = "calotype-consistency-proof-1"
SCRIPT = Path(__file__).with_name("verify_proof.py")
"""The script for auditors that checks both forms of proof and needs nothing else of ours."""

_EVENTS = (
    "SELECT notification_id, CAST(originator_id AS text), originator_version, topic, state "
    "FROM stored_events WHERE notification_id > :after AND notification_id <= :last "
    "ORDER BY notification_id"
)


class NotSealed(NotFound):
    """What was asked for is not sealed (yet), or not signed; the message says which."""


class NotCovered(NotSealed):
    """The position lies behind what the checkpoint covers, or before all events."""


class Sealed:
    """Answers from the tables that the sealer keeps."""

    def __init__(self, recorder: GroupCommitRecorder) -> None:
        self._recorder = recorder

    async def size(self) -> int:
        """How many events, from the first, are sealed."""
        return await reached(self._recorder, NAME)

    async def checkpoint(self) -> str:
        """The newest signed checkpoint. Raises NotSealed."""
        rows = await self._recorder.fetch(
            "SELECT note FROM audit_checkpoints_1 ORDER BY size DESC, signed_at DESC LIMIT 1"
        )
        if not rows:
            raise NotSealed("No checkpoint is signed yet; `calotype audit key` makes a key.")
        note: str = rows[0][0]
        return note

    async def tile(self, tile: Tile, width: int) -> bytes:
        """The first `width` hashes of a tile, 32 bytes each. Raises NotSealed."""
        data = (await self._tiles([tile])).get(tile, b"")
        if len(data) < width * HASH_BYTES:
            raise NotSealed("The tree has no such tile, or not yet so much of it.")
        return data[: width * HASH_BYTES]

    async def bundle(self, index: int, width: int) -> bytes:
        """The entries of a tile of level 0, each after its length (2 bytes). Raises NotSealed."""
        first = index * WIDTH
        if first + width > await self.size():
            raise NotSealed("The tree has no such entries, or not yet so many.")
        rows = await self._recorder.fetch(_EVENTS, {"after": first, "last": first + width})
        if len(rows) != width:
            raise SealBroken("events of this tile are missing from the log")
        entries = (event_entry(*LogRow._make(row)) for row in rows)
        return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)

    async def root(self, size: int) -> bytes:
        """The root of the tree of the first `size` events. Raises NotSealed."""
        return (await self._hashes([(0, size)], size))[0]

    async def proof_of_event(self, position: int, size: int | None = None) -> dict[str, Any]:
        """All that is needed to check one event offline. Raises NotSealed or NotCovered.

        It is about the newest checkpoint, or one of `size` events that the auditor has kept. The
        event is as the log holds it now, the proof is made from the sealed tree: they fit only if
        the event is the one that was sealed.
        """
        positions = await positions_of(self._recorder)
        if size is None:
            note: str | None = await self.checkpoint()
            size = read_checkpoint(str(note).partition("\n\n")[0] + "\n").size
        else:
            note = await self._checkpoint_of(size)
        if not 0 < position <= size:
            newest = positions.encode(size)
            raise NotCovered(f"The checkpoint covers the events up to {newest} only.")
        rows = await self._recorder.fetch(_EVENTS, {"after": position - 1, "last": position})
        if not rows:
            missing = positions.encode(position)
            raise SealBroken(f"event {missing} is missing from the event log")
        _, originator_id, version, topic, state = rows[0]
        path = await self._hashes(inclusion_ranges(position - 1, size), size)
        return {
            "format": EVENT_PROOF,
            "position": positions.encode(position),
            "event": {
                "position": position,
                "originator_id": str(originator_id),
                "originator_version": version,
                "topic": topic,
                "state": encoded(bytes(state)),
            },
            "leaf_index": position - 1,
            "tree_size": size,
            "inclusion": list(map(encoded, path)),
            "checkpoint": note,
        }

    async def proof_of_growth(self, first: int, second: int) -> dict[str, Any]:
        """What proves that the tree of `first` leaves grew into that of `second`.

        Raises ValueError, NotSealed.
        """
        path = await self._hashes(consistency_ranges(first, second), second)
        roots = [await self.root(first), await self.root(second)]
        return {
            "format": CONSISTENCY_PROOF,
            "from": first,
            "to": second,
            "from_root": encoded(roots[0]),
            "to_root": encoded(roots[1]),
            "consistency": list(map(encoded, path)),
        }

    async def _checkpoint_of(self, size: int) -> str | None:
        """A signed checkpoint of so many events, if one is stored."""
        rows = await self._recorder.fetch(
            "SELECT note FROM audit_checkpoints_1 WHERE size = :size", {"size": size}
        )
        return rows[0][0] if rows else None

    async def _hashes(self, ranges: list[tuple[int, int]], size: int) -> list[bytes]:
        if size > await self.size():
            raise NotSealed(f"The sealed tree has fewer than {size} leaves.")
        tiles = await self._tiles(tiles_of(ranges))
        try:
            return [
                subtree_hash(start, end, lambda node: hash_from(node, tiles))
                for start, end in ranges
            ]
        except KeyError as error:
            tile = error.args[0]
            raise SealBroken(f"the tile {tile.level}/{tile.number} of the seal is broken") from None

    async def _tiles(self, wanted: Iterable[Tile]) -> dict[Tile, bytes]:
        ids = {f"t{number}": tile_id(tile) for number, tile in enumerate(wanted)}
        if not ids:
            return {}
        rows = await self._recorder.fetch(
            "SELECT level, number, hashes FROM audit_tiles_1 "
            f"WHERE id IN ({', '.join(':' + name for name in ids)})",
            ids,
        )
        return {Tile(level, index): base64.b64decode(hashes) for level, index, hashes in rows}
