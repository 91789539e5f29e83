"""Checking the log against its seal: every event hashed again, every tile and checkpoint compared.

The tiles show which event was changed; the signed checkpoints show whether the tiles were changed
with it. An attacker with write access to the database can rewrite both, but cannot sign.
"""

import base64
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from calotype.projections.seal.seal import (
    PAGE_EVENTS,
    LogRow,
    event_leaf,
    events_after,
    sealed_size,
)
from calotype.projections.seal.tiles import (
    HEIGHT,
    HIGHEST_LEVEL,
    WIDTH,
    GrowingTiles,
    Tile,
    width_at,
)
from calotype.projections.seal.verify_proof import (
    HASH_BYTES,
    Checkpoint,
    UnknownKey,
    Verifier,
    open_checkpoint,
)
from calotype.stores.log.recorder import GroupCommitRecorder


class Mismatch(Exception):
    """The log does not fit its seal. `position` is the first that does not."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


@dataclass(slots=True)
class Verified:
    """What a check found to be right."""

    events: int = 0
    """How many events were hashed."""
    sealed: int = 0
    """How many of them are under the seal; the others came in the last second or so."""
    proved: int = 0
    """How many of those a signed checkpoint of a known key covers; the only ones that are proved
    against somebody who can write to the database."""
    checkpoints: int = 0
    """How many signed checkpoints lead to the same roots."""
    strangers: list[str] = field(default_factory=list)
    """Checkpoints of keys that are not known, as `size N: reason`; they prove nothing."""
    root: bytes = b""
    """The root of the tree of all `sealed` events."""


class LogCheck:
    """Hashes the whole log once, in memory that does not grow with it."""

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        verifiers: Sequence[Verifier] = (),
        kept: Sequence[Checkpoint] = (),
    ) -> None:
        """`kept` are checkpoints that the auditor kept elsewhere and whose signatures are valid.

        Raises BadNote for a stored checkpoint whose signature by one of the keys is wrong.
        """
        self._recorder = recorder
        self._found = Verified()
        self._checkpoints = self._stored_checkpoints(verifiers, kept)
        self.size = max([sealed_size(recorder), *(point.size for point in self._checkpoints)])
        """How many events should be there at least."""
        self._tree = GrowingTiles()
        self._tiles: dict[Tile, bytes] = {}
        self._trusted = 0

    def run(self, progress: Callable[[int], None] = lambda position: None) -> Verified:
        """Checks everything; calls `progress` with positions. Raises Mismatch at the first fault.

        An event that is changed, missing or in another's place is named by its own position. Where
        the stored tree was rewritten to fit, the first position that is not proved is named.
        """
        position = 0
        while page := events_after(self._recorder, position, PAGE_EVENTS):
            self._load_leaves(position, page[-1].id)
            for event in page:
                if event.id != position + 1:
                    raise Mismatch(position + 1, "the event is missing")
                position = event.id
                if position <= self.size:
                    self._check_event(position, _leaf(event))
            self._check_full_tiles()
            progress(position)
        if position < self.size:
            raise Mismatch(position + 1, f"the event is missing; {self.size} events were sealed")
        self._check_partial_tiles()
        self._found.events, self._found.sealed = position, self.size
        self._found.proved = self._trusted
        self._found.root = self._tree.root()
        return self._found

    def _stored_checkpoints(
        self, verifiers: Sequence[Verifier], kept: Sequence[Checkpoint]
    ) -> list[Checkpoint]:
        found = list(kept)
        if verifiers:
            for size, note in self._recorder.fetch_now(
                "SELECT size, note FROM audit_checkpoints_1 ORDER BY size"
            ):
                try:
                    found.append(open_checkpoint(note, verifiers))
                except UnknownKey as error:
                    self._found.strangers.append(f"size {size}: {error}")
        return sorted(found, key=lambda point: point.size, reverse=True)

    def _check_event(self, position: int, leaf: bytes) -> None:
        index, place = divmod(position - 1, WIDTH)
        stored = self._tiles.get(Tile(0, index), b"")
        if stored[place * HASH_BYTES : (place + 1) * HASH_BYTES] != leaf:
            reason = (
                "the event is not the one that was sealed"
                if stored
                else "its tile is missing or broken"
            )
            raise Mismatch(position, reason)
        self._tree.append(leaf)
        while self._checkpoints and self._checkpoints[-1].size <= position:
            point = self._checkpoints.pop()
            if point.size and point.root != self._tree.root():
                raise Mismatch(
                    self._trusted + 1,
                    f"from here on nothing is proved: the log's first {point.size} events have "
                    "another root than the signed checkpoint, so the stored tree was rewritten",
                )
            self._trusted = point.size
            self._found.checkpoints += 1

    def _load_leaves(self, after: int, last: int) -> None:
        self._tiles = self._load(0, after // WIDTH, (last - 1) // WIDTH)

    def _load(self, level: int, first: int, last: int) -> dict[Tile, bytes]:
        rows = self._recorder.fetch_now(
            "SELECT number, hashes FROM audit_tiles_1 "
            "WHERE level = :level AND number >= :first AND number <= :last",
            {"level": level, "first": first, "last": last},
        )
        return {Tile(level, number): _decoded(hashes) for number, hashes in rows}

    def _check_full_tiles(self) -> None:
        """Those above the leaves, which were compared one by one."""
        for tile, data in self._tree.take_changed():
            if tile.level and len(data) == WIDTH * HASH_BYTES:
                self._check_tile(tile, data)

    def _check_partial_tiles(self) -> None:
        for level in range(1, HIGHEST_LEVEL):
            tile = Tile(level, self.size >> HEIGHT * (level + 1))
            if width_at(tile, self.size):
                self._check_tile(tile, b"".join(self._tree.edges[level]))

    def _check_tile(self, tile: Tile, data: bytes) -> None:
        stored = self._load(tile.level, tile.number, tile.number).get(tile, b"")
        for place in range(0, len(data), HASH_BYTES):
            if stored[place : place + HASH_BYTES] != data[place : place + HASH_BYTES]:
                subtree = tile.number * WIDTH + place // HASH_BYTES
                first = (subtree << HEIGHT * tile.level) + 1
                raise Mismatch(
                    first, f"the stored tree does not fit from here on (level {tile.level})"
                )


def _leaf(event: LogRow) -> bytes:
    try:
        return event_leaf(event)
    except (TypeError, AttributeError, ValueError, struct.error):
        # SQLite keeps whatever type somebody wrote, and lengths and signs may be impossible.
        raise Mismatch(event.id, "the event is not even of the right form") from None


def _decoded(hashes: str) -> bytes:
    """A tile's hashes; none of them where they cannot be read, so that its events do not fit."""
    try:
        return base64.b64decode(hashes, validate=True)
    except (TypeError, ValueError):
        return b""
