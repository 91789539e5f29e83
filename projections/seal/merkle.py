"""The Merkle tree of RFC 6962 (and RFC 9162) over the event log: hashes, proofs, verification.

Pure functions. A tree is never held whole: `CompactRange` keeps one hash for each power of two, and
proofs name the complete subtrees that they need, so that whoever stores these can answer.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

HASH_BYTES = 32
EMPTY_ROOT = sha256().digest()
"""The root of a tree without leaves."""


class BadProof(ValueError):
    """The proof does not show what it should; the message says why."""


class Node(NamedTuple):
    """A complete subtree of 2^level leaves, the `number`th of its level."""

    level: int
    number: int


def event_entry(
    position: int, originator_id: object, version: int, topic: str, state: bytes
) -> bytes:
    """The canonical bytes of a stored event, of which its leaf is made.

    Big-endian, in this order: position (8 bytes), version (8), length of the originator's id in
    bytes (2) and the id as text in UTF-8, length of the topic (2) and the topic in UTF-8, and the
    SHA-256 of the state (32). It is the state's digest and not the state, so that an entry always
    fits the 65 535 bytes of an entry bundle, and whoever gets a bundle does not get the contents.
    """
    originator, name = str(originator_id).encode(), topic.encode()
    return _entry_form(len(originator), len(name)).pack(
        position,
        version,
        len(originator),
        originator,
        len(name),
        name,
        sha256(state).digest(),
    )


@lru_cache(maxsize=256)
def _entry_form(originator_bytes: int, topic_bytes: int) -> struct.Struct:
    return struct.Struct(f">QQH{originator_bytes}sH{topic_bytes}s32s")


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two neighbouring subtrees."""
    return sha256(b"\x01" + left + right).digest()


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
        """Takes up where a tree of `size` leaves stood; `hashes` are those of `peaks(0, size)`."""
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


def check_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Checks (RFC 9162, 2.1.3.2) that a leaf is in the tree with this root. Raises BadProof."""
    if not 0 <= index < size:
        raise BadProof(f"there is no leaf {index} in a tree of {size}")
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise BadProof("the proof is too long")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise BadProof("the proof is too short")
    if computed != root:
        raise BadProof("the leaf is not in the tree: its way up leads to another root")


def check_consistency(
    first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes
) -> None:
    """Checks (RFC 9162, 2.1.4.2) that the second tree begins with the first. Raises BadProof."""
    if not 0 < first <= second:
        raise BadProof(f"a tree of {first} leaves cannot have grown into one of {second}")
    if first == second:
        if proof or first_root != second_root:
            raise BadProof("two trees of one size are the same only with the same root")
        return
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        raise BadProof("the proof is too short")
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise BadProof("the proof is too long")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise BadProof("the proof is too short")
    if old != first_root:
        raise BadProof("the proof does not lead to the first root: the log was forked")
    if new != second_root:
        raise BadProof("the proof does not lead to the second root: the log was forked")
