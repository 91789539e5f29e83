"""Who is told what, against a plain reading of the rule; and how fast who waits is woken."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from calotype.commands.errors import CalotypeError
from calotype.commands.images.image import create
from calotype.commands.policy.actor import Cause
from calotype.projections.engine.follower import Follower
from calotype.projections.feed import audience, feed
from calotype.projections.feed.audience import EVENT_AUDIENCE, EventAudience
from calotype.projections.feed.feed import Feed, Question
from calotype.projections.images.rows import rows_of
from calotype.projections.images.tables import TABLES
from calotype.stores.log.log import EventLog
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder

CAUSE = Cause({"user": "u", "project": "p0", "roles": []}, "req-1", None, "c")
PROJECTS = ["p0", "p1", "p2", "p3"]
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
async def recorder(log_url: str) -> AsyncIterator[GroupCommitRecorder]:
    recorder = open_log(log_url)
    recorder.migrate()
    recorder.create_tables([*TABLES, EVENT_AUDIENCE])
    yield recorder
    await recorder.close()


@pytest.fixture
async def served(recorder: GroupCommitRecorder) -> AsyncIterator[Feed]:
    """The feed of the recorder."""
    served = Feed(recorder)
    yield served
    await served.watcher.close()


def new_image(owner: str | None, visibility: str) -> Any:
    fields = {**FIELDS, "owner": owner, "visibility": visibility}
    return create(CAUSE, image_id=str(uuid.uuid4()), fields=fields, tags=[], properties={})


async def live(log: EventLog, chance: random.Random, steps: int) -> None:
    """Random lives: images are shared, hidden, given away, offered, withdrawn and deleted."""
    ids: list[uuid.UUID] = []
    for number in range(steps):
        if len(ids) < 4:
            image = new_image(chance.choice([*PROJECTS, None]), chance.choice(VISIBILITIES))
            await log.create(image)
            ids.append(image.id)
            continue
        image_id = chance.choice(ids)
        member = chance.choice(PROJECTS)
        change = {
            "visibility": chance.choice(VISIBILITIES),
            "owner": chance.choice(PROJECTS),
            "name": f"n{number}",
        }
        name = chance.choice(list(change))
        wish: Callable[[Any], None] = chance.choice(
            [
                lambda image, member=member: image.add_member(CAUSE, member),
                lambda image, member=member: image.remove_member(CAUSE, member),
                lambda image, member=member: image.set_member_status(CAUSE, member, "accepted"),
                lambda image, name=name, change=change: image.update(
                    CAUSE,
                    fields={name: change[name]},
                    properties={},
                    removed_properties=[],
                    tags=None,
                ),
                lambda image, number=number: image.add_tag(CAUSE, f"t{number}"),
            ]
        )
        if chance.random() < 0.05:
            ids.remove(image_id)
            wish = lambda image: image.delete(CAUSE)  # noqa: E731
        try:
            await log.change(image_id, lambda _: None, wish)
        except CalotypeError:
            pass  # A wish that the image refuses leaves no event.


VISIBILITIES = ["shared", "private", "public", "community"]


def expected(recorder: GroupCommitRecorder) -> dict[str, list[tuple[int, str]]]:
    """Position and view by project: the rule, read from the raw events by other means."""
    told: dict[str, list[tuple[int, str]]] = {project: [] for project in PROJECTS}
    images: dict[Any, dict[str, Any]] = {}
    for stored in recorder.select_notifications(1, 100_000):
        state = orjson.loads(stored.state)
        image = images.setdefault(stored.originator_id, {"members": set()})
        before = {p: sees(image, p) for p in PROJECTS}
        image |= state.get("fields", {})
        kind = stored.topic.removeprefix("image.")
        if kind == "member_added":
            image["members"].add(state["member"])
        if kind == "member_removed":
            image["members"].discard(state["member"])
        for project in PROJECTS:
            if kind.startswith("member") and project not in (image["owner"], state["member"]):
                continue
            now = sees(image, project)
            if now or before[project]:
                told[project].append((stored.id, now or "withdrawn"))
    return told


def sees(image: dict[str, Any], project: str) -> str | None:
    if image.get("owner") == project:
        return "own"
    shared = image.get("visibility") == "shared" and project in image["members"]
    return "shared" if shared else None


@pytest.mark.parametrize("seed", range(6))
async def test_each_project_is_told_exactly_what_the_rule_says_in_order(
    recorder: GroupCommitRecorder, served: Feed, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "CHUNK_EVENTS", 3)
    await live(EventLog(recorder, rows_of), random.Random(seed), 150)
    # Two images remembered, so that most are loaded from the log again.
    fold = EventAudience(recorder, cache_bytes=2 * 6000)
    await Follower(recorder, audience.FOLLOWER, fold, holder="x", page_events=7).catch_up()
    right = expected(recorder)
    assert any(view == "withdrawn" for project in PROJECTS for _, view in right[project])
    for project in PROJECTS:
        found: list[tuple[int, str]] = []
        page = await served.page(Question(project, 0, 5))
        while page.events:
            found += [(n, orjson.loads(event)["view"]) for n, event in page.events]
            page = await served.page(Question(project, page.next, 5))
        assert found == right[project]
    head = recorder.max_notification_id()
    page = await served.page(Question(None, 0, 1000))
    assert [n for n, _ in page.events] == list(range(1, (head or 0) + 1))
    for project in (None, "p1"):
        everything = {
            n: event for n, event in (await served.page(Question(project, 0, 1000))).events
        }
        images = {orjson.loads(event)["subject"] for event in everything.values()}
        one_by_one: dict[int, bytes] = {}
        for image in images:
            question = Question(project, 0, 1000, image=uuid.UUID(image))
            one_by_one |= dict((await served.page(question)).events)
        assert one_by_one == everything


async def test_a_page_that_grows_too_long_ends_early_and_is_gone_on_with(
    recorder: GroupCommitRecorder, served: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "CHUNK_EVENTS", 2)
    monkeypatch.setattr(feed, "PAGE_BYTES", 100)
    await live(EventLog(recorder, rows_of), random.Random(1), 10)
    page = await served.page(Question(None, 0, 1000))
    assert ([n for n, _ in page.events], page.next, page.full) == ([1], 1, True)


@pytest.mark.slow
@pytest.mark.parametrize("project", [None, "p0"], ids=["operator", "project"])
async def test_who_waits_is_woken_by_appends_of_another_process(
    recorder: GroupCommitRecorder, served: Feed, log_url: str, project: str | None
) -> None:
    """Far sooner than any polling of this process would find them."""
    other = open_log(log_url)
    log = EventLog(other, rows_of)
    fold = EventAudience(recorder)
    follower = Follower(recorder, audience.FOLLOWER, fold, holder="x", wait=served.watcher.grown)
    following = asyncio.create_task(follower.run())
    await log.create(new_image("p0", "private"))
    after = 0
    waits = []
    for _ in range(20):
        page = await served.page_or_wait(Question(project, after, 100), 10)
        after = page.next
        polling = asyncio.create_task(served.page_or_wait(Question(project, after, 100), 10))
        await asyncio.sleep(0.05)
        start = time.monotonic()
        await log.create(new_image("p0", "private"))
        assert (await polling).events
        waits.append(time.monotonic() - start)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await other.close()
    assert sorted(waits)[len(waits) // 2] < 0.5, waits


async def test_an_event_wakes_those_whom_it_concerns_and_nobody_else(
    recorder: GroupCommitRecorder, served: Feed
) -> None:
    log = EventLog(recorder, rows_of)
    fold = EventAudience(recorder)
    follower = Follower(recorder, audience.FOLLOWER, fold, holder="x")
    await log.create(new_image("p0", "private"))
    await follower.catch_up()
    for project in (None, "p0", "p1"):
        await served.watcher.wait(project, 1, 0.5)  # Knows where the log ends from now on.
    waits = {
        project: asyncio.create_task(served.watcher.wait(project, 1, 30))
        for project in (None, "p0", "p1")
    }
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in waits.values())
    await log.create(new_image("p0", "private"))
    await follower.catch_up()
    await asyncio.wait_for(asyncio.gather(waits[None], waits["p0"]), 10)
    await asyncio.sleep(0.3)
    assert not waits["p1"].done()
    served.watcher.end()
    await asyncio.wait_for(waits["p1"], 5)


async def test_those_who_ask_the_same_share_one_read(
    recorder: GroupCommitRecorder, served: Feed
) -> None:
    await EventLog(recorder, rows_of).create(new_image("p0", "private"))
    reads = 0
    read = served._read

    async def counted(question: Question) -> Any:
        nonlocal reads
        reads += 1
        return await read(question)

    served._read = counted  # type: ignore[method-assign]
    question = Question(None, 0, 10)
    tasks = [asyncio.create_task(served.page(question)) for _ in range(50)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # One of them goes away, and takes nothing from the others.
    pages = await asyncio.gather(*tasks[1:])
    assert reads == 1
    assert all(len(page.events) == 1 for page in pages)
