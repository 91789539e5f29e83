"""`calotype log`: what is exported can be imported, whole or after an interruption, and is same."""

import asyncio
import json
import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from calotype.commands.images.image import create
from calotype.commands.policy.actor import Cause
from calotype.ops.cli.main import app
from calotype.ops.jobs import log_import
from calotype.ops.settings.settings import SettingsError
from calotype.ops.wiring.composition import migrate
from calotype.projections.engine.positions import positions_now
from calotype.projections.images.rows import rows_of
from calotype.projections.images.tables import TABLES
from calotype.stores.log.log import EventLog
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder

Run = Callable[..., Any]
FIELDS = {
    "name": None,
    "visibility": "private",
    "owner": "p1",
    "protected": False,
    "os_hidden": False,
    "disk_format": None,
    "container_format": None,
    "min_disk": 0,
    "min_ram": 0,
}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.sqlite'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def recorder(log_url: str) -> Iterator[GroupCommitRecorder]:
    recorder = open_log(log_url)
    migrate(recorder)
    asyncio.run(tell_stories(EventLog(recorder, rows_of)))
    yield recorder
    recorder.close_now()


@pytest.fixture
def new_url(tmp_path: Path) -> str:
    """An empty log to import into."""
    return f"sqlite:///{tmp_path / 'new.sqlite'}"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `calotype log` with these arguments; what it raises is raised."""

    def go(url: str, *arguments: str) -> Any:
        options = ["--log-url", url, "--data", str(tmp_path)]
        verb, *rest = arguments
        return CliRunner().invoke(app, ["log", verb, *options, *rest], catch_exceptions=False)

    return go


def cause(number: int) -> Cause:
    return Cause(
        {"user": f"ü{number}", "project": "p1", "roles": ["member"]}, f"req-{number}", None, "c"
    )


async def tell_stories(log: EventLog, images: int = 12, changes: int = 80) -> None:
    """The lives of some images, interleaved."""
    chance = random.Random(7)
    fields = {**FIELDS, "name": 'quo"te\n☃', "visibility": "shared"}
    ids = [uuid.UUID(int=chance.getrandbits(128), version=4) for _ in range(images)]
    for number, image_id in enumerate(ids):
        await log.create(
            create(
                cause(number),
                image_id=str(image_id),
                fields=fields,
                tags=["a", "b"],
                properties={"k": "v" * number},
            )
        )
    for number in range(changes):
        image_id = chance.choice(ids)
        # Every wish is of an image that has not been deleted: those go last.
        wish = chance.choice(("tag", "member", "property"))
        if wish == "tag":
            await log.change(
                image_id, lambda _: None, lambda i, n=number: i.add_tag(cause(n), f"t{n}")
            )
        elif wish == "member":
            await log.change(
                image_id, lambda _: None, lambda i, n=number: i.add_member(cause(n), f"m{n}")
            )
        else:
            await log.change(
                image_id,
                lambda _: None,
                lambda i, n=number: i.update(
                    cause(n), fields={}, properties={f"p{n}": "1"}, removed_properties=[], tags=None
                ),
            )
    for image_id in ids[:3]:
        await log.change(image_id, lambda _: None, lambda i: i.delete(cause(0)))


def everything(recorder: GroupCommitRecorder) -> list[Any]:
    """The stored events and all rows that are read by the API, in an order that is told."""
    content: list[Any] = [
        [(str(n.originator_id), n.originator_version, n.topic, bytes(n.state), n.id)]
        for n in recorder.select_notifications(1, 100_000)
    ]
    for table in TABLES:
        rows = recorder.fetch_now(f"SELECT * FROM {table.name}")
        booleans = [n for n, column in enumerate(table.columns) if column.kind == "boolean"]
        made = [
            tuple(bool(v) if n in booleans else str(v) for n, v in enumerate(row)) for row in rows
        ]
        content.append(sorted(made))
    return content


def opened(url: str) -> GroupCommitRecorder:
    recorder = open_log(url)
    migrate(recorder)
    return recorder


def test_an_export_makes_the_same_events_and_rows_in_an_empty_log(
    recorder: GroupCommitRecorder,
    run: Run,
    log_url: str,
    new_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Small pages and a small memory, so that images are met again after they were forgotten.
    monkeypatch.setattr(log_import, "PAGE_EVENTS", 7)
    monkeypatch.setattr(log_import, "CACHED_IMAGES", 2)
    file = tmp_path / "log.ndjson"
    assert run(log_url, "export", str(file)).exit_code == 0
    assert run(new_url, "import", str(file)).exit_code == 0
    copy = opened(new_url)
    assert everything(copy) == everything(recorder)
    assert len(everything(copy)[-len(TABLES)]) == 9
    again = tmp_path / "again.ndjson"
    assert run(new_url, "export", str(again)).exit_code == 0
    assert positions_now(copy) != positions_now(recorder)
    with pytest.raises(SettingsError, match="not empty"):
        run(new_url, "import", str(file))
    copy.close_now()


def test_an_import_from_sqlite_into_either_log_and_back_is_the_same(
    log_url: str, run: Run, tmp_path: Path
) -> None:
    source_url = f"sqlite:///{tmp_path / 'source.sqlite'}"
    source = opened(source_url)
    asyncio.run(tell_stories(EventLog(source, rows_of), images=4, changes=10))
    file, back = tmp_path / "a", tmp_path / "b"
    run(source_url, "export", str(file))
    assert run(log_url, "import", str(file), "--keep-identity").exit_code == 0
    assert run(log_url, "export", str(back)).exit_code == 0
    # With the identity kept, positions that the old log gave out go on to be valid.
    assert back.read_bytes() == file.read_bytes()
    source.close_now()


def test_an_import_that_was_cut_short_goes_on_where_it_was(
    recorder: GroupCommitRecorder,
    run: Run,
    log_url: str,
    new_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_import, "PAGE_EVENTS", 10)
    file, half = tmp_path / "log.ndjson", tmp_path / "half.ndjson"
    run(log_url, "export", str(file))
    lines = file.read_bytes().splitlines(keepends=True)
    # A file that ends in the middle of a line, as after a full disk.
    half.write_bytes(b"".join(lines[:24]) + lines[24][:30])
    with pytest.raises(SettingsError, match="line 25"):
        run(new_url, "import", str(half))
    other = lines[0].replace(b'"k":""', b'"k":"other"')
    assert other != lines[0]
    changed = tmp_path / "changed.ndjson"
    changed.write_bytes(other + b"".join(lines[1:]))
    with pytest.raises(SettingsError, match="line 1: the log has another event"):
        run(new_url, "import", str(changed), "--resume")
    assert run(new_url, "import", str(file), "--resume").exit_code == 0
    copy = opened(new_url)
    assert everything(copy) == everything(recorder)
    copy.close_now()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: lines[1:], "-1 is missing; an import"),
        (lambda lines: lines[:3] + lines[4:], "-4 is missing; an import"),
        (lambda lines: [*lines[:2], b"nonsense\n"], "line 3: is not an event"),
        (lambda lines: [*lines[:2], b"[]\n"], "line 3: is not an event"),
        (lambda lines: [*lines[:2], b'{"position":"p0"}\n'], "line 3: is not an event"),
        (lambda lines: [lines[0].replace(b"image.created", b"image.exploded")], "no event type"),
        (lambda lines: [lines[0].replace(b'"version":1', b'"version":2')], "cannot be applied"),
        (lambda lines: [lines[0].replace(b'"fields"', b'"felds"')], "cannot be applied"),
        (lambda lines: [lines[0], lines[1].replace(b'"position":"p', b'"position":"pf')], "line 2"),
    ],
    ids=["start", "gap", "text", "array", "keys", "type", "version", "field", "key"],
)
def test_a_file_that_is_no_whole_log_is_refused_with_the_line(
    run: Run, new_url: str, tmp_path: Path, spoil: Any, message: str
) -> None:
    source_url = f"sqlite:///{tmp_path / 'source.sqlite'}"
    source = opened(source_url)
    asyncio.run(tell_stories(EventLog(source, rows_of), images=4, changes=2))
    source.close_now()
    file = tmp_path / "log.ndjson"
    run(source_url, "export", str(file))
    file.write_bytes(b"".join(spoil(file.read_bytes().splitlines(keepends=True))))
    with pytest.raises(SettingsError) as refused:
        run(new_url, "import", str(file))
    assert message in str(refused.value)


def test_nothing_is_imported_while_a_process_serves(
    recorder: GroupCommitRecorder, run: Run, log_url: str, new_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "log.ndjson"
    run(log_url, "export", str(file))
    busy = opened(new_url)
    asyncio.run(busy.hold_lease("process:x", "x", 30))
    with pytest.raises(SettingsError, match="processes serve"):
        run(new_url, "import", str(file))
    assert busy.max_notification_id() is None
    busy.close_now()


def test_an_export_of_a_part_and_as_cloudevents(
    recorder: GroupCommitRecorder, run: Run, log_url: str, tmp_path: Path
) -> None:
    positions = positions_now(recorder)
    file = tmp_path / "part.json"
    part = ("--from", positions.encode(5), "--to", positions.encode(9))
    assert run(log_url, "export", str(file), *part, "--cloudevents").exit_code == 0
    events = json.loads(file.read_text())
    assert [event["id"] for event in events] == [positions.encode(n) for n in range(5, 10)]
    assert {event["specversion"] for event in events} == {"1.0"}
    done = run(log_url, "export", "-", *part)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["position"] for line in lines] == [event["id"] for event in events]
    refused = run(log_url, "export", "-", "--from", "p000000000000-1")
    assert (refused.exit_code, "'--from' is a position of another" in refused.stderr) == (2, True)


def test_a_file_that_cannot_be_written_whole_is_not_there(
    recorder: GroupCommitRecorder, run: Run, log_url: str
) -> None:
    with pytest.raises(SettingsError, match="cannot be written"):
        run(log_url, "export", "/proc/export.ndjson")


def test_an_empty_log_exports_nothing_and_imports_nothing(
    run: Run, new_url: str, tmp_path: Path
) -> None:
    opened(new_url).close_now()
    file = tmp_path / "empty"
    assert run(new_url, "export", str(file)).exit_code == 0
    assert file.read_bytes() == b""
    assert run(f"sqlite:///{tmp_path / 'x.sqlite'}", "import", str(file)).exit_code == 0
    assert run(new_url, "export", str(file), "--cloudevents").exit_code == 0
    assert json.loads(file.read_text()) == []


def test_tail_and_show_tell_the_last_events(
    recorder: GroupCommitRecorder, run: Run, log_url: str
) -> None:
    done = run(log_url, "tail", "-n", "2")
    lines = done.stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["image.deleted"] * 2
    assert "ü0@p1" in lines[-1]
    position = lines[-1].split()[0]
    event = json.loads(run(log_url, "show", position).stdout)
    assert (event["id"], event["type"]) == (position, "org.calotype.image.deleted")
    done = run(log_url, "tail", "-n", "3", "--type", "image.created", "--json")
    assert [json.loads(line)["data"]["version"] for line in done.stdout.splitlines()] == [1, 1, 1]
    for wrong, text in (
        (("show", "p1"), "POSITION"),
        (("show", positions_now(recorder).encode(9999)), "no event at"),
        (("tail", "--type", "x"), "--type"),
        (("tail", "--follow", "-o", "table"), "--follow"),
    ):
        refused = run(log_url, *wrong)
        assert (refused.exit_code, text in refused.stderr) == (2, True), refused.stderr
        assert refused.stderr.startswith("Usage: ")


@pytest.mark.slow
def test_tail_follows_what_other_processes_append(
    recorder: GroupCommitRecorder, log_url: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "calotype.ops", "log", "tail", "-f", "-n", "1"]
    process = subprocess.Popen(
        [*command, "--log-url", log_url, "--data", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        assert "image.deleted" in process.stdout.readline()
        asyncio.run(tell_stories_again(recorder))
        assert "image.created" in process.stdout.readline()
    finally:
        process.terminate()
        process.wait(30)


async def tell_stories_again(recorder: GroupCommitRecorder) -> None:
    image = create(cause(1), image_id=str(uuid.uuid4()), fields=FIELDS, tags=[], properties={})
    await EventLog(recorder, rows_of).create(image)


@pytest.mark.parametrize("verb", ["tail", "show", "export", "import", "catalogue"])
def test_every_verb_explains_itself(verb: str) -> None:
    done = CliRunner().invoke(app, ["log", verb, "--help"])
    assert (done.exit_code, "Usage" in done.stdout) == (0, True)
