"""An auditor's tools: the key, the check of the log, and a proof that is checked offline."""

import asyncio
import base64
import copy
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from eventsourcing.persistence import StoredEvent
from typer.testing import CliRunner

from calotype.ops.cli.main import app
from calotype.ops.settings.settings import SettingsError, load_settings
from calotype.ops.wiring.audit_key import make_key, signer_of
from calotype.ops.wiring.composition import migrate
from calotype.projections.engine.positions import positions_now
from calotype.projections.seal import signed_note, verify_proof
from calotype.projections.seal.reading import Sealed
from calotype.projections.seal.seal import sealer
from calotype.stores.log.opening import open_log

SCRIPT = Path(__file__).parent.parent.parent / "projections" / "seal" / "verify_proof.py"
NOTE = UUID("11111111-1111-4111-8111-111111111111")
EVENTS = 300


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """A data directory with a key and 300 sealed events."""
    folder = str(tmp_path / "data")
    assert _run("audit", "key", "--data", folder, "--name", "cloud.example/images").exit_code == 0
    signer = signed_note.read_signer((tmp_path / "data" / "audit.key").read_text())
    recorder = open_log(f"sqlite:///{folder}/log.sqlite")
    migrate(recorder)
    recorder.insert_events(
        [StoredEvent(NOTE, number, "note.written", b"%d" % number) for number in range(EVENTS)]
    )
    asyncio.run(sealer(recorder, signer, "test").catch_up())
    recorder.close_now()
    return folder


@pytest.fixture
def verifier_key(data: str) -> str:
    return _run("audit", "key", "--data", data).stdout.strip()


def _position(data: str, number: int) -> str:
    """The text of a position of the log."""
    recorder = open_log(f"sqlite:///{data}/log.sqlite")
    try:
        return positions_now(recorder).encode(number)
    finally:
        recorder.close_now()


@pytest.fixture
def proof(data: str, tmp_path: Path) -> Path:
    """The proof of event 42, which is -2a in the text of its position."""
    out = tmp_path / "proof.json"
    done = _run("audit", "prove", _position(data, 42), "--out", str(out), "--data", data)
    assert done.exit_code == 0, done.output
    return out


