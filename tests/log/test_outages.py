"""What the log promises when the database, the connection or the disk goes away."""

import asyncio
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import pytest
from eventsourcing.persistence import IntegrityError, Tracking

from calotype.stores.log.errors import LogUnavailable
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Replace
from tests.backends.postgres import Postgres

Gate = Callable[[GroupCommitRecorder], AbstractContextManager[None]]

PASSWORD = "S3cret%21word"
DECODED_PASSWORD = "S3cret!word"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server of our own, to be stopped and killed."""
    with Postgres(tmp_path_factory.mktemp("outages")) as server:
        yield server


@pytest.fixture
def on_server(server: Postgres, notes: ModuleType) -> Iterator[GroupCommitRecorder]:
    """A recorder on an empty database of that server, with a password in its URL."""
    name = f"outage_{uuid4().hex}"
    url = server.create_database(name).replace("postgres@", f"postgres:{PASSWORD}@")
    recorder = open_log(url)
    recorder.migrate()
    recorder.create_tables([notes.NOTES, notes.LINES])
    yield recorder
    recorder.close_now()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_commit_whose_reply_is_lost_is_recognised_and_written_once(
    postgres_url: str, notes: ModuleType, cutting: ModuleType, gate: Gate, moment: str
) -> None:
    """Cut before the server heard of it, or after it committed: nobody can tell which."""
    with cutting.CuttingLine(postgres_url) as line:
        recorder = open_log(line.url)
        recorder.migrate()
        recorder.create_tables([notes.NOTES, notes.LINES])
        notes.write(recorder, uuid4(), 1, "prepares the statements").result(10)
        ids = [uuid4() for _ in range(5)]

        def cut_now() -> list[Replace]:
            line.cut_next(moment)  # The writer asks for rows just before it writes the batch.
            rows: list[Replace] = notes.rows(ids[0], 1, "doubtful")
            return rows

        with gate(recorder):
            futures = [notes.submit(recorder, [notes.event(ids[0], 1, "doubtful")], cut_now)]
            futures += [notes.write(recorder, note, 1, "doubtful") for note in ids[1:]]
        positions = [future.result(20)[0] for future in futures]
        assert line.cuts == 1
        assert notes.write(recorder, uuid4(), 1, "goes on").result(10) == [7]
        recorder.close_now()
    reader = open_log(postgres_url)
    log = reader.select_notifications(1, 100)
    reader.close_now()
    assert [one.id for one in log] == list(range(1, 8))
    assert [log[position - 1].originator_id for position in positions] == ids


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_subscriber_whose_commit_lost_its_reply_has_moved_once(
    postgres_url: str, cutting: ModuleType, moment: str
) -> None:
    with cutting.CuttingLine(postgres_url) as line:
        recorder = open_log(line.url)
        recorder.migrate()
        recorder.insert_tracking(Tracking("feed", 1))
        line.cut_next(moment)
        recorder.insert_tracking(Tracking("feed", 2))
        assert line.cuts == 1
        assert recorder.max_tracking_id("feed") == 2
        with pytest.raises(IntegrityError):
            recorder.insert_tracking(Tracking("feed", 2))
        recorder.close_now()


def test_a_version_taken_by_another_while_the_connection_was_cut_is_a_conflict(
    postgres_url: str, notes: ModuleType, cutting: ModuleType
) -> None:
    """What stands in the log is another command's: it must not be taken for ours."""
    note = uuid4()
    with cutting.CuttingLine(postgres_url) as line:
        recorder, other = open_log(line.url), open_log(postgres_url)
        recorder.migrate()
        recorder.create_tables([notes.NOTES, notes.LINES])
        notes.write(recorder, uuid4(), 1, "connects").result(10)
        started, go_on = threading.Event(), threading.Event()

        def rows() -> list[object]:
            started.set()
            go_on.wait(10)
            return []

        ours = notes.submit(recorder, [notes.event(note, 1, "ours")], rows)
        assert started.wait(10)
        notes.write(other, note, 1, "theirs").result(10)
        line.cut_next("before")
        go_on.set()
        assert isinstance(ours.exception(20), IntegrityError)
        assert line.cuts == 1
        recorder.close_now()
        other.close_now()


@pytest.mark.parametrize("way", ["restart", "crash"])
async def test_everything_goes_on_after_the_server_comes_back(
    server: Postgres, on_server: GroupCommitRecorder, notes: ModuleType, way: str
) -> None:
    recorder = on_server
    seen: list[int] = []
    subscription = recorder.subscribe()

    def follow() -> None:
        with subscription:
            for one in subscription:
                seen.append(one.id)
                if one.id == 21:
                    return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    await asyncio.wrap_future(notes.write(recorder, uuid4(), 1, "before"))
    # Several connections idle in the pool, and all of them will be dead.
    await asyncio.gather(*(recorder.fetch("SELECT count(*) FROM notes") for _ in range(8)))
    await asyncio.to_thread(server.stop if way == "restart" else server.kill)
    waiting = [notes.write(recorder, uuid4(), 1, "written meanwhile") for _ in range(20)]
    with pytest.raises(LogUnavailable):
        await recorder.ping()
    await asyncio.to_thread(server.start)
    positions = [await asyncio.wrap_future(future) for future in waiting]
    assert positions == [[position] for position in range(2, 22)]
    answers = await asyncio.gather(
        *(recorder.fetch("SELECT count(*) FROM notes") for _ in range(16))
    )
    assert answers == [[(21,)]] * 16
    assert await recorder.hold_lease("sweep", "a", 5) == 1
    await recorder.ping()
    await asyncio.to_thread(thread.join, 10)
    assert seen == list(range(1, 22))


async def test_while_the_server_is_away_errors_say_so_soon_and_without_the_password(
    server: Postgres, on_server: GroupCommitRecorder, notes: ModuleType
) -> None:
    await asyncio.to_thread(server.stop)
    try:
        started = time.monotonic()
        errors = [
            notes.write(on_server, uuid4(), 1, "lost").exception(20),
            *await asyncio.gather(
                on_server.ping(), on_server.fetch("SELECT 1"), return_exceptions=True
            ),
        ]
        for call in (on_server.max_notification_id, on_server.migrate):
            with pytest.raises(LogUnavailable) as caught:
                call()
            errors.append(caught.value)
        assert time.monotonic() - started < 10
    finally:
        await asyncio.to_thread(server.start)
    for error in errors:
        assert isinstance(error, LogUnavailable)
        text = "".join(traceback.format_exception(error))
        assert PASSWORD not in text
        assert DECODED_PASSWORD not in text
    assert on_server.max_notification_id() is None


def test_a_full_disk_fails_what_is_written_and_nothing_else(
    tmp_path: Path, notes: ModuleType
) -> None:
    """No file of the process may grow for a while: SQLite really cannot write."""
    script = Path(__file__).with_name("notes.py")
    url = f"sqlite:///{tmp_path / 'log.sqlite'}"
    child = subprocess.run(
        [sys.executable, str(script), url, "full"],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    failures = int(child.stdout.removeprefix("failures "))
    assert 0 < failures < 100
    recorder = open_log(url)
    log = recorder.select_notifications(1, 1000)
    assert [one.id for one in log] == list(range(1, 100 - failures + 3))
    texts = [row[0] for row in recorder.fetch_now("SELECT text FROM notes")]
    assert sorted(map(len, texts)) == [5, 6] + [20_000] * (100 - failures)
    recorder.close_now()
