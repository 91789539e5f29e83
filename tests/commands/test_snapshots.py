"""Loading, refusing and the past cost the same however many events an image has."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from eventsourcing.domain import OriginatorVersionError

from calotype.commands.errors import Conflict, Forbidden
from calotype.commands.images.image import Image
from calotype.commands.images.snapshots import IMAGE_SNAPSHOTS, encode_image
from calotype.ops.wiring.composition import migrate
from calotype.projections.images.rows import rows_of
from calotype.projections.past.history import history_of
from calotype.stores.log.log import EventLog
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.snapshots import SNAPSHOT_EVENTS, SNAPSHOTS
from tests.images import CAUSE, new_image

MANY = 12 * SNAPSHOT_EVENTS + 7


class Counting:
    """How many rows with events or snapshots a recorder has read on the event loop's behalf."""

    def __init__(self, recorder: GroupCommitRecorder) -> None:
        self.rows = 0
        fetch = recorder.fetch

        async def counted(
            sql: str, parameters: Mapping[str, Any] | None = None, *, heavy: bool = False
        ) -> list[tuple[Any, ...]]:
            found = await fetch(sql, parameters, heavy=heavy)
            self.rows += len(found) if "stored_events" in sql else 0
            return found

        recorder.fetch = counted  # type: ignore[method-assign]

    def taken(self) -> int:
        rows, self.rows = self.rows, 0
        return rows


@pytest.fixture
async def recorder(log_url: str) -> AsyncIterator[GroupCommitRecorder]:
    recorder = open_log(log_url)
    await asyncio.to_thread(migrate, recorder)
    yield recorder
    await recorder.close()


def event_log(recorder: GroupCommitRecorder, **more: Any) -> EventLog:
    return EventLog(recorder, rows_of, **{"snapshots": IMAGE_SNAPSHOTS, **more})


def anybody(image: Image | None) -> None:
    """A check that allows everything."""


def refuse(image: Image) -> None:
    raise Forbidden("not this")


def rename(image: Image, name: str) -> None:
    nothing: dict[str, Any] = {"properties": {}, "removed_properties": []}
    image.update(CAUSE, fields={"name": name}, tags=None, **nothing)


async def image_of(log: EventLog, events: int) -> UUID:
    """A new image with so many events."""
    image = new_image(properties={"k": "v"})
    await log.create(image)
    for number in range(events - 1):
        await log.change(image.id, anybody, rename, f"name {number}")
    return image.id


async def test_a_long_image_is_loaded_from_its_last_snapshot(
    recorder: GroupCommitRecorder,
) -> None:
    image_id = await image_of(event_log(recorder), MANY)
    counting = Counting(recorder)
    loaded: Any = await event_log(recorder).load(image_id)
    assert counting.taken() == 1 + 7
    folded: Any = await event_log(recorder, snapshots=None).load(image_id)
    assert counting.taken() == MANY
    assert vars(loaded) == vars(folded)


async def test_a_refusal_costs_one_look_that_finds_nothing(recorder: GroupCommitRecorder) -> None:
    log = event_log(recorder)
    image_id = await image_of(log, MANY)
    counting = Counting(recorder)
    for _ in range(3):
        with pytest.raises(Forbidden):
            await log.change(image_id, anybody, refuse)
        assert counting.taken() == 0
    other = event_log(recorder)
    with pytest.raises(Forbidden):
        await other.change(image_id, anybody, refuse)
    assert counting.taken() == 1 + 7
    with pytest.raises(Forbidden):
        await other.change(image_id, anybody, refuse)
    assert counting.taken() == 0


async def test_a_refusal_is_decided_again_on_what_others_appended(
    log_url: str, recorder: GroupCommitRecorder
) -> None:
    """A cached image is brought up to date by the events that it lacks, and by no others."""
    mine, other = event_log(recorder), open_log(log_url)
    image_id = await image_of(mine, MANY)
    seen: list[str] = []

    def unless_renamed(image: Image) -> None:
        seen.append(image.fields["name"])
        if image.fields["name"] != "theirs 2":
            raise Conflict("not yet")
        rename(image, "mine")

    theirs = event_log(other)
    for number in range(3):
        await theirs.change(image_id, anybody, rename, f"theirs {number}")
    counting = Counting(recorder)
    changed = await mine.change(image_id, anybody, unless_renamed)
    assert counting.taken() == 3
    assert seen == [f"name {MANY - 2}", "theirs 2"]
    assert changed.version == MANY + 4
    for number in range(3 * SNAPSHOT_EVENTS):
        await mine.change(image_id, anybody, rename, f"more {number}")
    counting = Counting(other)
    with pytest.raises(Forbidden):
        await theirs.change(image_id, anybody, refuse)
    assert counting.taken() <= SNAPSHOT_EVENTS + 1
    await other.close()


