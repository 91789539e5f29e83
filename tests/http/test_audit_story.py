"""Auditors read checkpoints, tiles and proofs of the sealed log; others do not."""

import asyncio
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from calotype.projections.engine.positions import positions_of
from calotype.projections.seal import merkle, signed_note, verify_proof
from calotype.projections.seal.seal import event_leaf, events_after, sealer

SIGNER = signed_note.new_signer("cloud.example/images")


async def _seal(cloud: Any) -> int:
    return await sealer(cloud.context.log.recorder, SIGNER, "test").catch_up()


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
    checkpoint = verify_proof.open_checkpoint(answer.text, [SIGNER.verifier])
    (event,) = events_after(projects.context.log.recorder, 0, 10)
    assert checkpoint == verify_proof.Checkpoint("cloud.example/images", 1, event_leaf(event))


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
    leaves = [event_leaf(event) for event in events_after(cloud.context.log.recorder, 0, 1000)]
    assert full.body + rest.body == b"".join(leaves)
    above = await cloud.admin("GET", "/log/v1/tile/1/000.p/1")
    assert above.body == merkle.complete_root(leaves[:256])
    bundle = (await cloud.admin("GET", "/log/v1/tile/entries/001.p/4")).body
    for leaf in leaves[256:]:
        (length,) = struct.unpack(">H", bundle[:2])
        assert verify_proof.leaf_hash(bundle[2 : 2 + length]) == leaf
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


async def _checked(tmp_path: Path, script: Any, proof: Any, *checkpoints: str) -> str:
    """What the script that was handed out says of a proof, with nothing of ours beside it."""
    (tmp_path / "verify_proof.py").write_bytes(script.body)
    (tmp_path / "proof.json").write_bytes(proof.body)
    options = ["--key", SIGNER.verifier.text]
    for number, note in enumerate(checkpoints):
        (tmp_path / f"kept-{number}").write_text(note)
        options += ["--checkpoint", f"kept-{number}"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "verify_proof.py", "proof.json", *options,
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return (await process.communicate())[0].decode()


async def test_a_proof_over_http_is_checked_by_the_script_that_is_handed_out(
    cloud: Any, tmp_path: Path
) -> None:
    await _busy(cloud, 12)
    await _seal(cloud)
    kept = (await cloud.admin("GET", "/log/v1/checkpoint")).text
    await _busy(cloud, 8)
    await _seal(cloud)
    script = await cloud.admin("GET", "/log/v1/verify_proof.py")
    position = (await positions_of(cloud.context.log.recorder)).encode(11)
    proof = await cloud.admin("GET", f"/log/v1/proof/inclusion?position={position}")
    assert (proof.json["tree_size"], proof.json["position"]) == (20, position)
    told = await _checked(tmp_path, script, proof)
    assert told.startswith(f"proved: {position}, image.created, version 1 of "), told
    assert ", by " in told
    # And under the checkpoint that an auditor has kept.
    older = await cloud.admin("GET", f"/log/v1/proof/inclusion?position={position}&size=12")
    assert older.json["tree_size"] == 12
    assert (await _checked(tmp_path, script, older, kept)).startswith(f"proved: {position}")
    now = (await cloud.admin("GET", "/log/v1/checkpoint")).text
    grown = await cloud.admin("GET", "/log/v1/proof/consistency?from=12&to=20")
    told = await _checked(tmp_path, script, grown, kept, now)
    assert told.endswith("with 20 events begins with that of 12 events\n"), told


async def test_a_proof_shows_nobody_properties_that_are_kept_from_them(
    open_cloud: Any, tmp_path: Path
) -> None:
    file = tmp_path / "protections.conf"
    file.write_text(
        "[secret]\ncreate = member\nread = member\nupdate = member\ndelete = member\n"
        "[.*]\ncreate = @\nread = @\nupdate = @\ndelete = @\n"
    )
    cloud = await open_cloud(identity={"kind": "headers"}, property_protections={"file": str(file)})
    owner, auditor = cloud.caller("p"), cloud.caller("audit", "auditor")
    await owner.create(secret="x")
    await owner.create(plain="x")
    await _seal(cloud)
    positions = await positions_of(cloud.context.log.recorder)
    for number, status in ((1, 403), (2, 200)):
        path = f"/log/v1/proof/inclusion?position={positions.encode(number)}"
        assert (await auditor("GET", path)).status == status


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
    ours = (await positions_of(cloud.context.log.recorder)).encode(1).rpartition("-")[0]
    answer = await cloud.admin("GET", "/log/v1/proof/" + path.replace("OURS", ours))
    assert answer.status == 400, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["field"] == field


async def test_before_anything_is_sealed_there_is_nothing_to_prove(cloud: Any) -> None:
    await _busy(cloud, 1)
    position = (await positions_of(cloud.context.log.recorder)).encode(1)
    for path in (f"inclusion?position={position}", "consistency?from=1"):
        assert (await cloud.admin("GET", f"/log/v1/proof/{path}")).status == 404
