"""What verbs print: whole ids in plain columns off a terminal, and every format on every verb."""

import asyncio
import csv
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from calotype.commands.context import cause_of
from calotype.commands.images.metadata import create_image
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import DEFAULT_POLICY
from calotype.ops.cli.main import app
from calotype.ops.settings.settings import load_settings
from calotype.ops.wiring.composition import migrate, parts_of, recorder_of

SILENT = {"serve", "worker", "log export", "log import", "log catalogue", "audit script"}
"""Verbs that print nothing, or a document of one form only."""
NAME = "[bold]a name of " + "x" * 200
USER = "an\x1b[2Jn"


@pytest.fixture
def image(tmp_path: Path) -> str:
    """An image in a log in `tmp_path`, with a name that is long and looks like markup."""
    settings = load_settings(None, data=str(tmp_path))
    recorder = recorder_of(settings)
    migrate(recorder)
    actor = Actor(USER, "p1", frozenset({"member"}), policy=DEFAULT_POLICY)

    async def make() -> str:
        parts = parts_of(settings, recorder)
        made = await create_image(parts, actor, cause_of(actor, "req-1"), {"name": NAME})
        await recorder.close()
        return str(made.id)

    return asyncio.run(make())


def run(*arguments: str) -> Any:
    return CliRunner(env={"COLUMNS": "40"}).invoke(app, list(arguments), catch_exceptions=False)


def _as_process(*arguments: str) -> Any:
    """For a verb that sets up the log of its process, which here would be that of all tests."""
    command = [sys.executable, "-m", "calotype.ops", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def verbs(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every verb with its whole name."""
    for name, inner in getattr(command, "commands", {}).items():
        whole = f"{path} {name}".strip()
        yield from verbs(inner, whole) if hasattr(inner, "commands") else [(whole, inner)]


def test_every_verb_that_prints_takes_an_output_and_every_verb_the_settings() -> None:
    found = dict(verbs(get_command(app)))
    assert len(found) > 40
    for name, command in found.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--output" in options) == (name not in SILENT), name
        assert ("-o" in options) == ("--json" in options) == (name not in SILENT), name
        documents = ("worker", "log catalogue", "audit script")
        assert ("--log-url" in options) == (name not in documents), name


def test_off_a_terminal_ids_are_whole_and_a_row_is_a_line(image: str, tmp_path: Path) -> None:
    done = run("history", image, "--data", str(tmp_path))
    (line,) = done.stdout.splitlines()
    for text in (NAME, "an?[2Jn of p1", "req-1"):
        assert text in line
    (line,) = run("log", "tail", "--data", str(tmp_path)).stdout.splitlines()
    assert line.split()[2:] == ["image.created", image, "an?[2Jn@p1"]
    table = run("log", "tail", "-o", "table", "--data", str(tmp_path)).stdout
    assert image in table
    assert "position" in table


def test_all_formats_tell_the_same(image: str, tmp_path: Path) -> None:
    def printed(form: str) -> str:
        return str(run("history", image, "-o", form, "--data", str(tmp_path)).stdout)

    (change,) = map(json.loads, printed("json").splitlines())
    assert change["type"] == "image.created"
    assert list(yaml.safe_load_all(printed("yaml"))) == [change]
    (row,) = csv.DictReader(printed("csv").splitlines(keepends=True))
    assert (row["time"], row["request"]) == (change["time"], "req-1")
    assert run("history", image, "--json", "--data", str(tmp_path)).stdout == printed("json")
    assert run("history", image, "-o", "xml", "--data", str(tmp_path)).exit_code == 2


def test_older_spellings_of_a_range_are_taken_and_not_shown(image: str, tmp_path: Path) -> None:
    event = json.loads(run("log", "tail", "--json", "--data", str(tmp_path)).stdout)
    at = event["id"]
    for option in ("--until", "--to"):
        done = run("log", "export", "-", "--from", at, option, at, "--data", str(tmp_path))
        assert json.loads(done.stdout.splitlines()[0])["position"] == at
    first = run("history", image, "--from", at, "--json", "--data", str(tmp_path)).stdout
    assert json.loads(first)["position"] == at
    after = run("history", image, "--after", at, "--json", "--data", str(tmp_path))
    assert (after.exit_code, after.stdout) == (0, "")
    for verb in (("log", "export"), ("restorable",), ("restore",), ("history",)):
        shown = run(*verb, "-h").stdout
        assert "--until" in shown or verb == ("history",)
        assert "--to " not in shown
        assert "--after" not in shown
    late = ("--until", "2000-01-01T00:00:00Z"), ("--to", "yesterday")
    assert run("restorable", *late[0], "--data", str(tmp_path)).exit_code == 0
    refused = run("restorable", *late[1], "--data", str(tmp_path))
    assert (refused.exit_code, "Invalid value for --until" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_on_a_terminal_rows_are_a_table(image: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "calotype.ops", "history", image, "--data", str(tmp_path)]
    done = subprocess.run(command, stdout=theirs, timeout=60, env={**os.environ, "COLUMNS": "90"})
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "┃" in shown
    assert "\x1b[2J" not in shown


def test_help_keeps_brackets_and_knows_its_short_form() -> None:
    shown = run("sinks", "parked", "-h").stdout
    assert "[sinks.SINK]" in shown
    assert shown == run("sinks", "parked", "--help").stdout
    assert run("--version").stdout.startswith("calotype 0.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "completed"), [("calotype pro", "projections"), ("calotype status -o y", "yaml")]
)
def test_the_shell_completes_verbs_and_formats(words: str, completed: str) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("calotype"))],
        env={
            **os.environ,
            "_CALOTYPE_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == [completed], done.stderr


def test_usage_errors_show_the_usage_and_name_the_field(image: str, tmp_path: Path) -> None:
    for arguments, field in (
        (("log", "show", "nonsense"), "POSITION"),
        (("restore",), "IMAGES"),
        (("projections", "verify", "pictures"), "NAMES"),
        (("consumers", "redeliver", "c"), "POSITIONS"),
        (("replay", "--fail-if-any"), "--policy"),
        (("audit", "verify", "--key", "nonsense"), "--key"),
    ):
        done = run(*arguments, "--data", str(tmp_path))
        assert done.exit_code == 2, arguments
        assert done.stderr.startswith("Usage: ")
        assert field in done.stderr, done.stderr


def test_a_dry_run_of_reconcile_speaks_of_what_would_be(image: str, tmp_path: Path) -> None:
    stray = tmp_path / "images" / "stray"
    stray.write_bytes(b"?")
    options = ("--grace-seconds", "-5", "--data", str(tmp_path))
    done = _as_process("reconcile", "--dry-run", *options)
    finding, summary = done.stdout.splitlines()
    assert finding.split() == ["orphan", f"file://{stray}"]
    assert summary.startswith("would remove 1, would leave 0 recent ones alone")
    assert stray.exists()
    *_, counts = map(json.loads, _as_process("reconcile", "--json", *options).stdout.splitlines())
    assert (counts["summary"]["dry_run"], counts["summary"]["removed"]) == (False, 1)
    assert not stray.exists()
