"""The tree is that of RFC 6962, and its proofs convince exactly when they should."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.projections.seal import merkle, verify_proof

VECTOR_ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
VECTOR_ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
"""The roots that the certificate transparency project publishes for these entries."""


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962 defines it, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = naive_root(leaves[:split]), naive_root(leaves[split:])
    return sha256(b"\x01" + left + right).digest()


def leaves_of(count: int, salt: bytes = b"") -> list[bytes]:
    return [verify_proof.leaf_hash(salt + str(number).encode()) for number in range(count)]


def proof_of(leaves: list[bytes], ranges: list[tuple[int, int]]) -> list[bytes]:
    return [naive_root(leaves[start:end]) for start, end in ranges]


@pytest.mark.parametrize("count", VECTOR_ROOTS)
def test_roots_are_those_of_the_published_vectors(count: int) -> None:
    tree = merkle.CompactRange()
    for entry in VECTOR_ENTRIES[:count]:
        tree.append(verify_proof.leaf_hash(entry))
    assert tree.root().hex() == VECTOR_ROOTS[count]


def test_an_inclusion_proof_is_that_of_the_published_vectors() -> None:
    leaves = [verify_proof.leaf_hash(entry) for entry in VECTOR_ENTRIES]
    proof = [part.hex() for part in proof_of(leaves, merkle.inclusion_ranges(0, 8))]
    assert proof == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]


@given(st.integers(0, 300))
def test_a_growing_tree_has_the_root_of_the_definition(count: int) -> None:
    leaves = leaves_of(count)
    tree = merkle.CompactRange()
    for leaf in leaves:
        tree.append(leaf)
    assert tree.root() == naive_root(leaves)


@given(st.integers(0, 200), st.integers(0, 200))
def test_a_tree_that_is_taken_up_again_goes_on_as_if_it_had_never_stopped(
    first: int, more: int
) -> None:
    leaves = leaves_of(first + more)
    known = [
        naive_root(leaves[node.number << node.level : (node.number + 1) << node.level])
        for node in merkle.peaks(0, first)
    ]
    tree = merkle.CompactRange(first, known)
    for leaf in leaves[first:]:
        tree.append(leaf)
    assert tree.root() == naive_root(leaves)


@st.composite
def index_and_size(draw: st.DrawFn) -> tuple[int, int]:
    size = draw(st.integers(1, 200))
    return draw(st.integers(0, size - 1)), size


@given(index_and_size())
def test_an_inclusion_proof_convinces(case: tuple[int, int]) -> None:
    index, size = case
    leaves = leaves_of(size)
    proof = proof_of(leaves, merkle.inclusion_ranges(index, size))
    verify_proof.check_inclusion(leaves[index], index, size, proof, naive_root(leaves))


@given(index_and_size(), st.data())
@settings(max_examples=300)
def test_a_wrong_inclusion_proof_is_refused(case: tuple[int, int], data: st.DataObject) -> None:
    index, size = case
    leaves = leaves_of(size)
    root = naive_root(leaves)
    proof = proof_of(leaves, merkle.inclusion_ranges(index, size))
    kind = data.draw(st.sampled_from(["leaf", "index", "longer", "shorter", "bit", "root"]))
    leaf = leaves[index]
    if kind == "leaf":
        leaf = verify_proof.leaf_hash(b"another")
    elif kind == "index":
        index = data.draw(st.integers(-1, size + 1).filter(lambda other: other != index))
    elif kind == "longer":
        proof = [*proof, leaf]
    elif kind == "shorter" and proof:
        proof = proof[:-1]
    elif kind == "bit" and proof:
        number = data.draw(st.integers(0, len(proof) - 1))
        proof[number] = bytes([proof[number][0] ^ 1]) + proof[number][1:]
    else:
        root = bytes(32)
    with pytest.raises(verify_proof.NotProved):
        verify_proof.check_inclusion(leaf, index, size, proof, root)


@given(st.integers(1, 200), st.integers(0, 200))
def test_a_consistency_proof_convinces(first: int, more: int) -> None:
    leaves = leaves_of(first + more)
    proof = proof_of(leaves, merkle.consistency_ranges(first, first + more))
    old, new = naive_root(leaves[:first]), naive_root(leaves)
    verify_proof.check_consistency(first, first + more, proof, old, new)


@given(st.integers(1, 120), st.integers(0, 120), st.data())
@settings(max_examples=300)
def test_a_forked_log_fails_consistency(first: int, more: int, data: st.DataObject) -> None:
    honest = leaves_of(first + more)
    changed = data.draw(st.integers(0, first - 1))
    forked = list(honest)
    forked[changed] = verify_proof.leaf_hash(b"another past")
    proof = proof_of(forked, merkle.consistency_ranges(first, first + more))
    with pytest.raises(verify_proof.NotProved):
        verify_proof.check_consistency(
            first, first + more, proof, naive_root(honest[:first]), naive_root(forked)
        )


@given(st.integers(1, 120), st.integers(1, 120), st.data())
def test_a_wrong_consistency_proof_is_refused(first: int, more: int, data: st.DataObject) -> None:
    leaves = leaves_of(first + more)
    old, new = naive_root(leaves[:first]), naive_root(leaves)
    proof = proof_of(leaves, merkle.consistency_ranges(first, first + more))
    kind = data.draw(st.sampled_from(["longer", "shorter", "bit"]))
    if kind == "longer":
        proof = [*proof, proof[0]]
    elif kind == "shorter":
        proof = proof[:-1]
    else:
        number = data.draw(st.integers(0, len(proof) - 1))
        proof[number] = proof[number][:-1] + bytes([proof[number][-1] ^ 128])
    with pytest.raises(verify_proof.NotProved):
        verify_proof.check_consistency(first, first + more, proof, old, new)


def test_an_entry_says_where_each_field_ends() -> None:
    """No two different events have the same bytes."""
    one = verify_proof.event_entry(1, "ab", 1, "c", b"")
    two = verify_proof.event_entry(1, "a", 1, "bc", b"")
    assert one != two
    assert verify_proof.event_entry(7, "id", 2, "image.created", b"{}").hex() == (
        "0000000000000007" "0000000000000002" "0002" "6964" "000d"
        "696d6167652e63726561746564"
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )  # fmt: skip
