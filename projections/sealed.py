"""Reading the seal: checkpoints, tiles, entry bundles, proofs, and what proves one event."""

import base64
import struct
from collections.abc import Iterable
from typing import Any

from calotype.projections.following import reached
from calotype.projections.merkle import (
    HASH_BYTES,
    consistency_ranges,
    event_entry,
    inclusion_ranges,
    subtree_hash,
)
from calotype.projections.notes import read_checkpoint
from calotype.projections.seal import NAME, LogRow, SealBroken, tile_id
from calotype.projections.tiles import WIDTH, Tile, hash_from, tiles_of
from calotype.stores.log.recorder import GroupCommitRecorder

PROOF_FORMAT = "calotype-event-proof-1"

_EVENTS = (
    "SELECT notification_id, CAST(originator_id AS text), originator_version, topic, state "
    "FROM stored_events WHERE notification_id > :after AND notification_id <= :last "
    "ORDER BY notification_id"
)


class NotSealed(Exception):
    """What was asked for is not sealed (yet), or not signed; the message says which."""


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
            raise SealBroken(f"events after position {first} are missing from the log")
        entries = (event_entry(*LogRow._make(row)) for row in rows)
        return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)

    async def root(self, size: int) -> bytes:
        """The root of the tree of the first `size` events. Raises NotSealed."""
        return (await self._hashes([(0, size)], size))[0]

    async def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that leaf `index` is in the tree of `size`. Raises ValueError, NotSealed."""
        return await self._hashes(inclusion_ranges(index, size), size)

    async def consistency(self, first: int, second: int) -> list[bytes]:
        """The proof that the tree of `first` leaves grew into that of `second`.

        Raises ValueError, NotSealed.
        """
        return await self._hashes(consistency_ranges(first, second), second)

    async def exported(self, position: int) -> dict[str, Any]:
        """All that is needed to check one event offline. Raises NotSealed.

        The event is as the log holds it now, the proof is made from the sealed tree: they fit
        only if the event is the one that was sealed.
        """
        note = await self.checkpoint()
        size = read_checkpoint(note.partition("\n\n")[0] + "\n").size
        if not 0 < position <= size:
            raise NotSealed(f"No checkpoint covers this position; the newest has {size} events.")
        rows = await self._recorder.fetch(_EVENTS, {"after": position - 1, "last": position})
        if not rows:
            raise SealBroken(f"position {position} is missing from the event log")
        _, originator_id, version, topic, state = rows[0]
        return {
            "format": PROOF_FORMAT,
            "event": {
                "position": position,
                "originator_id": str(originator_id),
                "originator_version": version,
                "topic": topic,
                "state": base64.b64encode(bytes(state)).decode(),
            },
            "leaf_index": position - 1,
            "tree_size": size,
            "inclusion": in_base64(await self.inclusion(position - 1, size)),
            "checkpoint": note,
        }

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


def in_base64(hashes: Iterable[bytes]) -> list[str]:
    """Hashes as JSON carries them."""
    return [base64.b64encode(part).decode() for part in hashes]
