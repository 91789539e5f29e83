"""What the log promises when the database is there, and does not answer."""

import asyncio
import concurrent.futures
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from calotype.stores.log.errors import LogUnavailable
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Replace
from tests.backends.postgres import Postgres

Gate = Callable[[GroupCommitRecorder], AbstractContextManager[None]]

BATCH_SECONDS, CONNECT_SECONDS = 1.0, 2
BOUND_SECONDS = 3 * BATCH_SECONDS + CONNECT_SECONDS + 2.0
"""Three transactions' time, one to connect, and the pauses of a busy machine."""


@contextmanager
def _running() -> Iterator[Postgres]:
    """Not below pytest's own folder: other runs of the same user may take that away."""
    with tempfile.TemporaryDirectory(prefix="calotype-") as folder:
        with Postgres(Path(folder)) as server:
            yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server of our own, to be frozen."""
    with _running() as server:
        yield server


@pytest.fixture
def url(server: Postgres) -> str:
    return server.create_database(f"hang_{uuid4().hex}")


@pytest.fixture
def on_server(url: str, notes: ModuleType) -> Iterator[GroupCommitRecorder]:
    """A recorder with short times on an empty database of that server, connected."""
    recorder = open_log(url, batch_seconds=BATCH_SECONDS, connect_seconds=CONNECT_SECONDS)
    recorder.migrate()
    recorder.create_tables([notes.NOTES, notes.LINES])
    notes.write(recorder, uuid4(), 1, "connects").result(10)
    yield recorder
    recorder.close_now()


@contextmanager
def frozen(server: Postgres) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


@contextmanager
def without_standby(server: Postgres) -> Iterator[None]:
    """Commits wait for a standby that never comes."""

    def named(names: str) -> None:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("SET synchronous_commit = 'local'")
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
            while connection.execute("SHOW synchronous_standby_names").fetchone() != (names,):
                connection.execute("SELECT pg_reload_conf()")
                time.sleep(0.05)

    named("nowhere")
    try:
        yield
    finally:
        named("")


def _events(recorder: GroupCommitRecorder) -> list[tuple[int, Any, int]]:
    """What stands in the log, as `(position, note, version)`."""
    found = recorder.select_notifications(1, 1000)
    return [(one.id, one.originator_id, one.originator_version) for one in found]


def _sessions(server: Postgres) -> int:
    with psycopg.connect(server.url()) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'calotype'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_writes_to_a_frozen_database_end_in_time_and_none_is_lost_or_doubled(
    server: Postgres, on_server: GroupCommitRecorder, notes: ModuleType
) -> None:
    ids = [uuid4() for _ in range(20)]
    with frozen(server):
        started = time.monotonic()
        futures = [notes.write(on_server, note, 1, "hangs") for note in ids]
        errors = [future.exception(2 * BOUND_SECONDS) for future in futures]
        assert time.monotonic() - started < 2 * BOUND_SECONDS
    assert all(isinstance(error, LogUnavailable) for error in errors)
    again = [notes.write(on_server, note, 1, "again") for note in ids]
    results = [future.exception(10) for future in again]
    # Each stands once, by the first try (which nobody could tell was done) or by the second.
    log = _events(on_server)
    assert [position for position, _, _ in log] == list(range(1, 22))
    assert sorted(note for _, note, _ in log[1:]) == sorted(ids)
    assert len(results) == 20


def test_what_a_frozen_database_did_after_all_is_recognised_when_it_thaws(
    server: Postgres, on_server: GroupCommitRecorder, notes: ModuleType, gate: Gate
) -> None:
    """The old session goes on with the batch while the new one asks what became of it."""
    ids = [uuid4() for _ in range(20)]
    frozen_now = threading.Event()

    def freeze_now() -> list[Replace]:
        server.freeze()  # The writer asks for rows just before it writes the batch.
        frozen_now.set()
        return []

    try:
        with gate(on_server):
            futures = [notes.submit(on_server, [notes.event(ids[0], 1, "hangs")], freeze_now)]
            futures += [notes.write(on_server, note, 1, "hangs") for note in ids[1:]]
        assert frozen_now.wait(10)
        # The writer has given the first connection up when it waits for a second one.
        time.sleep(BATCH_SECONDS + 0.5)
        assert not any(future.done() for future in futures)
    finally:
        server.thaw()
    assert [future.result(BOUND_SECONDS) for future in futures] == [[n] for n in range(2, 22)]
    log = _events(on_server)
    assert [note for _, note, _ in log[1:]] == ids
    assert notes.write(on_server, uuid4(), 1, "goes on").result(10) == [22]


async def test_whatever_asks_a_frozen_database_is_answered_in_time(
    server: Postgres, on_server: GroupCommitRecorder
) -> None:
    """Warm connections of each kind: all of them hang at once."""
    recorder = on_server
    await asyncio.gather(*(recorder.fetch("SELECT 1") for _ in range(8)))
    await recorder.transact("name", lambda fetch: fetch("SELECT 1"))
    await recorder.hold_lease("sweep", "a", 5)
    calls: dict[str, Callable[[], Any]] = {
        "reads": lambda: asyncio.gather(*(recorder.fetch("SELECT 1") for _ in range(20))),
        "ping": recorder.ping,
        "lease": lambda: recorder.hold_lease("sweep", "a", 5),
        "leases": lambda: recorder.live_leases(""),
        "release": lambda: recorder.release_lease("sweep", "a"),
        "transaction": lambda: recorder.transact("name", lambda fetch: fetch("SELECT 1")),
        "tool": lambda: asyncio.to_thread(recorder.fetch_now, "SELECT 1"),
        "events": lambda: asyncio.to_thread(recorder.select_notifications, 1, 10),
        "migration": lambda: asyncio.to_thread(recorder.migrate),
    }
    with frozen(server):
        started = time.monotonic()
        outcomes = await asyncio.gather(
            *(asyncio.wait_for(call(), 60) for call in calls.values()), return_exceptions=True
        )
        # Those that share one connection, as tools do, wait for each other.
        assert time.monotonic() - started < 3 * BOUND_SECONDS
    for name, outcome in zip(calls, outcomes, strict=True):
        assert isinstance(outcome, LogUnavailable), name
    for call in calls.values():
        await call()


def test_a_statement_may_take_long_as_long_as_the_server_answers_others(
    on_server: GroupCommitRecorder,
) -> None:
    seconds = 2.5 * BATCH_SECONDS
    rows = on_server.fetch_now("SELECT 1 FROM pg_sleep(:seconds)", {"seconds": seconds})
    assert rows == [(1,)]
    with on_server.snapshot() as fetch:
        assert fetch("SELECT 1 FROM pg_sleep(:seconds)", {"seconds": seconds}) == [(1,)]


def test_a_subscriber_goes_on_when_the_database_thaws(
    server: Postgres, on_server: GroupCommitRecorder, notes: ModuleType
) -> None:
    seen: list[int] = []
    subscription = on_server.subscribe()

    def follow() -> None:
        with subscription:
            for one in subscription:
                seen.append(one.id)
                if one.id == 6:
                    return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    with frozen(server):
        time.sleep(2 * BATCH_SECONDS + CONNECT_SECONDS)
    for number in range(2, 7):
        assert notes.write(on_server, uuid4(), 1, "x").result(BOUND_SECONDS) == [number]
    thread.join(10)
    assert seen == [1, 2, 3, 4, 5, 6]


async def test_trouble_is_told_while_it_lasts(
    server: Postgres, on_server: GroupCommitRecorder, notes: ModuleType
) -> None:
    assert await on_server.trouble() is None
    with frozen(server):
        started = time.monotonic()
        reason = await on_server.trouble()
        assert reason is not None
        assert time.monotonic() - started < BATCH_SECONDS
        write = notes.write(on_server, uuid4(), 1, "hangs")
        await asyncio.sleep(BATCH_SECONDS)
        assert "has waited for" in (await on_server.trouble() or "")
        await asyncio.wait([asyncio.wrap_future(write)])
        assert await on_server.trouble() is not None
    # Nobody writes for a client: the lease, which every process renews, shows that all is well.
    while await on_server.hold_lease("process:a", "a", 5) is None:
        pass
    assert await on_server.trouble() is None


async def test_trouble_is_told_while_commits_wait_for_a_standby(
    server: Postgres, on_server: GroupCommitRecorder, notes: ModuleType
) -> None:
    """The database answers whatever it is asked, and nobody can write."""
    with without_standby(server):
        write = notes.write(on_server, uuid4(), 1, "waits")
        await asyncio.sleep(BATCH_SECONDS)
        assert "has waited for" in (await on_server.trouble() or "")
        await asyncio.wait([asyncio.wrap_future(write)])
        assert await on_server.trouble() is not None
        with pytest.raises(LogUnavailable):
            await on_server.hold_lease("process:a", "a", 5)
        assert await on_server.trouble() is not None
    assert await on_server.hold_lease("process:a", "a", 5) is not None
    assert await on_server.trouble() is None


def test_nothing_that_no_standby_has_is_acknowledged(
    server: Postgres, on_server: GroupCommitRecorder, notes: ModuleType
) -> None:
    """Not even by a look at the log, which would show it: the look is a commit too."""
    notes_written = uuid4()
    with without_standby(server):
        write = notes.write(on_server, notes_written, 1, "here alone")
        assert isinstance(write.exception(2 * BOUND_SECONDS), LogUnavailable)
    assert notes.write(on_server, uuid4(), 1, "goes on").exception(BOUND_SECONDS) is None
    log = _events(on_server)
    assert [position for position, _, _ in log] == list(range(1, len(log) + 1))
    assert len({note for _, note, _ in log}) == len(log)


def test_a_commit_whose_wait_for_its_standby_was_cancelled_is_not_acknowledged(
    server: Postgres, on_server: GroupCommitRecorder, notes: ModuleType
) -> None:
    """The server reports it as done, with a warning."""
    with without_standby(server), psycopg.connect(server.url(), autocommit=True) as operator:
        write = notes.write(on_server, uuid4(), 1, "cancelled")
        cancelled = 0
        while not write.done():
            rows = operator.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            ).fetchall()
            cancelled += len(rows)
            time.sleep(0.05)
        assert cancelled
        assert isinstance(write.exception(0), LogUnavailable)


def test_a_session_that_holds_the_lock_and_hangs_stops_nobody_for_good(
    server: Postgres, url: str, on_server: GroupCommitRecorder, notes: ModuleType
) -> None:
    before = _sessions(server)
    with psycopg.connect(url) as other:
        other.execute("SELECT pg_advisory_xact_lock('stored_events'::regclass::oid::bigint)")
        for _ in range(2):
            write = notes.write(on_server, uuid4(), 1, "waits")
            assert isinstance(write.exception(2 * BOUND_SECONDS), LogUnavailable)
        # Those given up have ended by themselves: none waits for the lock for ever.
        assert _sessions(server) <= before + 2
        other.rollback()
    assert notes.write(on_server, uuid4(), 1, "goes on").result(BOUND_SECONDS) == [2]


def test_of_several_hosts_the_one_that_takes_writes_is_found(
    server: Postgres, url: str, notes: ModuleType
) -> None:
    """The first hangs: it accepts connections and never answers."""
    name = url.rpartition("/")[2]
    with _running() as first:
        first.create_database(name)
        both = f"postgresql://postgres@127.0.0.1:{first.port},127.0.0.1:{server.port}/{name}"
        with psycopg.connect(first.url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            connection.execute("SELECT pg_reload_conf()")
        options: dict[str, Any] = {
            "batch_seconds": BATCH_SECONDS,
            "connect_seconds": CONNECT_SECONDS,
        }
        recorder = open_log(both, **options)
        recorder.migrate()
        recorder.create_tables([notes.NOTES, notes.LINES])
        assert notes.write(recorder, uuid4(), 1, "to the second").result(10) == [1]
        recorder.close_now()
        with frozen(first):
            recorder = open_log(both, **options)
            assert notes.write(recorder, uuid4(), 1, "to the second").result(10) == [2]
            assert recorder.max_notification_id() == 2
            recorder.close_now()


def test_a_locked_sqlite_file_refuses_in_time_and_nothing_is_lost(
    tmp_path: Path, notes: ModuleType
) -> None:
    path = tmp_path / "log.sqlite"
    recorder = open_log(f"sqlite:///{path}", batch_seconds=BATCH_SECONDS)
    recorder.migrate()
    recorder.create_tables([notes.NOTES, notes.LINES])
    notes.write(recorder, uuid4(), 1, "before").result(10)
    locker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
            "c.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()",
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert locker.stdout is not None
    assert locker.stdout.readline() == b"locked\n"
    started = time.monotonic()
    futures = [notes.write(recorder, uuid4(), 1, "locked out") for _ in range(5)]
    assert all(isinstance(f.exception(BOUND_SECONDS), LogUnavailable) for f in futures)
    assert time.monotonic() - started < BOUND_SECONDS
    assert "locked" in (asyncio.run(recorder.trouble()) or "")
    assert recorder.max_notification_id() == 1  # Reading goes on.
    locker.communicate()
    assert notes.write(recorder, uuid4(), 1, "after").result(10) == [2]
    assert asyncio.run(recorder.trouble()) is None
    recorder.close_now()


def test_those_who_waited_as_long_behind_a_hung_batch_are_not_kept_waiting(
    server: Postgres, on_server: GroupCommitRecorder, notes: ModuleType
) -> None:
    """More than fit in three batches: the first shows what the others would find out in turn."""
    with frozen(server):
        started = time.monotonic()
        futures = [notes.write(on_server, uuid4(), 1, "hangs") for _ in range(800)]
        done = concurrent.futures.wait(futures, 2 * BOUND_SECONDS)
        assert not done.not_done
        assert time.monotonic() - started < 2 * BOUND_SECONDS
    assert all(isinstance(future.exception(0), LogUnavailable) for future in futures)
