"""Auditors read checkpoints, tiles and proofs of the sealed log; others do not."""

import base64
import struct
from typing import Any

import pytest

from calotype.projections import merkle, notes
from calotype.projections.positions import positions_of
from calotype.projections.seal import event_leaf, events_after, sealer

SIGNER = notes.new_signer("cloud.example/images")


async def _seal(cloud: Any) -> int:
    return await sealer(cloud.parts.log.recorder, SIGNER, "test").catch_up()


async def _busy(cloud: Any, images: int) -> None:
    for number in range(images):
        await cloud.admin.create(name=f"image {number}")


async def test_an_auditor_reads_a_checkpoint_that_a_standard_reader_understands(
    projects: Any,
) -> None:
    auditor = projects.caller("p", roles="auditor")
    none = await auditor("GET", "/log/v1/checkpoint")
    assert (none.status, none.headers["Content-Type"]) == (404, "application/problem+json")
    await projects.caller("p").create(name="one")
    assert await _seal(projects) == 1
    answer = await auditor("GET", "/log/v1/checkpoint")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    checkpoint = notes.open_checkpoint(answer.text, [SIGNER.verifier])
    (event,) = events_after(projects.parts.log.recorder, 0, 10)
    assert checkpoint == notes.Checkpoint("cloud.example/images", 1, event_leaf(event))


@pytest.mark.parametrize(
    "path",
    ["checkpoint", "tile/0/000", "tile/entries/000", "proof/inclusion", "proof/consistency"],
)
async def test_the_seal_is_not_for_everybody(projects: Any, path: str) -> None:
    answer = await projects.caller("p", roles="member")("GET", f"/log/v1/{path}")
    assert (answer.status, answer.json["status"]) == (403, 403)
    assert (await projects.client.get(f"/log/v1/{path}")).status == 401


async def test_tiles_hold_the_leaves_and_bundles_the_entries_they_are_made_of(cloud: Any) -> None:
    await _busy(cloud, 260)
    assert await _seal(cloud) == 260
    full = await cloud.admin("GET", "/log/v1/tile/0/000")
    assert (full.status, len(full.body)) == (200, 256 * 32)
    assert "immutable" in full.headers["Cache-Control"]
    rest = await cloud.admin("GET", "/log/v1/tile/0/001.p/4")
    leaves = [event_leaf(event) for event in events_after(cloud.parts.log.recorder, 0, 1000)]
    assert full.body + rest.body == b"".join(leaves)
    above = await cloud.admin("GET", "/log/v1/tile/1/000.p/1")
    assert above.body == merkle.complete_root(leaves[:256])
    bundle = (await cloud.admin("GET", "/log/v1/tile/entries/001.p/4")).body
    for leaf in leaves[256:]:
        (length,) = struct.unpack(">H", bundle[:2])
        assert merkle.leaf_hash(bundle[2 : 2 + length]) == leaf
        bundle = bundle[2 + length :]
    assert bundle == b""
    assert len((await cloud.admin("GET", "/log/v1/tile/0/001.p/3")).body) == 96
    for missing in ("0/001", "0/001.p/5", "0/002.p/1", "1/000", "entries/001", "2/000.p/1"):
        assert (await cloud.admin("GET", f"/log/v1/tile/{missing}")).status == 404, missing


@pytest.mark.parametrize(
    ("path", "field"),
    [("0/1", "index"), ("0/000.p/0", "index"), ("0/000.p/256", "index"), ("0/x000/000", "index"),
     ("7/000", "level"), ("x/000", "level"), ("-1/000", "level"), ("00/000", "level"),
     ("0/%D9%A0%D9%A6%D9%A7", "index")],
)  # fmt: skip
async def test_a_malformed_tile_address_names_its_part(cloud: Any, path: str, field: str) -> None:
    answer = await cloud.admin("GET", f"/log/v1/tile/{path}")
    assert answer.status == 400
    assert answer.json["field"] == field


def _hashes(texts: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in texts]


async def test_an_inclusion_proof_over_http_convinces(cloud: Any) -> None:
    await _busy(cloud, 20)
    await _seal(cloud)
    recorder = cloud.parts.log.recorder
    position = (await positions_of(recorder)).encode(7)
    for query, size in ((f"position={position}", 20), (f"position={position}&size=13", 13)):
        answer = (await cloud.admin("GET", f"/log/v1/proof/inclusion?{query}")).json
        assert (answer["tree_size"], answer["leaf_index"]) == (size, 6)
        assert answer["position"] == position
        (leaf, root) = _hashes([answer["leaf_hash"], answer["root"]])
        assert leaf == event_leaf(events_after(recorder, 6, 1)[0])
        merkle.check_inclusion(leaf, 6, size, _hashes(answer["inclusion"]), root)


async def test_a_consistency_proof_over_http_convinces(cloud: Any) -> None:
    await _busy(cloud, 9)
    await _seal(cloud)
    before = notes.open_checkpoint(
        (await cloud.admin("GET", "/log/v1/checkpoint")).text, [SIGNER.verifier]
    )
    await _busy(cloud, 8)
    await _seal(cloud)
    answer = (await cloud.admin("GET", "/log/v1/proof/consistency?from=9")).json
    old, new = _hashes([answer["from_root"], answer["to_root"]])
    assert (answer["to"], old) == (17, before.root)
    merkle.check_consistency(9, 17, _hashes(answer["consistency"]), old, new)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("inclusion", "position"),
        ("inclusion?position=", "position"),
        ("inclusion?position=3", "position"),
        ("inclusion?position=p000000000000-1", "position"),
        ("inclusion?position=OURS-0", "position"),
        ("inclusion?position=OURS-99", "position"),
        ("inclusion?position=OURS-1&size=", "size"),
        ("inclusion?position=OURS-1&size=0", "size"),
        ("inclusion?position=OURS-1&size=-1", "size"),
        ("inclusion?position=OURS-1&size=4", "size"),
        ("inclusion?position=OURS-1&size=99999999999999999999", "size"),
        ("inclusion?position=OURS-3&size=2", "position"),
        ("consistency", "from"),
        ("consistency?from=0", "from"),
        ("consistency?from=one", "from"),
        ("consistency?from=4", "from"),
        ("consistency?from=3&to=2", "from"),
        ("consistency?from=1&to=4", "to"),
        ("consistency?from=1&to=%20", "to"),
    ],
)
async def test_bad_input_gets_a_problem_that_names_the_field(
    cloud: Any, path: str, field: str
) -> None:
    await _busy(cloud, 3)
    await _seal(cloud)
    ours = (await positions_of(cloud.parts.log.recorder)).encode(1).rpartition("-")[0]
    answer = await cloud.admin("GET", "/log/v1/proof/" + path.replace("OURS", ours))
    assert answer.status == 400, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["field"] == field


async def test_before_anything_is_sealed_there_is_nothing_to_prove(cloud: Any) -> None:
    await _busy(cloud, 1)
    position = (await positions_of(cloud.parts.log.recorder)).encode(1)
    for path in (f"inclusion?position={position}", "consistency?from=1"):
        assert (await cloud.admin("GET", f"/log/v1/proof/{path}")).status == 404
