"""Row versions: every row that ever was, found again in the few blocks around a moment."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calotype.projections.engine import follower as following
from calotype.projections.engine.follower import Follower, reached
from calotype.projections.images.rows import rows_of
from calotype.projections.images.tables import IMAGES, MEMBERS, PROPERTIES, TABLES, TAGS
from calotype.projections.past import row_version_snapshots
from calotype.projections.past.row_version_follower import RowVersionFolder
from calotype.projections.past.row_versions import (
    FOLLOWER,
    FOREVER,
    IMAGE_VERSIONS,
    MEMBER_VERSIONS,
    MOMENTS,
    PROPERTY_VERSIONS,
    TAG_VERSIONS,
    VERSION_TABLES,
    block_of,
    blocks_at,
)
from calotype.projections.rebuild.snapshot_check import OF_VERSIONS
from calotype.stores.log.log import EventLog
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from tests.images import CAUSE, new_image

PAIRS = (
    (IMAGES, IMAGE_VERSIONS),
    (MEMBERS, MEMBER_VERSIONS),
    (TAGS, TAG_VERSIONS),
    (PROPERTIES, PROPERTY_VERSIONS),
)


@given(st.integers(1, 2**40), st.integers(1, 2**40), st.data())
def test_a_row_version_is_found_from_every_position_that_it_holds(
    start: int, length: int, data: st.DataObject
) -> None:
    end = start + length
    position = data.draw(st.integers(start, end - 1))
    last = data.draw(st.integers(end, 2**42))
    blocks = blocks_at(position, last)
    assert block_of(start, end) in blocks
    assert block_of(start, FOREVER) in blocks
    assert len(blocks) == len(set(blocks)) <= 2 + last.bit_length() / 4 + 1


@given(st.integers(1, 2**20), st.integers(1, 64), st.integers(1, 2**20))
def test_what_was_over_long_before_is_not_looked_at(start: int, length: int, later: int) -> None:
    """A short row version lies in a block of the moment only if that block began a boundary ago."""
    block = block_of(start, start + length)
    level = block >> 56
    position = start + length + later
    if block in blocks_at(position, 2**42):
        assert position >> 4 * level == start >> 4 * level


@pytest.fixture
async def recorder(log_url: str) -> AsyncIterator[GroupCommitRecorder]:
    recorder = open_log(log_url)
    recorder.migrate()
    recorder.create_tables([*TABLES, *VERSION_TABLES, OF_VERSIONS.table])
    yield recorder
    await recorder.close()


async def _live(recorder: GroupCommitRecorder, chance: random.Random, changes: int) -> None:
    """Random changes of a few images, many of them refused."""
    log = EventLog(recorder, rows_of)
    ids = []
    for number in range(5):
        image_id = str(UUID(int=chance.getrandbits(128)))
        tags = chance.sample(["x", "y"], number % 3)
        made = new_image(image_id=image_id, tags=tags)
        await log.create(made)
        ids.append(made.id)

    def change(image: Any) -> None:
        act, member = chance.randrange(6), chance.choice(["m1", "m2"])
        if act == 0:
            image.add_tag(CAUSE, chance.choice(["x", "y", "z"]))
        elif act == 1 and image.tags:
            image.remove_tag(CAUSE, image.tags[0])
        elif act == 2 and member not in image.members:
            image.add_member(CAUSE, member)
        elif act == 3 and member in image.members:
            image.remove_member(CAUSE, member)
        elif act == 4:
            changed = {"properties": {"k": chance.choice("12")}, "removed_properties": []}
            image.update(CAUSE, fields={"name": chance.choice("ab")}, tags=None, **changed)
        elif chance.random() < 0.2 and image.status != "deleted":
            image.delete(CAUSE)

    for _ in range(changes):
        await log.change(chance.choice(ids), lambda image: None, change)


async def _rows(recorder: GroupCommitRecorder, table: Any) -> list[tuple[Any, ...]]:
    names = ", ".join(column.name for column in table.columns)
    rows = await recorder.fetch(f"SELECT {names} FROM {table.name}")
    return sorted(tuple(map(str, row)) for row in rows)


async def test_open_row_versions_are_exactly_the_live_rows(recorder: GroupCommitRecorder) -> None:
    await _live(recorder, random.Random(7), 60)
    await Follower(recorder, FOLLOWER, RowVersionFolder(recorder), holder="h").catch_up()
    for live, versions in PAIRS:
        kept = [column.name for column in live.columns if column in versions.columns]
        names = ", ".join(kept)
        rows = await recorder.fetch(
            f"SELECT {names} FROM {versions.name} WHERE to_position = :end", {"end": FOREVER}
        )
        held = [row[: len(kept)] for row in await _rows(recorder, live)]
        assert sorted(tuple(map(str, row)) for row in rows) == sorted(held)
        assert (
            await recorder.fetch(
                f"SELECT 1 FROM {versions.name} WHERE from_position >= to_position"
            )
            == []
        )


async def test_row_versions_are_a_function_of_the_log_alone(recorder: GroupCommitRecorder) -> None:
    """Page by page with nothing remembered, or in one go: the same rows in every table."""
    await _live(recorder, random.Random(11), 60)
    folder = RowVersionFolder(recorder, cache_bytes=0)
    follower = Follower(recorder, "forgetful", folder, holder="h", page_events=3)
    while await follower._step():
        folder.forget()
    first = {table: await _rows(recorder, table) for table in VERSION_TABLES}
    assert len(first[MOMENTS]) == recorder.max_notification_id()
    await Follower(recorder, "whole", RowVersionFolder(recorder), holder="h").catch_up()
    for table in VERSION_TABLES:
        assert await _rows(recorder, table) == first[table], table.name


async def test_row_versions_from_snapshots_are_those_from_birth(
    recorder: GroupCommitRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing remembered, and each page begun from the last snapshots: the same rows."""
    monkeypatch.setattr(row_version_snapshots, "SNAPSHOT_EVENTS", 4)
    for seed in range(4):
        await _live(recorder, random.Random(seed), 60)
    folder = RowVersionFolder(recorder, snapshots=True)
    follower = Follower(recorder, "forgetful", folder, holder="h", page_events=3, chunk_events=2)
    found: list[bool] = []
    find = row_version_snapshots.find

    def noted(*arguments: Any) -> Any:
        found.append((timeline := find(*arguments)) is not None)
        return timeline

    monkeypatch.setattr(row_version_snapshots, "find", noted)
    while await follower._step():
        folder.forget()
    assert found.count(True) > 50
    kept = {table: await _rows(recorder, table) for table in VERSION_TABLES}
    assert [*OF_VERSIONS.differences(recorder)] == []
    assert len(await _rows(recorder, OF_VERSIONS.table)) > 15
    await Follower(recorder, "whole", RowVersionFolder(recorder), holder="h").catch_up()
    for table in VERSION_TABLES:
        assert await _rows(recorder, table) == kept[table], table.name