async def test_an_image_that_a_refused_change_has_half_changed_is_not_kept(
    recorder: GroupCommitRecorder,
) -> None:
    log = event_log(recorder)
    image_id = await image_of(log, 3)

    def half(image: Image) -> None:
        rename(image, "half")
        raise Forbidden("but not the rest")

    for _ in range(2):  # Of an image that was cached, and of one that was loaded for this.
        with pytest.raises(Forbidden):
            await log.change(image_id, anybody, half)
    changed = await log.change(image_id, anybody, rename, "whole")
    assert (changed.version, changed.fields["name"]) == (4, "whole")
    loaded: Any = await log.load(image_id)
    assert vars(loaded) == vars(changed)


async def test_snapshots_of_other_code_are_not_used_and_made_again(
    recorder: GroupCommitRecorder,
) -> None:
    old = replace(IMAGE_SNAPSHOTS, fingerprint="of older code", encode=lambda image: "not ours")
    image_id = await image_of(event_log(recorder, snapshots=old), MANY)
    counting = Counting(recorder)
    loaded: Any = await event_log(recorder).load(image_id)
    assert counting.taken() == MANY
    while True:  # What was missing is written in the background.
        rows = await recorder.fetch(f"SELECT DISTINCT fingerprint FROM {SNAPSHOTS.name}")
        if rows == [(IMAGE_SNAPSHOTS.fingerprint,)]:
            break
        await asyncio.sleep(0.01)
    again: Any = await event_log(recorder).load(image_id)
    assert counting.taken() == 1 + 7
    assert vars(again) == vars(loaded)


async def test_a_snapshot_that_is_of_another_version_than_it_says_changes_nothing(
    recorder: GroupCommitRecorder,
) -> None:
    log = event_log(recorder)
    image_id = await image_of(log, SNAPSHOT_EVENTS - 1)
    earlier: Any = await log.load(image_id)
    await log.change(image_id, anybody, rename, "later")
    await log.change(image_id, anybody, rename, "latest")
    await recorder.fetch(
        f"UPDATE {SNAPSHOTS.name} SET state = :state WHERE originator_id = :id",
        {"state": encode_image(earlier), "id": image_id},
    )
    with pytest.raises(OriginatorVersionError):
        await event_log(recorder).change(image_id, anybody, rename, "on old state")
    whole: Any = await event_log(recorder, snapshots=None).load(image_id)
    assert whole.fields["name"] == "latest"


async def test_every_page_of_a_long_history_reads_as_much_as_of_a_short_one(
    recorder: GroupCommitRecorder,
) -> None:
    log = event_log(recorder)
    short, image_id = await image_of(log, 11), await image_of(log, MANY)
    whole = await history_of(recorder, image_id, limit=10**6)
    assert whole is not None
    counting = Counting(recorder)
    await history_of(recorder, short, limit=5)
    few = counting.taken()
    changes, after = [], 0
    while True:
        page = await history_of(recorder, image_id, limit=5, after=after)
        assert page is not None
        assert counting.taken() <= few + 2 * SNAPSHOT_EVENTS
        assert vars(page.image) == vars(whole.image)
        changes += page.changes
        if not page.more:
            break
        after = page.changes[-1].position
    assert changes == whole.changes
    for after in (changes[100].position - 1, changes[-1].position, 10**9):
        page = await history_of(recorder, image_id, limit=5, after=after)
        assert page is not None
        assert page.changes == [change for change in changes if change.position > after][:5]


def test_another_state_is_another_fingerprint(tmp_path: Path) -> None:
    """Whoever changes what an event does need not think of snapshots."""
    code = (
        "import inspect, sys; source = inspect.getsource; "
        "inspect.getsource = lambda of: source(of) + (sys.argv[1] if of.__name__ == "
        "'calotype.commands.images.image_state' else ''); "
        "from calotype.commands.images.snapshots import IMAGE_SNAPSHOTS; "
        "print(IMAGE_SNAPSHOTS.fingerprint)"
    )

    def fingerprint(change: str) -> str:
        command = [sys.executable, "-c", code, change]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert fingerprint("") == fingerprint("") == IMAGE_SNAPSHOTS.fingerprint
    assert fingerprint("# a field") != IMAGE_SNAPSHOTS.fingerprint
