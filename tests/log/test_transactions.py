"""Transactions beside the log: whole or not at all, and of one name one at a time."""

import asyncio
import threading
import time
from typing import Any

import pytest
from eventsourcing.persistence import Tracking

from calotype.stores.log.errors import LogUnavailable
from calotype.stores.log.opening import open_log
from calotype.stores.log.postgres import transactions
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.statements import Fetch
from calotype.stores.log.tables import Column, Table

COUNTERS = Table(
    name="counters",
    columns=(Column("name", "text"), Column("count", "integer")),
    key=("name",),
    owner="name",
)


@pytest.fixture
def counters(recorder: GroupCommitRecorder) -> None:
    recorder.create_tables([COUNTERS])


def _counted(fetch: Fetch, name: str = "a") -> int:
    """Reads, thinks and writes: two at once would lose one."""
    rows = fetch("SELECT count FROM counters WHERE name = :name", {"name": name})
    count: int = rows[0][0] + 1 if rows else 1
    fetch(
        "INSERT INTO counters VALUES (:name, :count) "
        "ON CONFLICT (name) DO UPDATE SET count = excluded.count",
        {"name": name, "count": count},
    )
    return count


@pytest.mark.usefixtures("counters")
async def test_of_one_name_one_runs_at_a_time_over_all_processes(
    recorder: GroupCommitRecorder, other_recorder: GroupCommitRecorder
) -> None:
    tries = [one.transact("t", _counted) for _ in range(20) for one in (recorder, other_recorder)]
    assert sorted(await asyncio.gather(*tries)) == list(range(1, 41))
    assert recorder.fetch_now("SELECT count FROM counters") == [(40,)]


@pytest.mark.usefixtures("counters")
async def test_what_work_raises_undoes_all_of_it_and_passes_through(
    recorder: GroupCommitRecorder,
) -> None:
    def fails(fetch: Fetch) -> None:
        _counted(fetch)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await recorder.transact("t", fails)
    assert recorder.fetch_now("SELECT count FROM counters") == []
    assert await recorder.transact("t", _counted) == 1


@pytest.mark.usefixtures("counters")
async def test_a_statement_that_is_refused_is_not_an_outage(
    recorder: GroupCommitRecorder,
) -> None:
    def twice(fetch: Fetch) -> None:
        for _ in range(2):
            fetch("INSERT INTO counters VALUES ('a', 1)")

    with pytest.raises(Exception) as refused:
        await recorder.transact("t", twice)
    assert not isinstance(refused.value, LogUnavailable)
    assert recorder.fetch_now("SELECT count FROM counters") == []


@pytest.mark.usefixtures("counters")
async def test_a_slow_one_holds_up_neither_the_event_loop_nor_readers(
    recorder: GroupCommitRecorder,
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(fetch: Fetch) -> int:
        count = _counted(fetch)
        inside.set()
        assert go_on.wait(20)
        return count

    running = asyncio.create_task(recorder.transact("t", slow))
    assert await asyncio.to_thread(inside.wait, 20)
    assert await recorder.fetch("SELECT count FROM counters") == []
    go_on.set()
    assert await running == 1
    assert await recorder.fetch("SELECT count FROM counters") == [(1,)]


@pytest.mark.usefixtures("counters")
async def test_on_postgresql_other_names_and_the_log_do_not_wait(
    recorder: GroupCommitRecorder, other_recorder: GroupCommitRecorder, log_url: str
) -> None:
    if log_url.startswith("sqlite"):
        return  # One writer at a time is what SQLite is.
    inside, go_on = threading.Event(), threading.Event()

    def slow(fetch: Fetch) -> None:
        inside.set()
        assert go_on.wait(20)

    running = asyncio.create_task(recorder.transact("t", slow))
    await asyncio.to_thread(inside.wait, 20)
    blocked = asyncio.create_task(other_recorder.transact("t", _counted))
    beside = await asyncio.gather(
        recorder.transact("u", lambda fetch: _counted(fetch, "u")),
        other_recorder.transact("v", lambda fetch: _counted(fetch, "v")),
    )
    assert list(beside) == [1, 1]
    await asyncio.to_thread(recorder.insert_tracking, Tracking("s", 1))
    assert not blocked.done()
    go_on.set()
    await running
    assert await blocked == 1


@pytest.mark.usefixtures("counters")
async def test_the_clock_is_in_seconds_since_1970(recorder: GroupCommitRecorder) -> None:
    def told(fetch: Fetch) -> Any:
        return fetch(f"SELECT {recorder.CLOCK}")[0][0]

    before = time.time()
    first = await recorder.transact("t", told)
    await asyncio.sleep(0.01)
    second = await recorder.transact("t", told)
    assert isinstance(first, float)
    assert before - 0.01 <= first < second <= time.time() + 0.01


async def test_an_idle_connection_that_died_is_replaced(postgres_url: str) -> None:
    recorder = open_log(postgres_url)
    recorder.migrate()
    recorder.create_tables([COUNTERS])
    assert await recorder.transact("t", _counted) == 1
    _end_other_connections(recorder)
    assert await recorder.transact("t", _counted) == 2
    await recorder.close()


async def test_a_process_that_hangs_in_the_middle_loses_the_name(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "IDLE_SECONDS", 1)
    recorder, other = open_log(postgres_url), open_log(postgres_url)
    recorder.migrate()
    recorder.create_tables([COUNTERS])
    inside, go_on = threading.Event(), threading.Event()

    def hangs(fetch: Fetch) -> None:
        _counted(fetch)
        inside.set()
        assert go_on.wait(60)
        _counted(fetch)

    running = asyncio.create_task(recorder.transact("t", hangs))
    await asyncio.to_thread(inside.wait, 20)
    assert await other.transact("t", _counted) == 1
    go_on.set()
    with pytest.raises(LogUnavailable):
        await running
    assert await recorder.transact("t", _counted) == 2
    await recorder.close()
    await other.close()


async def test_a_connection_that_dies_in_the_middle_has_written_nothing(postgres_url: str) -> None:
    recorder = open_log(postgres_url)
    recorder.migrate()
    recorder.create_tables([COUNTERS])

    def cut(fetch: Fetch) -> None:
        _counted(fetch)
        _end_other_connections(recorder)
        fetch("SELECT 1")

    with pytest.raises(LogUnavailable):
        await recorder.transact("t", cut)
    assert await recorder.transact("t", _counted) == 1
    await recorder.close()


async def test_who_waits_long_for_a_name_is_told_so(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "WAIT_SECONDS", 1)
    recorder, other = open_log(postgres_url), open_log(postgres_url)
    inside, go_on = threading.Event(), threading.Event()

    def hangs(fetch: Fetch) -> None:
        inside.set()
        assert go_on.wait(60)

    running = asyncio.create_task(recorder.transact("t", hangs))
    await asyncio.to_thread(inside.wait, 20)
    with pytest.raises(LogUnavailable, match="lock timeout"):
        await other.transact("t", lambda fetch: None)
    go_on.set()
    await running
    await recorder.close()
    await other.close()


def _end_other_connections(recorder: GroupCommitRecorder) -> None:
    recorder.fetch_now(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
