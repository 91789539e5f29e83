"""Tiles hold the tree of RFC 6962 and are addressed as C2SP tlog-tiles says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.projections.seal import merkle, tiles, verify_proof


def _leaves(count: int) -> list[bytes]:
    return [verify_proof.leaf_hash(str(number).encode()) for number in range(count)]


def _grown(leaves: list[bytes], pauses: set[int]) -> tuple[tiles.GrowingTiles, dict]:
    """The tree, taken up again from its stored tiles at each pause."""
    tree, stored = tiles.GrowingTiles(), {}
    for number, leaf in enumerate(leaves):
        if number in pauses:
            stored |= dict(tree.take_changed())
            edges = [
                tiles.hashes_in(stored[tiles.Tile(level, number >> 8 * (level + 1))])
                if (number >> 8 * level) % 256
                else []
                for level in range(3)
            ]
            tree = tiles.GrowingTiles(number, edges)
        tree.append(leaf)
    return tree, stored | dict(tree.take_changed())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1500), st.sets(st.integers(0, 1500), max_size=5))
def test_a_tree_of_tiles_has_the_same_root_however_often_it_was_taken_up(
    count: int, pauses: set[int]
) -> None:
    leaves = _leaves(count)
    expected = merkle.CompactRange()
    for leaf in leaves:
        expected.append(leaf)
    tree, _ = _grown(leaves, pauses)
    assert tree.root() == expected.root()


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 65535, 65536, 65537, 66000])
def test_the_tree_of_every_earlier_size_is_in_the_tiles(size: int) -> None:
    leaves = _leaves(size)
    _, stored = _grown(leaves, {size // 2, size - 1})
    for tile, data in stored.items():
        assert len(data) == 32 * tiles.width_at(tile, size)
    for earlier in {1, size // 3 or 1, size - 1 or 1, size}:
        expected = merkle.CompactRange()
        for leaf in leaves[:earlier]:
            expected.append(leaf)
        found = merkle.subtree_hash(0, earlier, lambda node: tiles.hash_from(node, stored))
        assert found == expected.root()
        assert tiles.tiles_of([(0, earlier)]) <= set(stored)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 1200), st.data())
def test_proofs_made_from_tiles_convince(size: int, data: st.DataObject) -> None:
    leaves = _leaves(size)
    tree, stored = _grown(leaves, set())
    index = data.draw(st.integers(0, size - 1))

    def proof(ranges: list[tuple[int, int]]) -> list[bytes]:
        return [
            merkle.subtree_hash(start, end, lambda node: tiles.hash_from(node, stored))
            for start, end in ranges
        ]

    inclusion = proof(merkle.inclusion_ranges(index, size))
    verify_proof.check_inclusion(leaves[index], index, size, inclusion, tree.root())
    old = merkle.subtree_hash(0, index + 1, lambda node: tiles.hash_from(node, stored))
    consistency = proof(merkle.consistency_ranges(index + 1, size))
    verify_proof.check_consistency(index + 1, size, consistency, old, tree.root())


@pytest.mark.parametrize(
    ("index", "width", "path"),
    [
        (0, 256, "000"),
        (67, 256, "067"),
        (1234067, 256, "x001/x234/067"),
        (1000, 17, "x001/000.p/17"),
        (5, 1, "005.p/1"),
    ],
)
def test_indexes_are_written_in_groups_of_three_digits(index: int, width: int, path: str) -> None:
    assert tiles.index_path(index, width) == path
    assert tiles.read_index_path(path) == (index, width)


@pytest.mark.parametrize(
    "path",
    ["", "1", "0067", "x000/067", "x001", "001/067", "067.p/0", "067.p/256", "067.p/999", "067.p/",
     "067.p/01", "-01", "٠٦٧", "x001/x234/067/", "067\n"],
)  # fmt: skip
def test_an_index_has_one_spelling(path: str) -> None:
    with pytest.raises(ValueError, match=r"index"):
        tiles.read_index_path(path)
