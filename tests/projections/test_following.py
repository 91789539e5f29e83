"""A follower folds every event once, in order, whatever happens in between."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import Notification, StoredEvent

from calotype.projections.engine.follower import Follower, reached, wait_until_reached
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Column, Replace, Table

NAME = "copies"
COPIES = Table("copies", (Column("id", "uuid"), Column("topic", "text")), ("id",), "id")


class Copies:
    """One row per event; what it does with a poisoned topic can be mended."""

    def __init__(self) -> None:
        self.folded: list[int] = []
        self.forgotten = 0
        self.poison = ""

    def fold(self, page: Sequence[Notification]) -> list[Replace]:
        for notification in page:
            if notification.topic == self.poison:
                raise ValueError(f"cannot fold {notification.topic}")
            self.folded.append(notification.id)
        return [
            Replace(COPIES, UUID(int=event.id), [(UUID(int=event.id), event.topic)])
            for event in page
        ]

    def forget(self) -> None:
        self.forgotten += 1


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def recorders(request: Any, tmp_path: Any) -> AsyncIterator[list[GroupCommitRecorder]]:
    """Two recorders on one log, as two processes have them."""
    url = (
        f"sqlite:///{tmp_path / 'log.sqlite'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    both = [open_log(url), open_log(url)]
    both[0].migrate()
    both[0].create_tables([COPIES])
    yield both
    for recorder in both:
        await recorder.close()


async def _append(recorder: GroupCommitRecorder, *topics: str) -> None:
    events = [StoredEvent(uuid4(), 1, topic, b"{}") for topic in topics]
    await asyncio.to_thread(recorder.insert_events, events)


async def _topics(recorder: GroupCommitRecorder) -> list[str]:
    rows = await recorder.fetch("SELECT topic FROM copies ORDER BY id")
    return [row[0] for row in rows]


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_events_of_any_process_are_folded_as_they_come(
    recorders: list[GroupCommitRecorder],
) -> None:
    here, elsewhere = recorders
    follower = Follower(here, NAME, Copies(), holder="h", page_events=4)
    task = asyncio.create_task(follower.run())
    topics = [f"t{number}" for number in range(30)]
    for number, topic in enumerate(topics, 1):
        await _append(elsewhere if number % 2 else here, topic)
    assert await wait_until_reached(elsewhere, NAME, 30, 10)
    assert await _topics(here) == topics
    assert "30" in follower.state
    await _stop(task)
    assert follower.state == "stopped"


async def test_when_the_leader_stops_the_next_goes_on_where_it_was(
    recorders: list[GroupCommitRecorder],
) -> None:
    folds = [Copies(), Copies()]
    followers = [
        Follower(recorder, NAME, fold, holder=str(number))
        for number, (recorder, fold) in enumerate(zip(recorders, folds, strict=True))
    ]
    first = asyncio.create_task(followers[0].run())
    await _append(recorders[0], "a", "b")
    assert await wait_until_reached(recorders[0], NAME, 2, 10)
    second = asyncio.create_task(followers[1].run())
    await _append(recorders[0], "c")
    assert await wait_until_reached(recorders[0], NAME, 3, 10)
    async with asyncio.timeout(10):
        while "another process leads" not in followers[1].state:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert folds[1].folded == []
    await _stop(first)
    await _append(recorders[1], "d")
    assert await wait_until_reached(recorders[1], NAME, 4, 10)
    assert folds[0].folded + folds[1].folded == [1, 2, 3, 4]
    assert await _topics(recorders[1]) == ["a", "b", "c", "d"]
    await _stop(second)


async def test_an_event_that_cannot_be_folded_stops_it_loudly_until_it_can(
    recorders: list[GroupCommitRecorder],
) -> None:
    fold = Copies()
    fold.poison = "bad"
    follower = Follower(recorders[0], NAME, fold, holder="h", page_events=1)
    task = asyncio.create_task(follower.run())
    await _append(recorders[0], "good", "bad", "later")
    assert await wait_until_reached(recorders[0], NAME, 1, 10)
    while "cannot fold bad" not in follower.state:  # noqa: ASYNC110 - it goes at its own pace
        await asyncio.sleep(0.01)
    assert await _topics(recorders[0]) == ["good"]
    assert not await wait_until_reached(recorders[0], NAME, 2, 0.1)
    fold.poison = ""
    assert await wait_until_reached(recorders[0], NAME, 3, 10)
    assert await _topics(recorders[0]) == ["good", "bad", "later"]
    await _stop(task)


async def test_one_who_is_overtaken_forgets_and_goes_on_from_the_checkpoint(
    recorders: list[GroupCommitRecorder],
) -> None:
    """A stale leader remembers position 1; meanwhile another came to 4."""
    stale, fold = Copies(), Copies()
    await _append(recorders[0], "a")
    old = Follower(recorders[0], NAME, stale, holder="old", page_events=2)
    await old.catch_up()
    await _append(recorders[0], "b", "c", "d")
    await Follower(recorders[1], NAME, fold, holder="new").catch_up()
    forgotten = stale.forgotten
    await _append(recorders[0], "e")
    assert await old.catch_up() == 5
    assert stale.forgotten == forgotten + 1
    assert stale.folded[-1:] == [5]
    assert await reached(recorders[0], NAME) == 5
    assert await _topics(recorders[0]) == ["a", "b", "c", "d", "e"]
