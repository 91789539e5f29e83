"""Reading the log and its query tables."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from uuid import UUID, uuid4

import pytest

from calotype.stores.log.errors import ReadTooLong
from calotype.stores.log.opening import open_log
from calotype.stores.log.postgres.recorder import PostgresRecorder
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.statements import numbered
from calotype.stores.log.tables import Replace

COUNTING = (
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :stop) "
    "SELECT count(*) FROM n"
)


def test_parameters_are_numbered_but_quotes_and_casts_are_left_alone() -> None:
    sql = "SELECT :a::text, ':b', 'it''s :c', \"d:e\", now()::date WHERE :b_2 = :a"
    assert numbered(sql) == (
        "SELECT $1::text, ':b', 'it''s :c', \"d:e\", now()::date WHERE $2 = $1",
        ("a", "b_2"),
    )


async def test_a_query_is_written_the_same_way_for_both_databases(
    recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    note = uuid4()
    notes.write(recorder, note, 1, "it's :text").result(10)
    sql = (
        "SELECT text, version FROM notes WHERE id = :id AND text = :text AND text <> ':text' "
        "AND version >= :least AND (version < :most OR text = :text)"
    )
    parameters = {"id": note, "text": "it's :text", "least": 1, "most": 2**40}
    for rows in (
        await recorder.fetch(sql, parameters),
        await recorder.fetch(sql, parameters, heavy=True),
        recorder.fetch_now(sql, parameters),
    ):
        assert rows == [("it's :text", 1)]
    assert await recorder.fetch(sql, parameters | {"text": "' OR ''='"}) == []


def test_an_aggregate_is_read_from_a_version_on(
    recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    note = uuid4()
    written = [notes.event(note, version, "x") for version in (1, 2, 3)]
    recorder.insert_events(written)
    assert recorder.select_events(note) == written
    assert recorder.select_events(note, gt=2) == written[2:]
    assert recorder.select_events(uuid4()) == []
    assert all(type(event.state) is bytes for event in recorder.select_events(note))


def test_rows_of_an_owner_are_replaced_and_those_of_others_stay(
    recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    one, two = uuid4(), uuid4()
    notes.write(recorder, one, 1, "a\nb\nc").result(10)
    notes.write(recorder, two, 1, "other").result(10)
    notes.write(recorder, one, 2, "z").result(10)
    lines = "SELECT line FROM note_lines WHERE note = :note ORDER BY number"
    assert recorder.fetch_now(lines, {"note": one}) == [("z",)]
    gone = [Replace(notes.NOTES, one, []), Replace(notes.LINES, one, [])]
    notes.submit(recorder, [notes.event(one, 3, "deleted")], lambda: gone).result(10)
    assert recorder.fetch_now(lines, {"note": one}) == []
    assert recorder.fetch_now(lines, {"note": two}) == [("other",)]
    rows = recorder.fetch_now("SELECT id, text, version FROM notes")
    assert [(UUID(str(row[0])), *row[1:]) for row in rows] == [(two, "other", 1)]


def test_text_and_the_largest_integers_come_back_as_they_went_in(
    recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    text = "quote ' \" backslash \\ \\u0041 newline\n tab\t \U0001f5bc e\u0301"
    for version in (2**63 - 1, -(2**63), 0):
        note = uuid4()
        change = [Replace(notes.NOTES, note, [(note, text, version, False)])]
        recorded = notes.submit(recorder, [notes.event(note, 1, "x")], lambda c=change: c)
        recorded.result(10)
        rows = recorder.fetch_now(
            "SELECT text, version, done FROM notes WHERE id = :n", {"n": note}
        )
        assert rows == [(text, version, False)]
    empty = uuid4()
    change = [Replace(notes.NOTES, empty, [(empty, None, 1, True)])]
    notes.submit(recorder, [notes.event(empty, 1, "x")], lambda: change).result(10)
    rows = recorder.fetch_now("SELECT text, done FROM notes WHERE id = :n", {"n": empty})
    assert rows == [(None, True)]


def test_text_sorts_by_its_bytes_on_both_databases(
    recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    words = ["é", "a", "B", "ab", "A b", "_", "Z", "~", "\U0001f5bc", "\uffee", "a-b", "a b"]
    for word in words:
        notes.write(recorder, uuid4(), 1, word).result(10)
    rows = recorder.fetch_now("SELECT text FROM notes ORDER BY text")
    assert [row[0] for row in rows] == sorted(words, key=str.encode)


async def test_a_heavy_query_does_not_hold_up_the_event_loop(recorder: GroupCommitRecorder) -> None:
    query = asyncio.ensure_future(recorder.fetch(COUNTING, {"stop": 1_000_000}, heavy=True))
    longest, last = 0.0, time.monotonic()
    ticks = 0
    while not query.done():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest, last, ticks = max(longest, now - last), now, ticks + 1
    assert (await query) == [(1_000_000,)]
    assert ticks > 5
    assert longest < 0.2


async def test_many_queries_at_once_get_their_own_answers(
    recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    ids = [uuid4() for _ in range(50)]
    futures = [notes.write(recorder, note, 1, str(note)) for note in ids]
    assert all([future.result(10) for future in futures])
    for heavy in (False, True):
        answers = await asyncio.gather(
            *(
                recorder.fetch("SELECT text FROM notes WHERE id = :id", {"id": note}, heavy=heavy)
                for note in ids * 4
            )
        )
        assert [rows[0][0] for rows in answers] == [str(note) for note in ids] * 4


async def test_a_cancelled_query_leaves_its_answer_to_nobody(
    recorder: GroupCommitRecorder,
) -> None:
    for _ in range(20):
        query = asyncio.ensure_future(recorder.fetch(COUNTING, {"stop": 300_000}, heavy=True))
        await asyncio.sleep(0.01)
        query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query
    answers = await asyncio.gather(
        *(recorder.fetch(COUNTING, {"stop": number}) for number in range(1, 30))
    )
    assert [rows[0][0] for rows in answers] == list(range(1, 30))


ENDLESS = {"stop": 10**12}


@pytest.mark.parametrize("kind", ["heavy", "search", "scan"])
async def test_a_read_that_takes_too_long_is_ended(log_url: str, kind: str) -> None:
    recorder = open_log(log_url, read_seconds=0.5, scan_connections=1)
    recorder.migrate()
    started = time.monotonic()
    with pytest.raises(ReadTooLong, match=r"longer than 0\.5 s"):
        await recorder.fetch(COUNTING, ENDLESS, **{kind: True})
    assert time.monotonic() - started < 3.0
    assert await recorder.fetch(COUNTING, {"stop": 3}, **{kind: True}) == [(3,)]
    await _nothing_runs(recorder)
    await recorder.close()


async def test_scans_hold_up_neither_pages_nor_reads_of_one_row(log_url: str) -> None:
    recorder = open_log(log_url, read_seconds=2.0)
    recorder.migrate()
    scans = [asyncio.ensure_future(recorder.fetch(COUNTING, ENDLESS, scan=True)) for _ in range(16)]
    await asyncio.sleep(0.1)
    for _ in range(20):
        assert await recorder.fetch("SELECT 1") == [(1,)]
        assert await recorder.fetch("SELECT 1", heavy=True) == [(1,)]
    assert not any(scan.done() for scan in scans)
    ended = await asyncio.gather(*scans, return_exceptions=True)
    assert all(isinstance(end, ReadTooLong) for end in ended)
    await recorder.close()


async def test_a_read_whose_caller_is_cancelled_ends_in_the_database(
    recorder: GroupCommitRecorder,
) -> None:
    reads = [
        asyncio.ensure_future(recorder.fetch(COUNTING, ENDLESS, **{kind: True}))
        for kind in ("heavy", "search", "scan")
    ]
    await asyncio.sleep(0.2)
    for read in reads:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    await _nothing_runs(recorder)
    # Of SQLite it is the thread that tells: it is free for others again.
    assert await recorder.fetch(COUNTING, {"stop": 3}, scan=True) == [(3,)]


async def _nothing_runs(recorder: GroupCommitRecorder) -> None:
    """Waits until the server, where there is one, runs none of our counting."""
    if isinstance(recorder, PostgresRecorder):
        running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE :q"
        deadline = time.monotonic() + 5
        while (await recorder.fetch(running, {"q": "WITH RECURSIVE%"})) != [(0,)]:
            assert time.monotonic() < deadline, "the server goes on with it"
            await asyncio.sleep(0.02)


async def test_one_recorder_serves_several_event_loops_and_threads(
    recorder: GroupCommitRecorder, notes: ModuleType
) -> None:
    note = uuid4()
    notes.write(recorder, note, 1, "everywhere").result(10)
    sql = "SELECT text FROM notes WHERE id = :id"
    answers: list[object] = []

    def in_a_loop_of_its_own() -> None:
        answers.append(asyncio.run(recorder.fetch(sql, {"id": note})))

    threads = [threading.Thread(target=in_a_loop_of_its_own) for _ in range(3)]
    for thread in threads:
        thread.start()
    answers.append(await recorder.fetch(sql, {"id": note}))
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
    assert answers == [[("everywhere",)]] * 4


def test_a_thread_that_ends_gives_its_connection_back(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    recorder = open_log(f"sqlite:///{path}")
    recorder.migrate()

    def open_files() -> int:
        found = 0
        for name in os.listdir("/proc/self/fd"):
            try:
                found += os.readlink(f"/proc/self/fd/{name}").startswith(str(path))
            except FileNotFoundError:
                continue  # The listing's own descriptor.
        return found

    before = open_files()
    for _ in range(30):
        thread = threading.Thread(target=recorder.max_notification_id)
        thread.start()
        thread.join()
    assert open_files() <= before + 3
    recorder.close_now()
    assert open_files() == 0


@pytest.mark.parametrize(
    "url",
    ["", "log.sqlite", "sqlite://", "sqlite:///", "mysql://host/name", "postgresql://u:p w@[::1/x"],
)
def test_a_bad_url_is_refused_with_the_fix_and_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite:///|postgresql://") as caught:
        open_log(url)
    assert "p w" not in str(caught.value)


def test_opening_touches_nothing(tmp_path: Path) -> None:
    started = time.monotonic()
    open_log(f"sqlite:///{tmp_path / 'new' / 'log.sqlite'}").close_now()
    open_log("postgresql://127.0.0.1:1/nowhere").close_now()
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - started < 0.5


def test_closing_while_threads_read_ends_their_reading_and_not_the_process(tmp_path: Path) -> None:
    script = Path(__file__).with_name("notes.py")
    url = f"sqlite:///{tmp_path / 'log.sqlite'}"
    subprocess.run([sys.executable, str(script), url, "close"], check=True, timeout=60)
