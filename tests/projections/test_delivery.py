"""A sink is served by one process at a time, from the place where the last one was."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from eventsourcing.persistence import Notification, StoredEvent, Tracking

from calotype.projections.engine import leadership
from calotype.projections.sinks.contract import Message, Refused, TryLater
from calotype.projections.sinks.delivery import Delivery
from calotype.projections.sinks.parked import (
    PARKED,
    STATES,
    checkpoint_of,
    lease_of,
    parked_of,
    trouble_of,
)
from calotype.stores.log.leases import LeaseTerms
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder

CHECKPOINT, LEASE = checkpoint_of("s"), lease_of("s")


class Topics:
    """Tells every event by its topic, one ordering key for all."""

    def forget(self) -> None:
        pass

    def messages(self, event: Notification) -> Sequence[Message]:
        return [Message(id=event.topic, ordering_key="l", route="r", kind="k", body=b"")]


async def nothing(text: str) -> None:
    """What usually happens when a message is taken."""


class Shelf:
    """A broker that keeps what it takes, and that can be away."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.away = ""
        self.closed = 0
        self.in_hand: Callable[[str], Awaitable[None]] = nothing

    async def open(self) -> None:
        if self.away:
            raise TryLater(self.away)

    async def publish(self, message: Message) -> None:
        await self.open()
        if message.id.startswith("bad"):
            raise Refused("never")
        self.taken.append(message.id)
        await self.in_hand(message.id)

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def recorders(request: Any, tmp_path: Path) -> AsyncIterator[list[GroupCommitRecorder]]:
    """Two recorders on one log, as two processes have them."""
    url = (
        f"sqlite:///{tmp_path / 'log.sqlite'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    both = [open_log(url), open_log(url)]
    both[0].migrate()
    both[0].create_tables([PARKED, STATES])
    yield both
    for recorder in both:
        await recorder.close()


async def look_again(position: int) -> None:
    await asyncio.sleep(0.02)


def delivery(recorder: GroupCommitRecorder, broker: Shelf, **options: Any) -> Delivery:
    options.setdefault("holder", str(uuid4()))
    return Delivery(recorder, "s", Topics(), broker, wait=look_again, **options)


async def append(recorder: GroupCommitRecorder, *topics: str) -> None:
    events = [StoredEvent(uuid4(), 1, topic, b"{}") for topic in topics]
    await asyncio.to_thread(recorder.insert_events, events)


async def happens(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for goes at its own pace
            await asyncio.sleep(0.01)


async def stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(("start", "told"), [("head", ["c"]), ("beginning", ["a", "b", "c"])])
async def test_a_new_sink_starts_where_it_is_told(
    recorders: list[GroupCommitRecorder], start: Any, told: list[str]
) -> None:
    await append(recorders[0], "a", "b")
    shelf = Shelf()
    served = delivery(recorders[0], shelf, start=start)
    await served.register()
    await append(recorders[0], "c")
    task = asyncio.create_task(served.run())
    await happens(lambda: shelf.taken == told)
    await stop(task)
    assert served.state == "stopped"
    assert shelf.closed == 1


async def test_two_that_start_at_once_agree_on_one_place(
    recorders: list[GroupCommitRecorder],
) -> None:
    await append(recorders[0], "a")
    both = [delivery(recorder, Shelf()) for recorder in recorders]
    first = asyncio.create_task(both[0].register())
    second = asyncio.create_task(both[1].register())
    await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)
    await append(recorders[0], "b")
    await asyncio.gather(first, second)
    assert recorders[0].max_tracking_id(CHECKPOINT) == 1


async def test_the_next_process_goes_on_where_the_last_one_stopped(
    recorders: list[GroupCommitRecorder],
) -> None:
    shelves = [Shelf(), Shelf()]
    served = [delivery(*pair) for pair in zip(recorders, shelves, strict=True)]
    await served[0].register()
    first = asyncio.create_task(served[0].run())
    await append(recorders[0], "a")
    await happens(lambda: shelves[0].taken)
    second = asyncio.create_task(served[1].run())
    await happens(lambda: "another process leads" in served[1].state)
    await append(recorders[1], "b")
    await happens(lambda: len(shelves[0].taken) == 2)
    await stop(first)
    await append(recorders[1], "c")
    await happens(lambda: shelves[1].taken)
    assert (shelves[0].taken, shelves[1].taken) == (["a", "b"], ["c"])
    await stop(second)


async def test_a_process_that_is_told_to_stop_ends_its_page_first(
    recorders: list[GroupCommitRecorder],
) -> None:
    shelf = Shelf()
    served = delivery(recorders[0], shelf)
    await served.register()
    task = asyncio.create_task(served.run())

    async def tell_to_stop(text: str) -> None:
        if text == "b":
            task.cancel()

    shelf.in_hand = tell_to_stop
    await append(recorders[0], "a", "b", "c")
    await asyncio.gather(task, return_exceptions=True)
    assert shelf.taken == ["a", "b", "c"]
    assert recorders[0].max_tracking_id(CHECKPOINT) == 3


async def test_trouble_is_told_and_tried_again_until_it_is_over(
    recorders: list[GroupCommitRecorder],
) -> None:
    shelf = Shelf()
    shelf.away = "cannot connect to mq:5672: refused"
    served = delivery(recorders[0], shelf)
    await served.register()
    task = asyncio.create_task(served.run())
    await append(recorders[0], "a")
    await happens(lambda: trouble_of(recorders[1], "s")[0] == shelf.away)
    assert "tries again" in served.state
    assert recorders[1].max_tracking_id(CHECKPOINT) == 0
    shelf.away = ""
    await happens(lambda: shelf.taken == ["a"])
    await happens(lambda: trouble_of(recorders[1], "s") == ("", ""))
    await stop(task)


async def test_what_is_refused_for_good_is_parked_with_the_step_that_passes_it(
    recorders: list[GroupCommitRecorder],
) -> None:
    shelf = Shelf()
    served = delivery(recorders[0], shelf)
    await served.register()
    await append(recorders[0], "a", "bad one", "c")
    task = asyncio.create_task(served.run())
    await happens(lambda: recorders[1].max_tracking_id(CHECKPOINT) == 3)
    assert shelf.taken == ["a", "c"]
    (parked,) = parked_of(recorders[1], "s")
    assert (parked.position, parked.topic, parked.error) == (2, "bad one", "never")
    assert re.fullmatch(r"20\d\d-.*Z", parked.parked_at)
    await stop(task)


async def test_one_who_lost_the_lease_without_knowing_moves_nothing(
    recorders: list[GroupCommitRecorder],
) -> None:
    """Its message may come twice; but its checkpoint is refused, and it starts over."""
    shelf = Shelf()
    served = delivery(recorders[0], shelf, holder="old")
    await served.register()
    task = asyncio.create_task(served.run())
    await append(recorders[0], "a")
    await happens(lambda: recorders[1].max_tracking_id(CHECKPOINT) == 1)

    async def steal(text: str) -> None:
        shelf.in_hand = nothing
        await recorders[1].release_lease(LEASE, "old")
        assert await recorders[1].hold_lease(LEASE, "new", 60) is not None

    shelf.in_hand = steal
    await append(recorders[1], "b")
    await happens(lambda: "another process leads" in served.state)
    assert "b" in shelf.taken
    assert recorders[1].max_tracking_id(CHECKPOINT) == 1
    await stop(task)


async def test_a_checkpoint_that_another_has_moved_is_taken_up_and_not_fought_over(
    recorders: list[GroupCommitRecorder],
) -> None:
    shelf = Shelf()
    served = delivery(recorders[0], shelf)
    await served.register()
    task = asyncio.create_task(served.run())
    await append(recorders[0], "a")
    await happens(lambda: recorders[1].max_tracking_id(CHECKPOINT) == 1)

    async def overtake(text: str) -> None:
        shelf.in_hand = nothing
        await asyncio.to_thread(recorders[1].insert_tracking, Tracking(CHECKPOINT, 3))

    shelf.in_hand = overtake
    await append(recorders[1], "b")
    await append(recorders[1], "c", "d")
    await happens(lambda: recorders[1].max_tracking_id(CHECKPOINT) == 4)
    assert shelf.taken[-1] == "d"
    await stop(task)


class Broken:
    """A chore that never can."""

    async def next_page(self) -> None:
        raise ValueError("broken")


async def test_a_chore_that_fails_does_not_hold_up_the_events(
    recorders: list[GroupCommitRecorder],
) -> None:
    shelf = Shelf()
    served = delivery(recorders[0], shelf, chore=Broken())
    await served.register()
    task = asyncio.create_task(served.run())
    await append(recorders[0], "a")
    await happens(lambda: "broken" in trouble_of(recorders[1], "s")[0])
    await append(recorders[0], "b")
    await happens(lambda: shelf.taken == ["a", "b"])
    await stop(task)


async def test_a_leader_is_sure_only_as_long_as_its_lease_cannot_have_run_out(
    recorders: list[GroupCommitRecorder],
) -> None:
    for recorder in recorders:
        recorder.lease_terms = LeaseTerms(leader_seconds=0.3)
    mine = leadership.Leadership(recorders[0], "x", "me")
    assert not mine.sure
    assert await mine.held()
    assert mine.sure
    await happens(lambda: not mine.sure)
    assert mine.epoch is not None
    yours = leadership.Leadership(recorders[1], "x", "you")
    async with asyncio.timeout(10):
        while not await yours.held():  # noqa: ASYNC110 - the database's clock decides
            await asyncio.sleep(0.01)
    assert yours.sure
    assert not mine.sure