async def test_a_page_ends_where_its_rows_become_long(
    recorder: GroupCommitRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _live(recorder, random.Random(7), 30)
    monkeypatch.setattr(following, "ROWS_BYTES", 1)
    follower = Follower(recorder, "chunks", RowVersionFolder(recorder), holder="h", chunk_events=4)
    steps = 0
    while await follower._step():
        steps += 1
    assert steps == -(-(recorder.max_notification_id() or 0) // 4)


async def test_what_followers_at_once_write_is_what_one_writes(
    recorder: GroupCommitRecorder,
) -> None:
    """Two that both believe to lead: the checkpoint fences, and no row is wrong."""
    await _live(recorder, random.Random(13), 80)
    rivals = [
        Follower(recorder, FOLLOWER, RowVersionFolder(recorder), holder=str(n), page_events=2 + n)
        for n in range(2)
    ]
    await asyncio.gather(*(rival.catch_up() for rival in rivals))
    assert await reached(recorder, FOLLOWER) == recorder.max_notification_id()
    together = {table: await _rows(recorder, table) for table in VERSION_TABLES}
    await Follower(recorder, "alone", RowVersionFolder(recorder), holder="h").catch_up()
    for table in VERSION_TABLES:
        assert await _rows(recorder, table) == together[table], table.name


async def test_the_clock_of_moments_never_runs_backwards(recorder: GroupCommitRecorder) -> None:
    await _live(recorder, random.Random(17), 20)
    await Follower(recorder, FOLLOWER, RowVersionFolder(recorder), holder="h").catch_up()
    rows = await recorder.fetch(
        f"SELECT position, clock, newest_created_at FROM {MOMENTS.name} ORDER BY position"
    )
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert sorted(rows, key=lambda row: (row[1], row[0])) == rows
    assert sorted(rows, key=lambda row: (row[2], row[0])) == rows