def _offline(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the script alone: `-I` keeps the current directory and the environment out of it."""
    return subprocess.run(
        [sys.executable, "-I", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONIOENCODING": "utf-8"},
    )


def test_the_key_is_made_once_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    folder = str(tmp_path / "new")
    first = _run("audit", "key", "--data", folder, "--name", "cloud.example/images")
    again = _run("audit", "key", "--data", folder)
    assert first.stdout == again.stdout
    assert verify_proof.read_verifier(first.stdout).name == "cloud.example/images"
    path = Path(folder) / "audit.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(Path(folder).iterdir()) == [path]
    assert path.read_text().strip() not in first.output
    refused = _run("audit", "key", "--data", folder, "--name", "another.example")
    assert (refused.exit_code, "--name: there is a key already" in refused.stderr) == (2, True)


def test_of_many_who_make_a_key_at_once_all_get_the_same(tmp_path: Path) -> None:
    settings = load_settings(None, data=str(tmp_path))
    start = threading.Barrier(8)

    def make(number: int) -> str:
        start.wait()
        return make_key(settings, f"maker-{number}").verifier.text

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(make, range(8)))
    assert len(made) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["audit.key"]


def test_a_key_in_the_settings_needs_no_file(tmp_path: Path) -> None:
    signer = signed_note.new_signer("cloud.example/images")
    settings = load_settings(None, data=str(tmp_path), audit__signing_key=signer.secret())
    assert make_key(settings).verifier == signer.verifier
    assert list(tmp_path.iterdir()) == []
    assert signer.secret()[-20:] not in repr(settings)
    with pytest.raises(SettingsError, match=r"audit\.signing_key"):
        signer_of(load_settings(None, audit__signing_key="nonsense"))


def test_a_key_that_cannot_be_read_is_one_message_without_the_key(tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    path.write_text("PRIVATE+KEY+name+00000000+MARKER-SECRET")
    with pytest.raises(SettingsError) as refused:
        _run("audit", "key", "--data", str(tmp_path))
    assert "audit.key_file" in str(refused.value)
    assert "MARKER" not in str(refused.value)


def test_verify_says_that_the_log_is_what_was_sealed(data: str) -> None:
    done = _run("audit", "verify", "--data", data)
    assert done.exit_code == 0, done.output
    assert f"proved by checkpoints {EVENTS}" in done.stdout
    assert "The log is what was sealed." in done.stdout


def test_verify_names_the_first_position_that_does_not_fit(data: str) -> None:
    with sqlite3.connect(f"{data}/log.sqlite") as connection:
        connection.execute("UPDATE stored_events SET state = X'00' WHERE notification_id = 123")
    done = _run("audit", "verify", "--data", data)
    assert done.exit_code == 1
    wrong = _position(data, 123)
    assert f"DOES NOT FIT at position {wrong}: the event is not the one" in done.stdout


def test_verify_believes_no_key_but_those_given(data: str) -> None:
    stranger = signed_note.new_signer("cloud.example/images").verifier.text
    done = _run("audit", "verify", "--data", data, "--key", stranger)
    assert done.exit_code == 1
    first, last = _position(data, 1), _position(data, EVENTS)
    assert f"no checkpoint of a known key covers events {first} to {last}." in done.stdout


def test_verify_without_any_key_proves_nothing(data: str) -> None:
    (Path(data) / "audit.key").unlink()
    done = _run("audit", "verify", "--data", data)
    assert done.exit_code == 1
    assert "NOT PROVED: there is no key" in done.stdout


def test_verify_against_a_kept_checkpoint_finds_a_log_begun_anew(data: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with sqlite3.connect(f"{data}/log.sqlite") as connection:
        ((note,),) = connection.execute("SELECT note FROM audit_checkpoints_1").fetchall()
        kept.write_text(note)
        for table in ("audit_checkpoints_1", "audit_tiles_1", "tracking"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("DELETE FROM stored_events WHERE notification_id > 200")
    done = _run("audit", "verify", "--data", data, "--checkpoint", str(kept))
    assert done.exit_code == 1
    first = _position(data, 1)
    assert f"DOES NOT FIT at position {first}: its tile is missing or broken" in done.stdout


@pytest.mark.parametrize(
    ("position", "code"),
    [
        ("42", 2),
        ("OURS-0", 1),
        ("OURS-12d", 1),
        ("9" * 30, 2),
        ("p000000000000-1", 2),
        ("nonsense", 2),
    ],
)
def test_prove_refuses_a_position_that_no_checkpoint_covers(
    data: str, tmp_path: Path, position: str, code: int
) -> None:
    out = tmp_path / "proof.json"
    position = position.replace("OURS-", _position(data, 0)[:-1])
    done = _run("audit", "prove", position, "--out", str(out), "--data", data)
    assert done.exit_code == code
    assert ("no proof" if code == 1 else "POSITION") in done.stderr
    assert not out.exists()


def test_a_right_proof_is_accepted_by_the_script_alone(
    proof: Path, data: str, verifier_key: str, tmp_path: Path
) -> None:
    done = _offline(str(proof), "--key", verifier_key, "--show", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    position = _position(data, 42)
    assert position.endswith("-2a")
    assert done.stdout.splitlines() == [
        f"proved: {position}, note.written, version 41 of {NOTE}, is in the log of "
        "cloud.example/images",
        "41",
    ]


def test_a_proof_of_before_positions_were_named_is_still_accepted(
    proof: Path, verifier_key: str, tmp_path: Path
) -> None:
    document = json.loads(proof.read_text())
    del document["position"]
    proof.write_text(json.dumps(document))
    done = _offline(str(proof), "--key", verifier_key, folder=tmp_path)
    assert done.stdout.startswith("proved: an event, note.written, version 41"), done.stderr


def test_the_script_is_handed_out_as_it_is() -> None:
    assert _run("audit", "script").stdout == SCRIPT.read_text()


@pytest.fixture
def grown(data: str, tmp_path: Path) -> tuple[Path, Path]:
    """Two kept checkpoints, of 300 events and of 437."""
    kept = (tmp_path / "old", tmp_path / "new")
    signer = signed_note.read_signer((Path(data) / "audit.key").read_text())
    recorder = open_log(f"sqlite:///{data}/log.sqlite")
    kept[0].write_text(asyncio.run(Sealed(recorder).checkpoint()))
    recorder.insert_events(
        [StoredEvent(NOTE, n, "note.written", b"%d" % n) for n in range(EVENTS, 437)]
    )
    asyncio.run(sealer(recorder, signer, "test").catch_up())
    kept[1].write_text(asyncio.run(Sealed(recorder).checkpoint()))
    recorder.close_now()
    return kept


def _consistency(data: str, *checkpoints: Path) -> Path:
    out = Path(data) / "consistency.json"
    names = [str(path) for path in checkpoints]
    done = _run("audit", "consistency", *names, "--out", str(out), "--data", data)
    assert done.exit_code == 0, done.output
    return out


def test_two_kept_checkpoints_are_of_one_log_that_grew(
    data: str, grown: tuple[Path, Path], verifier_key: str, tmp_path: Path
) -> None:
    old, new = grown
    for first, second in ((old, new), (new, old), (old, old)):
        out = _consistency(data, first, second)
        both = ("--checkpoint", str(first), "--checkpoint", str(second))
        done = _offline(str(out), "--key", verifier_key, *both, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        sizes = sorted(int(path.read_text().split("\n")[1]) for path in (first, second))
        assert done.stdout == (
            f"proved: the log of cloud.example/images with {sizes[1]} events begins with that of "
            f"{sizes[0]} events\n"
        )
    one = _offline(str(out), "--key", verifier_key, "--checkpoint", str(old), folder=tmp_path)
    assert (one.returncode, "two checkpoints" in one.stderr) == (1, True)


def test_two_checkpoints_of_a_log_that_was_rewritten_do_not_fit(
    data: str, grown: tuple[Path, Path], verifier_key: str, tmp_path: Path
) -> None:
    old, new = grown
    out = _consistency(data, old, new)
    signer = signed_note.read_signer((Path(data) / "audit.key").read_text())
    forged = tmp_path / "forged"
    for size, other in ((300, new), (437, old)):
        forged.write_text(signer.sign(verify_proof.Checkpoint(signer.name, size, bytes(32)).text))
        both = ("--checkpoint", str(forged), "--checkpoint", str(other))
        done = _offline(str(out), "--key", verifier_key, *both, folder=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert "it was rewritten" in done.stderr


def test_an_event_is_proved_under_a_checkpoint_that_was_kept(
    data: str, grown: tuple[Path, Path], verifier_key: str, tmp_path: Path
) -> None:
    old, out = grown[0], tmp_path / "proof.json"
    options = ("--out", str(out), "--data", data, "--checkpoint", str(old))
    assert _run("audit", "prove", _position(data, 42), *options).exit_code == 0
    done = _offline(str(out), "--key", verifier_key, "--checkpoint", str(old), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert _run("audit", "prove", _position(data, 301), *options).exit_code == 1


def test_the_script_imports_nothing_of_ours() -> None:
    code = (
        "import runpy, sys\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='loaded')\n"
        "print([name for name in sys.modules if name.startswith('calotype')])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def _altered(document: Any, *path: Any, value: Any) -> Any:
    document = copy.deepcopy(document)
    inner = document
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return document


WRONG: dict[str, Callable[[Any], Any]] = {
    "state": lambda p: _altered(p, "event", "state", value=base64.b64encode(b"42").decode()),
    "topic": lambda p: _altered(p, "event", "topic", value="note.erased"),
    "version": lambda p: _altered(p, "event", "originator_version", value=42),
    "originator": lambda p: _altered(p, "event", "originator_id", value=str(UUID(int=1))),
    "position": lambda p: _altered(p, "event", "position", value=43),
    "name": lambda p: _altered(p, "position", value=p["position"][:-2] + "2b"),
    "name that is none": lambda p: _altered(p, "position", value="\x1b[2Jp-2a"),
    "no checkpoint": lambda p: _altered(p, "checkpoint", value=None),
    "position and leaf": lambda p: _altered(
        _altered(p, "event", "position", value=43), "leaf_index", value=42
    ),
    "leaf": lambda p: _altered(p, "leaf_index", value=40),
    "size": lambda p: _altered(p, "tree_size", value=299),
    "a hash": lambda p: _altered(p, "inclusion", 3, value=base64.b64encode(bytes(32)).decode()),
    "too short": lambda p: _altered(p, "inclusion", value=p["inclusion"][:-1]),
    "too long": lambda p: _altered(p, "inclusion", value=p["inclusion"] * 2),
    "swapped": lambda p: _altered(p, "inclusion", value=p["inclusion"][::-1]),
    "checkpoint size": lambda p: _altered(
        p, "checkpoint", value=p["checkpoint"].replace("\n300\n", "\n301\n")
    ),
    "checkpoint unsigned": lambda p: _altered(
        p, "checkpoint", value=p["checkpoint"].partition("\n\n")[0]
    ),
    "format": lambda p: _altered(p, "format", value="something else"),
    "no event": lambda p: {name: part for name, part in p.items() if name != "event"},
    "huge position": lambda p: _altered(p, "event", "position", value=-1),
    "not an object": lambda p: [p],
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_script_refuses_each_kind_of_wrong_proof(
    kind: str, proof: Path, verifier_key: str, tmp_path: Path
) -> None:
    right = json.loads(proof.read_text())
    wrong = WRONG[kind](right)
    assert wrong != right
    proof.write_text(json.dumps(wrong))
    done = _offline(str(proof), "--key", verifier_key, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("NOT PROVED: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_script_refuses_a_checkpoint_that_another_key_has_signed(
    proof: Path, verifier_key: str, tmp_path: Path
) -> None:
    forger = signed_note.new_signer("cloud.example/images")
    right = json.loads(proof.read_text())
    text = right["checkpoint"].partition("\n\n")[0] + "\n"
    proof.write_text(json.dumps({**right, "checkpoint": forger.sign(text)}))
    assert _offline(str(proof), "--key", forger.verifier.text, folder=tmp_path).returncode == 0
    done = _offline(str(proof), "--key", verifier_key, folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "has not signed the checkpoint" in done.stderr


def test_the_script_refuses_a_proof_that_does_not_fit_the_auditors_own_checkpoint(
    proof: Path, data: str, verifier_key: str, tmp_path: Path
) -> None:
    signer = signed_note.read_signer((Path(data) / "audit.key").read_text())
    kept = tmp_path / "kept"
    kept.write_text(signer.sign(verify_proof.Checkpoint(signer.name, EVENTS, bytes(32)).text))
    options = (str(proof), "--key", verifier_key, "--checkpoint", str(kept))
    done = _offline(*options, folder=tmp_path)
    assert done.returncode == 1
    kept.write_text(json.loads(proof.read_text())["checkpoint"])
    assert _offline(*options, folder=tmp_path).returncode == 0
