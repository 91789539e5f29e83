"""The Merkle tree of RFC 6962 (and RFC 9162) over the event log: its roots, and what proofs hold.

Pure functions; those that hash a leaf or a node and check a proof are in `verify_proof.py`. A tree
is never held whole: `CompactRange` keeps one hash for each power of two, and proofs name the
complete subtrees that they need, whose hashes the tiles have.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

from calotype.projections.seal.verify_proof import node_hash

EMPTY_ROOT = sha256().digest()
"""The root of a tree without leaves."""


class Node(NamedTuple):
    """A complete subtree of 2^level leaves, the `number`th of its level."""

    level: int
    number: int


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """The root over 2^n neighbouring complete subtrees of one size."""
    while len(hashes) > 1:
        hashes = [
            sha256(b"\x01" + hashes[number] + hashes[number + 1]).digest()
            for number in range(0, len(hashes), 2)
        ]
    return hashes[0]


class CompactRange:
    """A tree that only grows: the hashes of its complete subtrees, largest first."""

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        """Continues a tree of `size` leaves; `hashes` are those of `peaks(0, size)`."""
        self.size = size
        self.hashes = list(hashes)
        if len(self.hashes) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} complete subtrees")

    def append(self, leaf: bytes) -> None:
        """Adds the hash of the next leaf."""
        self.hashes.append(leaf)
        number = self.size
        while number & 1:
            right = self.hashes.pop()
            self.hashes[-1] = node_hash(self.hashes[-1], right)
            number >>= 1
        self.size += 1

    def root(self) -> bytes:
        """The root hash of the tree as it is now."""
        return _joined(self.hashes) if self.hashes else EMPTY_ROOT


def peaks(start: int, end: int) -> list[Node]:
    """The complete subtrees that leaves `start` to `end` (exclusive) consist of, largest first.

    `start` is a multiple of the largest one's size, as it is for every subtree of a tree.
    """
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def subtree_hash(start: int, end: int, hash_of: Callable[[Node], bytes]) -> bytes:
    """The root over leaves `start` to `end` (exclusive), from the hashes of complete subtrees."""
    return _joined([hash_of(node) for node in peaks(start, end)]) if start < end else EMPTY_ROOT


def _joined(hashes: Sequence[bytes]) -> bytes:
    joined = hashes[-1]
    for left in reversed(hashes[:-1]):
        joined = node_hash(left, joined)
    return joined


def _split(count: int) -> int:
    """The largest power of two smaller than `count`: how many leaves stand on the left."""
    return 1 << (count - 1).bit_length() - 1


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The subtrees, as ranges of leaves, whose hashes prove that a leaf is in a tree.

    Raises ValueError unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    start, end, ranges = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(first: int, second: int) -> list[tuple[int, int]]:
    """The subtrees whose hashes prove that a tree of `first` leaves grew into one of `second`.

    Raises ValueError unless 0 < first <= second.
    """
    if not 0 < first <= second:
        raise ValueError(f"a tree of {first} leaves cannot have grown into one of {second}")
    if first == second:
        return []
    start, end, ranges = 0, second, []
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start > 0:  # Else what is left is the whole old tree, whose root the verifier knows.
        ranges.append((start, end))
    return ranges[::-1]
