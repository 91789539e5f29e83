"""Tiles: the form in which a Merkle tree is stored and published (C2SP tlog-tiles, height 8).

A tile of level L holds up to 256 neighbouring hashes of complete subtrees of 256^L leaves. A tile
that is full never changes; a partial one is a prefix of what it will become.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from calotype.projections.seal.merkle import (
    EMPTY_ROOT,
    CompactRange,
    Node,
    complete_root,
    peaks,
)
from calotype.projections.seal.verify_proof import HASH_BYTES

HEIGHT = 8
WIDTH = 1 << HEIGHT
HIGHEST_LEVEL = 7
"""256^8 leaves are more than positions can count."""

_INDEX = re.compile(r"((?:x[0-9]{3}/){0,6})([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


class Tile(NamedTuple):
    """The `index`th tile of a level."""

    level: int
    number: int


def index_path(index: int, width: int = WIDTH) -> str:
    """The last part of a tile's address: `x001/x234/067`, with `.p/17` for 17 hashes."""
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03d}")
    return "/".join(groups) + ("" if width == WIDTH else f".p/{width}")


def read_index_path(path: str) -> tuple[int, int]:
    """`(index, width)` from the last part of a tile's address. Raises ValueError."""
    match = _INDEX.fullmatch(path)
    if match is None:
        raise ValueError("an index looks like 067, x001/x234/067 or 067.p/17")
    index = int(match[1].replace("x", "").replace("/", "") + match[2])
    width = int(match[3] or WIDTH)
    if (match[3] and width >= WIDTH) or index_path(index, width) != path:
        raise ValueError("a partial tile has 1 to 255 hashes, and an index no empty groups")
    return index, width


def width_at(tile: Tile, size: int) -> int:
    """How many hashes the tile has in a tree of `size` leaves; 0 where it has none."""
    complete = size >> HEIGHT * tile.level
    return max(0, min(WIDTH, complete - tile.number * WIDTH))


def tile_of(node: Node) -> Tile:
    """The tile from which a complete subtree's hash is taken or made."""
    level, above = divmod(node.level, HEIGHT)
    return Tile(level, (node.number << above) // WIDTH)


def tiles_of(ranges: Iterable[tuple[int, int]]) -> set[Tile]:
    """The tiles from which the roots over these ranges of leaves can be made."""
    return {tile_of(node) for start, end in ranges for node in peaks(start, end)}


def hash_from(node: Node, tiles: Mapping[Tile, bytes]) -> bytes:
    """A complete subtree's hash, made from its tile. Raises KeyError where that is too small."""
    above = node.level % HEIGHT
    start = ((node.number << above) % WIDTH) * HASH_BYTES
    tile = tile_of(node)
    end = start + (1 << above) * HASH_BYTES
    if len(tiles[tile]) < end:
        raise KeyError(tile)
    return complete_root(hashes_in(tiles[tile][start:end]))


def hashes_in(data: bytes) -> list[bytes]:
    """The hashes of a tile, one by one."""
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


class GrowingTiles:
    """A tree that only grows, as tiles; holds the last tile of each level and nothing else."""

    def __init__(self, size: int = 0, edges: Sequence[Sequence[bytes]] = ()) -> None:
        """Continues a tree; `edges` are the hashes of its partial tiles by level."""
        self.size = size
        self.edges = [list(edge) for edge in edges]
        self._full: list[tuple[Tile, bytes]] = []
        self._touched = 0

    def append(self, leaf: bytes) -> None:
        """Adds the hash of the next leaf."""
        self.size += 1
        level, subtree = 0, leaf
        while True:
            if level == len(self.edges):
                self.edges.append([])
            edge = self.edges[level]
            edge.append(subtree)
            self._touched = max(self._touched, level + 1)
            if len(edge) < WIDTH:
                return
            level += 1
            self._full.append((Tile(level - 1, (self.size >> HEIGHT * level) - 1), b"".join(edge)))
            subtree = complete_root(edge)
            edge.clear()

    def take_changed(self) -> list[tuple[Tile, bytes]]:
        """The tiles that are new or longer than at the last call."""
        partial = [
            (Tile(level, self.size >> HEIGHT * (level + 1)), b"".join(edge))
            for level, edge in enumerate(self.edges[: self._touched])
            if edge
        ]
        changed, self._full, self._touched = self._full + partial, [], 0
        return changed

    def root(self) -> bytes:
        """The root hash of the tree as it is now."""
        if not self.size:
            return EMPTY_ROOT
        hashes: list[bytes] = []
        for edge in reversed(self.edges):
            for node in peaks(0, len(edge)):
                start = node.number << node.level
                hashes.append(complete_root(edge[start : start + (1 << node.level)]))
        return CompactRange(self.size, hashes).root()
