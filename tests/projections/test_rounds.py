"""The loop of rounds: one process works, fails, waits, loses its lease and stops in order."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from eventsourcing.persistence import IntegrityError

from calotype.projections.engine.leadership import Leadership
from calotype.projections.engine.rounds import Rounds, in_thread
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder


@pytest.fixture
async def recorder(tmp_path: Path) -> AsyncIterator[GroupCommitRecorder]:
    opened = open_log(f"sqlite:///{tmp_path / 'log.sqlite'}")
    opened.migrate()
    yield opened
    await opened.close()


async def _happens(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for goes at its own pace
            await asyncio.sleep(0.01)


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Work:
    """Counts leads and rounds; what a round does can be set."""

    def __init__(self) -> None:
        self.leads = self.rounds = self.ended = 0
        self.error: Exception | None = None

    def begin(self) -> None:
        self.leads += 1

    async def __call__(self) -> None:
        await asyncio.sleep(0.01)
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.rounds += 1

    async def end(self) -> None:
        self.ended += 1


async def test_a_refused_round_begins_a_lead_and_a_failed_one_does_not(
    recorder: GroupCommitRecorder,
) -> None:
    work = Work()
    leadership = Leadership(recorder, "l", "h", seconds=1.0)
    rounds = Rounds("work", work, leadership=leadership, begin=work.begin, end=work.end)
    task = asyncio.create_task(rounds.run())
    await _happens(lambda: work.rounds)
    assert work.leads == 1
    work.error = ValueError("trouble")
    await _happens(lambda: rounds.state == "tries again: trouble")
    before = work.rounds
    await _happens(lambda: work.rounds > before)
    assert work.leads == 1
    work.error = IntegrityError("the fence does not hold")
    await _happens(lambda: work.leads == 2)
    before = work.rounds
    await _happens(lambda: work.rounds > before)
    await _stop(task)
    assert (rounds.state, work.ended, leadership.epoch) == ("stopped", 1, None)


async def test_a_round_is_cancelled_when_another_process_has_the_lease(
    recorder: GroupCommitRecorder,
) -> None:
    cancelled = asyncio.Event()
    working = asyncio.Event()

    async def last_long() -> None:
        working.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    leadership = Leadership(recorder, "l", "old", seconds=1.0)
    rounds = Rounds("work", last_long, leadership=leadership)
    task = asyncio.create_task(rounds.run())
    await working.wait()
    await recorder.release_lease("l", "old")
    assert await recorder.hold_lease("l", "new", 60) is not None
    async with asyncio.timeout(20):
        await cancelled.wait()
    await _happens(lambda: "another process leads" in rounds.state)
    await _stop(task)


async def test_a_stop_lets_the_running_round_finish_and_begins_no_other(
    recorder: GroupCommitRecorder,
) -> None:
    begun, finished = [], []

    async def work() -> None:
        begun.append(1)
        await asyncio.sleep(0.3)
        finished.append(1)

    leadership = Leadership(recorder, "l", "h")
    rounds = Rounds("work", work, leadership=leadership, finish_seconds=10)
    task = asyncio.create_task(rounds.run())
    await _happens(lambda: begun)
    await _stop(task)
    assert (begun, finished) == ([1], [1])
    assert await recorder.hold_lease("l", "next", 1) is not None


async def test_what_runs_in_a_thread_has_ended_when_its_cancelled_caller_has() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(0.3)
        ended.set()

    task = asyncio.create_task(in_thread(work))
    await _happens(begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
