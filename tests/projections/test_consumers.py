"""Named consumers at work: claims, order, redelivery, parking, and members that come and go."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from calotype.commands.errors import LimitExceeded, NotFound
from calotype.commands.images.image import create
from calotype.commands.policy.actor import Cause
from calotype.projections.consumers import account, consumers
from calotype.projections.consumers.consumers import Answer, Consumers, Delivery, Subscription
from calotype.projections.feed import feed
from calotype.projections.feed.audience import EVENT_AUDIENCE
from calotype.projections.feed.feed import Feed
from calotype.projections.images.rows import rows_of
from calotype.projections.images.tables import TABLES
from calotype.stores.log.log import EventLog
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder

CAUSE = Cause({"user": "u", "project": "p0", "roles": []}, "req-1", None, "c")
FIELDS = {
    "name": "n",
    "visibility": "shared",
    "owner": "p0",
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
async def process(log_url: str) -> AsyncIterator["Process"]:
    process = Process(log_url)
    process.recorder.migrate()
    process.recorder.create_tables([*TABLES, EVENT_AUDIENCE])
    yield process
    await process.close()


@pytest.fixture
async def other(log_url: str, process: "Process") -> AsyncIterator["Process"]:
    """A second process on the same log."""
    other = Process(log_url)
    yield other
    await other.close()


class Process:
    """What one serving process has of consumers. The consumer is called "c", of operators."""

    def __init__(self, log_url: str) -> None:
        self.recorder: GroupCommitRecorder = open_log(log_url)
        self.feed = Feed(self.recorder)
        self.consumers = Consumers(self.recorder, self.feed)
        self.log = EventLog(self.recorder, rows_of)

    async def close(self) -> None:
        await self.feed.watcher.close()
        await self.recorder.close()

    async def image(self, changes: int = 0) -> uuid.UUID:
        """A new image with so many changes; its events."""
        fields = {**FIELDS, "owner": "p0"}
        image = create(CAUSE, image_id=str(uuid.uuid4()), fields=fields, tags=[], properties={})
        await self.log.create(image)
        await self.change(image.id, changes)
        return image.id

    async def change(self, image_id: uuid.UUID, changes: int = 1) -> None:
        for _ in range(changes):
            await self.log.change(image_id, lambda _: None, _tagged)

    async def make(self, start: int = 0, **wishes: Any) -> None:
        await self.consumers.put(None, "c", Subscription(**wishes), start=start)

    async def fetch(self, limit: int = 100, member: str = "m", **more: Any) -> list[Delivery]:
        return await self.consumers.fetch(None, "c", member=member, limit=limit, **more)

    async def positions(self, limit: int = 100, **more: Any) -> list[int]:
        return [delivery.position for delivery in await self.fetch(limit, **more)]

    async def answer(self, deliveries: list[Delivery], wish: Any, **more: Any) -> list[str]:
        parts = [await self.consumers.token_parts(one.token, "token") for one in deliveries]
        answers = [Answer(*part, wish, **more) for part in parts]
        return await self.consumers.answer(None, "c", answers)

    async def ack(self, deliveries: list[Delivery]) -> list[str]:
        return await self.answer(deliveries, "acknowledge")


async def test_events_come_in_order_one_of_each_image_until_all_are_acknowledged(
    process: Process,
) -> None:
    first, second = await process.image(2), await process.image(1)  # 1 2 3, 4 5
    await process.make()
    deliveries = await process.fetch()
    assert [one.position for one in deliveries] == [1, 4]
    assert [one.image for one in deliveries] == [str(first), str(second)]
    assert [orjson.loads(one.event)["subject"] for one in deliveries] == [str(first), str(second)]
    assert await process.fetch() == []
    assert await process.ack(deliveries[1:]) == ["acknowledged"]
    assert await process.positions() == [5]
    assert await process.ack(deliveries[:1]) == ["acknowledged"]
    two = await process.fetch()
    assert [one.position for one in two] == [2]
    assert [one.attempt for one in two] == [1]
    await process.ack(two)
    assert await process.positions() == [3]


async def test_what_is_not_answered_in_time_comes_again_and_the_late_answer_does_nothing(
    process: Process, other: Process
) -> None:
    await process.image()
    await process.make()
    late = await process.fetch(ack_seconds=0.3)
    assert await other.fetch(member="n") == []
    again = await other.fetch(member="n", wait_seconds=20)
    assert [(one.position, one.attempt) for one in again] == [(1, 2)]
    assert again[0].deadline > late[0].deadline
    assert await process.ack(late) == ["expired"]
    assert await process.answer(late, "fail") == ["expired"]
    assert await process.answer(late, "extend", seconds=9) == ["expired"]
    assert await other.ack(again) == ["acknowledged"]
    # A reply that was lost: the same is said again.
    assert await other.ack(again) == ["settled"]
    assert await process.ack(late) == ["settled"]
    assert await process.fetch() == []


async def test_an_answer_past_the_deadline_is_late_even_when_nobody_else_came(
    process: Process,
) -> None:
    await process.image()
    await process.make()
    late = await process.fetch(ack_seconds=0.05)
    await _past(late[0].deadline)
    assert await process.ack(late) == ["expired"]
    assert await process.positions() == [1]


async def test_an_extended_claim_holds_longer(process: Process) -> None:
    await process.image()
    await process.make()
    claimed = await process.fetch(ack_seconds=0.4)
    assert await process.answer(claimed, "extend", seconds=60) == ["extended"]
    await _past(claimed[0].deadline)
    assert await process.fetch() == []
    assert await process.ack(claimed) == ["acknowledged"]


async def test_a_poison_event_is_parked_and_the_image_goes_on(process: Process) -> None:
    await process.image(1)
    await process.make(max_attempts=3)
    for attempt in (1, 2, 3):
        [one] = await process.fetch()
        assert (one.position, one.attempt) == (1, attempt)
        outcome = await process.answer([one], "fail", error=f"no {attempt}\x00", seconds=0.0)
        assert outcome == ["failed" if attempt < 3 else "parked"]
        assert await process.answer([one], "fail") == ["settled"]
    assert await process.positions() == [2]
    [parked] = await process.consumers.parked(None, "c")
    assert (parked.position, parked.attempts, parked.error) == (1, 3, "no 3\ufffd")
    assert parked.event is not None
    assert abs(time.time() - parked.since) < 60


async def test_with_hold_the_image_waits_for_its_parked_event(process: Process) -> None:
    await process.image(1)
    second = await process.image()
    await process.make(max_attempts=1, on_parked="hold")
    claimed = await process.fetch()
    await process.answer(claimed[:1], "fail")
    await process.ack(claimed[1:])
    assert await process.fetch() == []
    await process.change(second)
    assert await process.positions() == [4]
    assert await process.consumers.redeliver(None, "c", [1, 2, 77]) == [1]
    again = await process.fetch()
    assert [(one.position, one.attempt) for one in again] == [(1, 1)]
    await process.answer(again, "fail")
    assert await process.fetch() == []
    assert await process.consumers.discard(None, "c") == [1]
    assert await process.positions() == [2]


async def test_who_never_answers_parks_the_event_too(process: Process) -> None:
    await process.image()
    await process.make(max_attempts=2)
    for _ in range(2):
        [one] = await process.fetch(member="silent", ack_seconds=0.05, wait_seconds=20)
        await _past(one.deadline)
    assert await process.fetch() == []
    [parked] = await process.consumers.parked(None, "c")
    assert "silent" in str(parked.error)


async def test_what_is_redelivered_waits_for_the_later_event_that_somebody_works_on(
    process: Process,
) -> None:
    await process.image(2)
    await process.make(max_attempts=1)
    await process.answer(await process.fetch(), "fail")
    second = await process.fetch()
    assert [one.position for one in second] == [2]
    assert await process.consumers.redeliver(None, "c") == [1]
    assert await process.fetch() == []
    await process.ack(second)
    assert await process.positions() == [1]


async def test_what_is_released_was_no_attempt(process: Process) -> None:
    await process.image()
    await process.make(max_attempts=1)
    for _ in range(3):
        claimed = await process.fetch()
        assert [one.attempt for one in claimed] == [1]
        assert await process.answer(claimed, "release") == ["released"]
        assert await process.ack(claimed) == ["settled"]


async def test_the_pause_after_a_failure_grows(process: Process) -> None:
    await process.image()
    await process.make()
    for pause in (1, 2, 4, 8):
        claimed = await process.fetch()
        failed_at = time.time()
        assert await process.answer(claimed, "fail") == ["failed"]
        due_at = process.recorder.fetch_now("SELECT due_at FROM consumer_deliveries")[0][0]
        assert pause - 0.1 < due_at - failed_at < pause + 5
        process.recorder.fetch_now("UPDATE consumer_deliveries SET due_at = 0")


async def test_no_more_is_taken_than_the_limit_and_nothing_is_lost_by_it(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "OPEN_LIMIT", 5)
    monkeypatch.setattr(consumers, "READ_EVENTS", 3)
    await process.image(9)  # 1 to 10, all of one image
    await process.image()  # 11
    await process.make()
    seen = []
    while claimed := await process.fetch():
        assert _open(process) <= 5
        seen += [one.position for one in claimed]
        await process.ack(claimed)
    assert sorted(seen) == list(range(1, 12))


async def test_a_consumer_that_parks_everything_is_stopped(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "PARKED_LIMIT", 3)
    monkeypatch.setattr(consumers, "READ_EVENTS", 2)
    for _ in range(6):
        await process.image()
    await process.make(max_attempts=1)
    while claimed := await process.fetch(2):
        await process.answer(claimed, "fail")
    assert [one.position for one in await process.consumers.parked(None, "c")] == [1, 2, 3, 4]
    await process.consumers.discard(None, "c")
    assert await process.positions() == [5, 6]


async def test_seeking_takes_again_what_comes_after_and_ends_claims(process: Process) -> None:
    for _ in range(4):
        await process.image()
    await process.make(max_attempts=1)
    claimed = await process.fetch()
    await process.answer([claimed[0], claimed[2]], "fail")
    await process.consumers.seek(None, "c", 1)
    assert await process.ack(claimed) == ["settled"] * 4
    assert [one.position for one in await process.consumers.parked(None, "c")] == [1]
    again = await process.fetch()
    assert [(one.position, one.attempt) for one in again] == [(2, 1), (3, 1), (4, 1)]
    assert await process.ack(claimed[1:]) == ["expired"] * 3
    await process.consumers.seek(None, "c", 4)
    assert await process.fetch() == []
    await process.image()
    assert await process.positions() == [5]


async def test_rare_events_are_found_over_many_others_without_looking_at_those_again(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "WINDOW_EVENTS", 4)
    monkeypatch.setattr(consumers, "SKIPPED_EVENTS", 10)
    rare = [await process.image(7) for _ in range(3)]
    await process.make(types=("image.created",))
    claimed = await process.fetch()
    found = claimed + await process.fetch() + await process.fetch()
    assert [one.image for one in found] == [str(image) for image in rare]
    await process.ack(found)
    await process.change(rare[0], 20)
    assert await process.fetch() == []
    assert (await process.consumers.get(None, "c")).taken_to == 44


async def test_a_consumer_of_one_image_gets_that_image_only(process: Process) -> None:
    await process.image(1)
    wanted = await process.image(1)
    await process.make(image=wanted)
    seen = []
    while claimed := await process.fetch():
        seen += [one.position for one in claimed]
        await process.ack(claimed)
    assert seen == [3, 4]


async def test_changed_wishes_count_for_what_is_not_taken_yet(process: Process) -> None:
    image = await process.image()
    await process.make(types=("image.created",))
    await process.ack(await process.fetch())
    await process.change(image)
    consumer, new = await process.consumers.put(None, "c", Subscription(("image.tag_added",)))
    assert not new
    assert consumer.taken_to == 1
    assert await process.positions() == [2]
    same, new = await process.consumers.put(None, "c", Subscription(("image.tag_added",)))
    assert (same.revision, new) == (consumer.revision, False)


async def test_who_waits_is_woken_by_what_happens(process: Process, other: Process) -> None:
    image = await process.image(1)
    await process.make()
    [first] = await process.fetch()
    waiting = asyncio.create_task(process.positions(wait_seconds=30))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    begin = time.monotonic()
    await process.ack([first])
    assert await waiting == [2]
    assert time.monotonic() - begin < 1
    waiting = asyncio.create_task(process.positions(wait_seconds=30))
    await asyncio.sleep(0.2)
    begin = time.monotonic()
    await other.image()
    assert await waiting == [3]
    assert time.monotonic() - begin < 2
    waiting = asyncio.create_task(process.fetch(wait_seconds=30))
    await asyncio.sleep(0.1)
    process.feed.watcher.end()
    assert await asyncio.wait_for(waiting, 5) == []
    assert image


async def test_who_waits_does_not_read_the_feed_again_and_again(
    process: Process, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "LOOK_SECONDS", 0.02)
    await process.image()
    await process.make(start=1)
    reads: list[Any] = []
    page = process.feed.page
    monkeypatch.setattr(process.feed, "page", lambda q: reads.append(q) or page(q))
    assert await process.fetch(wait_seconds=0.8) == []
    assert len(reads) <= 3
    waiting = asyncio.create_task(process.positions(wait_seconds=30))
    await asyncio.sleep(0.2)
    await other.image()
    assert await asyncio.wait_for(waiting, 5) == [2]


async def test_nothing_is_claimed_for_who_has_gone(process: Process) -> None:
    await process.make()
    left = False
    waiting = asyncio.create_task(process.fetch(wait_seconds=30, gone=lambda: left))
    await asyncio.sleep(0.1)
    left = True
    await process.image()
    assert await waiting == []
    assert await process.positions() == [1]


async def test_big_events_are_handed_out_in_more_than_one_answer(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "ANSWER_BYTES", 1500)
    for _ in range(5):
        await process.image()
    await process.make()
    sizes = []
    while claimed := await process.fetch():
        sizes.append(sum(len(one.event) for one in claimed))
        await process.ack(claimed)
    assert len(sizes) > 1
    assert max(sizes) <= 1500 or len(sizes) == 5


async def test_a_consumer_too_many_is_refused_but_for_those_of_the_service(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "CONSUMERS_LIMIT", 2)
    for name in ("a", "webhook:x", "b", "webhook:y"):
        await process.consumers.put("p1", name, Subscription())
    with pytest.raises(LimitExceeded):
        await process.consumers.put("p1", "c", Subscription())
    await process.consumers.put("p1", "a", Subscription(on_parked="hold"))
    await process.consumers.put("p2", "c", Subscription())
    await process.consumers.put(None, "c", Subscription())
    assert [one.name for one in await process.consumers.of_feed("p1")] == [
        "a", "b", "webhook:x", "webhook:y",
    ]  # fmt: skip
    assert [(one.project, one.name) for one in await process.consumers.all()][0] == (None, "c")
    await process.consumers.delete("p1", "b")
    with pytest.raises(NotFound):
        await process.consumers.get("p1", "b")
    with pytest.raises(NotFound):
        await process.consumers.delete("p1", "b")
    await process.consumers.put("p1", "c", Subscription())


async def test_a_consumer_made_anew_knows_nothing_of_the_one_before(process: Process) -> None:
    await process.image()
    await process.make()
    claimed = await process.fetch()
    await process.consumers.delete(None, "c")
    with pytest.raises(NotFound):
        await process.ack(claimed)
    await process.make()
    assert await process.ack(claimed) == ["settled"]
    assert await process.positions() == [1]


@dataclass
class Held:
    """A claim that a member had, and when it certainly ended."""

    image: str
    position: int
    begin: float
    end: float
    parked: bool = False
    acknowledged: bool = False


@pytest.mark.parametrize("on_parked", ["continue", "hold"])
async def test_members_that_crash_are_late_or_fail_never_overlap_nor_disturb_the_order(
    process: Process,
    other: Process,
    monkeypatch: pytest.MonkeyPatch,
    on_parked: Any,
) -> None:
    """Whatever six members in two processes do: of an image one at a time, in order, and all."""
    monkeypatch.setattr(account, "OPEN_LIMIT", 25)
    monkeypatch.setattr(account, "MEMBERS_KEPT", 3)
    monkeypatch.setattr(consumers, "READ_EVENTS", 7)
    chance = random.Random(on_parked)
    await process.make(on_parked=on_parked, max_attempts=2)
    held: list[Held] = []
    writing = asyncio.create_task(_write(process, chance))
    members = [
        asyncio.create_task(_member(one, f"m{n}", chance, held, writing))
        for n, one in enumerate([process, other] * 3)
    ]
    await asyncio.wait_for(asyncio.gather(*members), 120)
    head = process.recorder.max_notification_id()
    acknowledged = [one.position for one in held if one.acknowledged]
    assert sorted(acknowledged) == list(range(1, head + 1))
    assert _open(process) == 0
    for claims in _by_image(held):
        for before, after in zip(claims, claims[1:], strict=False):
            # SQLite's clock tells milliseconds.
            assert before.end <= after.begin + 0.002, (before, after)
        if on_parked == "hold":
            done = 0
            for one in claims:
                assert one.position >= done, claims
                if one.acknowledged:
                    done = one.position
            assert [one.position for one in claims if one.acknowledged] == sorted(
                {one.position for one in claims}
            )


async def _write(process: Process, chance: random.Random) -> None:
    images: list[uuid.UUID] = []
    for _ in range(80):
        if len(images) < 3 or chance.random() < 0.1:
            images.append(await process.image())
        await process.change(chance.choice(images))


async def _member(
    process: Process,
    name: str,
    chance: random.Random,
    held: list[Held],
    writing: "asyncio.Task[None]",
) -> None:
    while not (writing.done() and await _all_settled(process)):
        seconds = chance.choice([0.05, 0.2, 0.8])
        fetching = asyncio.create_task(
            process.fetch(chance.randint(1, 6), name, ack_seconds=seconds, wait_seconds=0.2)
        )
        if chance.random() < 0.1:
            await asyncio.sleep(chance.random() * 0.05)
            fetching.cancel()  # A client that vanished; nobody hears what it was given.
        claimed = (await asyncio.gather(fetching, return_exceptions=True))[0]
        if isinstance(claimed, asyncio.CancelledError):
            continue
        assert not isinstance(claimed, BaseException), claimed
        mine = [Held(d.image, d.position, d.deadline - seconds, d.deadline) for d in claimed]
        held += mine
        if chance.random() < 0.1:
            continue  # Crashed.
        await asyncio.sleep(chance.choice([0, 0, 0.01, 0.1]))
        wish = chance.choice(["acknowledge"] * 5 + ["fail", "release"])
        said_at = time.time()
        outcomes = await process.answer(claimed, wish, seconds=0.0)
        for one, outcome in zip(mine, outcomes, strict=True):
            if outcome in ("acknowledged", "failed", "parked", "released"):
                one.end = min(one.end, said_at)
            one.acknowledged = outcome == "acknowledged"
        await process.consumers.redeliver(None, "c")


async def _all_settled(process: Process) -> bool:
    consumer = await process.consumers.get(None, "c")
    await process.consumers.redeliver(None, "c")
    return consumer.taken_to == process.recorder.max_notification_id() and not _open(process)


def _by_image(held: list[Held]) -> Iterator[list[Held]]:
    for image in {one.image for one in held}:
        yield sorted((one for one in held if one.image == image), key=lambda one: one.begin)


def _open(process: Process) -> int:
    sql = "SELECT count(*) FROM consumer_deliveries WHERE state <> 'parked'"
    count: int = process.recorder.fetch_now(sql)[0][0]
    return count


def _tagged(image: Any) -> None:
    image.add_tag(CAUSE, uuid.uuid4().hex)


async def _past(deadline: float) -> None:
    await asyncio.sleep(max(0.0, deadline + 0.01 - time.time()))
