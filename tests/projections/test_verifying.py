"""Verifying finds every row that is not what the log says, and nothing else, while others write."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from calotype.commands.images.snapshots import IMAGE_SNAPSHOTS
from calotype.commands.policy.quotas import Quotas
from calotype.ops.wiring.composition import migrate
from calotype.projections.engine.follower import Follower
from calotype.projections.feed.audience import EventAudience
from calotype.projections.images.rows import rows_of
from calotype.projections.past import row_version_snapshots
from calotype.projections.past.row_version_follower import RowVersionFolder
from calotype.projections.rebuild.registry import PROJECTIONS
from calotype.projections.rebuild.verify import differences
from calotype.stores.log import snapshots
from calotype.stores.log.log import EventLog
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from tests.images import CAUSE, new_image

Tamper = Callable[[str], None]


@pytest.fixture
async def log(
    log_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[GroupCommitRecorder, Tamper]]:
    """A log with a few images in it, and a way to change its tables behind its back."""
    monkeypatch.setattr(snapshots, "SNAPSHOT_EVENTS", 3)
    monkeypatch.setattr(row_version_snapshots, "SNAPSHOT_EVENTS", 3)

    def tamper(sql: str) -> None:
        if log_url.startswith("sqlite"):
            with sqlite3.connect(log_url.removeprefix("sqlite:///"), timeout=30) as connection:
                assert connection.execute(sql).rowcount > 0
            connection.close()
        else:
            with psycopg.connect(log_url) as server:
                assert server.execute(sql.encode()).rowcount > 0

    recorder = open_log(log_url)
    migrate(recorder)
    for _ in range(12):
        await _add_image(recorder)
    yield recorder, tamper
    await recorder.close()


async def _add_image(recorder: GroupCommitRecorder) -> None:
    events = EventLog(recorder, rows_of, Quotas(recorder), snapshots=IMAGE_SNAPSHOTS)
    image = new_image(tags=["a", "b"], properties={"k": "1", "l": "2"})
    await events.create(image)
    for wish in (
        lambda image: image.add_member(CAUSE, "m1"),
        lambda image: image.add_tag(CAUSE, "c"),
        lambda image: image.remove_tag(CAUSE, "a"),
        lambda image: image.update(
            CAUSE, fields={"name": "o"}, properties={"k": "3"}, removed_properties=["l"], tags=None
        ),
    ):
        await events.change(image.id, lambda image: None, wish)
    if image.id.int % 4 == 0:
        await events.change(image.id, lambda image: None, lambda image: image.delete(CAUSE))


async def _follow(recorder: GroupCommitRecorder) -> None:
    versions = partial(RowVersionFolder, snapshots=True)
    for known, fold in ((PROJECTIONS[2], versions), (PROJECTIONS[3], EventAudience)):
        assert known.follower is not None
        await Follower(recorder, known.follower, fold(recorder), holder="h").catch_up()


async def _found(recorder: GroupCommitRecorder) -> list[tuple[str, str]]:
    def look() -> list[tuple[str, str]]:
        return [
            (found.table, found.what)
            for known in PROJECTIONS
            for found in differences(recorder, known, chunk_images=5)
        ]

    return await asyncio.to_thread(look)


async def test_what_was_never_touched_fits_also_where_a_follower_is_behind(log: Any) -> None:
    recorder, _ = log
    assert await _found(recorder) == []
    await _follow(recorder)
    await _add_image(recorder)
    assert await _found(recorder) == []


@pytest.mark.parametrize(
    ("sql", "table", "what"),
    [
        (
            "UPDATE images_1 SET name = 'x' WHERE name = 'o'",
            "images_1",
            "differs in name",
        ),
        ("DELETE FROM image_tags_2 WHERE tag = 'c'", "image_tags_2", "missing"),
        (
            "INSERT INTO image_members_2 VALUES "
            "('00000000-0000-0000-0000-000000000000', 'm', 'pending', '{}', 0, '')",
            "image_members_2",
            "not in the log",
        ),
        (
            "UPDATE image_versions_2 SET to_position = to_position - 1 WHERE from_position = 1",
            "image_versions_2",
            "differs in to_position",
        ),
        (
            "INSERT INTO image_tag_versions_2 VALUES "
            "(5, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 't', '', 1, 2, 0)",
            "image_tag_versions_2",
            "not in the log",
        ),
        ("UPDATE log_moments_2 SET clock = '' WHERE position = 9", "log_moments_2", "clock"),
        (
            "UPDATE aggregate_snapshots_1 SET state = replace(state, 'shared', 'public')",
            "aggregate_snapshots_1",
            "differs in state",
        ),
        (
            "UPDATE aggregate_snapshots_1 SET version = version + 990",
            "aggregate_snapshots_1",
            "not in",
        ),
        (
            "UPDATE image_version_snapshots_1 SET state = replace(state, '[', '[ ')",
            "image_version_snapshots_1",
            "differs in state",
        ),
        ("DELETE FROM event_audience_2 WHERE position = 3", "event_audience_2", "missing"),
        (
            "INSERT INTO event_audience_2 VALUES (3, 'spy', 'image.created', 'full')",
            "event_audience_2",
            "not in the log",
        ),
    ],
)
async def test_each_row_that_does_not_fit_is_found(
    log: Any, sql: str, table: str, what: str
) -> None:
    recorder, tamper = log
    await _follow(recorder)
    tamper(sql)
    found = await _found(recorder)
    assert found
    assert {name for name, _ in found} == {table}
    assert all(what in told for _, told in found)


async def test_writers_meanwhile_are_no_difference(log: Any) -> None:
    recorder, _ = log
    await _follow(recorder)
    verifying = asyncio.create_task(_found(recorder))
    images = 0
    while not verifying.done() or images < 10:
        await _add_image(recorder)
        await _follow(recorder)
        images += 1
    assert await verifying == []
    assert await _found(recorder) == []
