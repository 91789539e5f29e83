"""Positions: without gaps, in commit order, and what is acknowledged is there for good."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from eventsourcing.persistence import Notification

from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder

SCRIPT = Path(__file__).with_name("notes.py")
Acknowledged = dict[int, tuple[UUID, int]]


@contextmanager
def open_log_for(url: str) -> Iterator[GroupCommitRecorder]:
    """A recorder that is closed at the end of `with`."""
    recorder = open_log(url)
    yield recorder
    recorder.close_now()


def _start(log_url: str, count: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), log_url, str(count)], stdout=subprocess.PIPE, text=True
    )


def _acknowledged(lines: Iterator[str] | list[str]) -> Acknowledged:
    """By position: what a process said was written. A kill may cut the last line short."""
    found: Acknowledged = {}
    for line in lines:
        if line.endswith("\n"):
            note, version, position = line.split()
            assert int(position) not in found
            found[int(position)] = (UUID(note), int(version))
    return found


def _whole_log(recorder: GroupCommitRecorder) -> list[Notification]:
    log: list[Notification] = []
    while page := recorder.select_notifications(len(log) + 1, 500):
        log += page
    return list(log)


def _check_rows_are_the_fold(recorder: GroupCommitRecorder, log: list[Notification]) -> None:
    expected: dict[str, tuple[str, int]] = {}
    for one in log:
        text = orjson.loads(one.state)["text"]
        expected[str(one.originator_id)] = (text, one.originator_version)
    rows = recorder.fetch_now("SELECT id, text, version FROM notes")
    assert {str(row[0]): (row[1], row[2]) for row in rows} == expected
    lines = recorder.fetch_now("SELECT note, line FROM note_lines ORDER BY note, number")
    kept: dict[str, list[str]] = {}
    for note, line in lines:
        kept.setdefault(str(note), []).append(line)
    assert {note: "\n".join(parts) for note, parts in kept.items()} == {
        note: text for note, (text, _) in expected.items()
    }


def test_a_reader_misses_nothing_while_threads_and_processes_write(
    log_url: str, recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    """Three processes with eight writers each, two threads here, one reader that tails."""
    per_process = notes.WRITERS * notes.VERSIONS * 5
    expected = 3 * per_process + 2 * 100
    seen: list[Notification] = []

    def tail() -> None:
        with open_log_for(log_url) as reader, reader.subscribe() as subscription:
            for one in subscription:
                seen.append(one)
                if len(seen) == expected:
                    return

    def write_here() -> None:
        for _ in range(100):
            recorder.insert_events([notes.event(uuid4(), 1, "from a thread")])

    reader = threading.Thread(target=tail, daemon=True)
    reader.start()
    children = [_start(log_url, 5) for _ in range(3)]
    threads = [threading.Thread(target=write_here) for _ in range(2)]
    for thread in threads:
        thread.start()
    acknowledged: Acknowledged = {}
    for child in children:
        acknowledged |= _acknowledged(child.communicate(timeout=60)[0].splitlines(keepends=True))
        assert child.returncode == 0
    reader.join(30)
    assert [one.id for one in seen] == list(range(1, expected + 1))
    assert len(acknowledged) == 3 * per_process
    by_position = {one.id: (one.originator_id, one.originator_version) for one in seen}
    assert acknowledged.items() <= by_position.items()
    versions: dict[object, int] = {}
    for one in seen:
        assert one.originator_version == versions.get(one.originator_id, 0) + 1
        versions[one.originator_id] = one.originator_version


def test_kill_minus_nine_loses_nothing_that_was_acknowledged(
    log_url: str, recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    acknowledged: Acknowledged = {}
    for _ in range(3):
        child = _start(log_url, 0)
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(400)]
        child.kill()
        lines += child.stdout.readlines()
        child.wait(10)
        acknowledged |= _acknowledged(lines)
    # Waits for the lock, and so for a commit that the killed process had sent already.
    notes.write(recorder, uuid4(), 1, "after the kills").result(30)
    log = _whole_log(recorder)
    assert [one.id for one in log] == list(range(1, len(log) + 1))
    by_position = {one.id: (one.originator_id, one.originator_version) for one in log}
    assert len(acknowledged) >= 3 * 399
    assert acknowledged.items() <= by_position.items()
    _check_rows_are_the_fold(recorder, log)


def test_many_processes_can_migrate_create_tables_and_append_at_once(
    log_url: str, notes: ModuleType
) -> None:
    with ExitStack() as stack:
        children = [stack.enter_context(_start(log_url, 1)) for _ in range(6)]
        acknowledged: Acknowledged = {}
        for child in children:
            acknowledged |= _acknowledged(child.communicate(timeout=60)[0].splitlines(True))
            assert child.returncode == 0
    with open_log_for(log_url) as recorder:
        assert recorder.migrate() == []
        assert recorder.pending_migrations() == []
        log = _whole_log(recorder)
        assert sorted(acknowledged) == [one.id for one in log]
        assert len(log) == 6 * notes.WRITERS * notes.VERSIONS
        _check_rows_are_the_fold(recorder, log)


def test_migrate_says_what_it_did_and_pending_what_it_would_do(log_url: str) -> None:
    with open_log_for(log_url) as recorder:
        pending = recorder.pending_migrations()
        assert pending[0] == "0001_log"
        assert recorder.migrate() == pending
        assert recorder.pending_migrations() == []
        assert recorder.migrate() == []


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_the_isolation_that_a_database_defaults_to_does_not_disturb_positions(
    postgres_url: str, notes: ModuleType, isolation: str
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = postgres_url.rpartition("/")[2]
        connection.execute(
            f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{isolation}'"
        )
    with open_log_for(postgres_url) as one, open_log_for(postgres_url) as two:
        one.migrate()
        one.create_tables([notes.NOTES, notes.LINES])
        futures = []
        for _ in range(200):
            futures += [notes.write(log, uuid4(), 1, "x") for log in (one, two)]
        positions = sorted(future.result(30)[0] for future in futures)
    assert positions == list(range(1, 401))
