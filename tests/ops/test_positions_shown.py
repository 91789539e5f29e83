"""Positions have one form: what one command prints is what the others take."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from calotype.commands.context import cause_of
from calotype.commands.images.metadata import create_image
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import DEFAULT_POLICY
from calotype.ops.cli.main import app
from calotype.ops.settings.settings import Settings, load_settings
from calotype.ops.wiring.audit_key import make_key
from calotype.ops.wiring.composition import migrate, parts_of, recorder_of, versions_follower
from calotype.projections.engine.positions import positions_now
from calotype.projections.seal.seal import sealer

POSITION = re.compile("p[0-9a-f]{12}-[0-9a-f]+")
EVENTS = 0x46
"""The event whose position ends in -46 is not the 46th."""


def run(*arguments: str) -> Any:
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, list(arguments), catch_exceptions=False)


async def _fill(settings: Settings) -> str:
    """Makes images, and all tables of them; the log's last position."""
    recorder = recorder_of(settings)
    parts, actor = (
        parts_of(settings, recorder),
        Actor("ann", "p1", frozenset({"member"}), policy=DEFAULT_POLICY),
    )
    for number in range(EVENTS):
        cause = cause_of(actor, f"req-{number}")
        await create_image(parts, actor, cause, {"name": f"image {number}"})
    await versions_follower(parts).catch_up()
    await sealer(recorder, make_key(settings), "test").catch_up()
    last = positions_now(recorder).encode(EVENTS)
    await recorder.close()
    return last


@pytest.fixture
def log(tmp_path: Path) -> tuple[str, str]:
    """The data directory of a log, and its last position."""
    settings = load_settings(None, data=str(tmp_path / "data"))
    recorder = recorder_of(settings)
    migrate(recorder)
    recorder.close_now()
    return settings.data, asyncio.run(_fill(settings))


def test_what_is_proved_is_what_the_log_shows_at_that_position(
    log: tuple[str, str], tmp_path: Path
) -> None:
    data, last = log
    assert last.endswith("-46")
    shown = run("log", "tail", "-n", "1", "--data", data).stdout.split()
    position, time, kind, image, who = shown
    assert position == last
    done = run("audit", "prove", position, "--out", str(tmp_path / "proof"), "--data", data)
    assert done.stdout.splitlines()[0] == (
        f"{position}  {kind}, version 1 of {image}, by {who} at {time}"
    )
    event = json.loads(run("log", "show", position, "--data", data).stdout)
    assert (event["id"], event["subject"]) == (position, image)
    for number in ("46", "70"):
        refused = run("audit", "prove", number, "--out", str(tmp_path / "no"), "--data", data)
        assert refused.exit_code == 2
        assert "is not a position that this service gave out" in refused.stderr


def test_every_command_that_tells_a_position_tells_its_text(log: tuple[str, str]) -> None:
    data, last = log
    assert last in run("status", "--data", data).stdout
    assert last in run("projections", "status", "--data", data).stdout
    listed = run("projections", "list", "--json", "--data", data).stdout.splitlines()
    for line in map(json.loads, listed):
        assert POSITION.fullmatch(line["position"]), line
    built = run("projections", "rebuild", "images", "--no-switch", "--json", "--data", data)
    assert json.loads(built.stdout)["built_at"] == last
    (line,) = [
        line
        for line in map(
            json.loads, run("projections", "list", "--json", "--data", data).stdout.splitlines()
        )
        if line["projection"] == "images"
    ]
    assert line["built"]["position"] == last
    switched = run("projections", "switch", "images", "--data", data).stdout
    assert f"switched at position {last}" in switched
