"""An upgrade from the tables as they were released: nothing is lost, and old processes stop."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from calotype.commands.images.image import Image, create
from calotype.commands.policy.actor import Actor, Cause, with_implied
from calotype.commands.policy.policy import DEFAULT_POLICY
from calotype.ops.wiring.composition import is_up_to_date, migrate
from calotype.projections.images.listing import ListQuery
from calotype.projections.images.queries import Queries
from calotype.projections.images.rows import rows_of
from calotype.projections.images.tables import IMAGES, MEMBERS, PROPERTIES, TAGS
from calotype.projections.rebuild.registry import PROJECTIONS
from calotype.projections.rebuild.verify import differences
from calotype.stores.log.log import EventLog
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Index, Replace, Table

CAUSE = Cause({"user": "u", "project": "p1", "roles": ["admin"]}, "req-1", None, "c")
RELEASED = (
    Table(
        "image_members_1",
        MEMBERS.columns[:5],
        MEMBERS.key,
        MEMBERS.owner,
        (Index("image_members_1_by_member", ("member", "status", "image_id")),),
    ),
    Table(
        "image_tags_1",
        TAGS.columns[:3],
        TAGS.key,
        TAGS.owner,
        (Index("image_tags_1_by_tag", ("tag", "created_at", "image_id")),),
    ),
    Table(
        "image_properties_1",
        PROPERTIES.columns[:5],
        PROPERTIES.key,
        PROPERTIES.owner,
        (Index("image_properties_1_by_value", ("name", "value_start", "created_at", "image_id")),),
    ),
)
"""The tables of the release before, as it described them."""
FORMER = dict(zip((MEMBERS, TAGS, PROPERTIES), RELEASED, strict=True))
OLD_INDEXES = (
    Index("images_1_by_age", ("created_at", "id")),
    Index("images_1_by_owner", ("owner", "created_at", "id")),
    Index("images_1_hidden", ("created_at", "id"), where="os_hidden"),
    Index("images_1_by_name", ("coalesce(name, '')", "created_at", "id")),
)


def _released_rows(image: Image, events: Any) -> list[Replace]:
    """The rows that the release before wrote."""
    changes = []
    for change in rows_of(image, events):
        table = FORMER.get(change.table)
        if table is not None:
            rows = [row[: len(table.columns)] for row in change.rows]
            change = Replace(table, change.owner, rows)
        changes.append(change)
    return changes


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.sqlite'}"
    given: str = request.getfixturevalue("postgres_url")
    return given


async def _released(url: str) -> GroupCommitRecorder:
    """A log with twenty images, as the release before left it."""
    recorder = open_log(url)
    migrate(recorder)
    for table in (MEMBERS, TAGS, PROPERTIES):
        recorder.fetch_now(f"DROP TABLE {table.name}")
    recorder.fetch_now(f"DROP TABLE {IMAGES.name}")
    recorder.create_tables([replace(IMAGES, indexes=OLD_INDEXES, dropped_indexes=()), *RELEASED])
    log = EventLog(recorder, _released_rows)
    for number in range(20):
        image = create(
            CAUSE,
            image_id=f"00000000-0000-0000-0000-{number:012d}",
            fields={
                "name": f"n{number}",
                "visibility": ("shared", "public")[number % 2],
                "owner": f"p{number % 3}",
                "protected": False,
                "os_hidden": number == 19,
                "disk_format": None,
                "container_format": None,
                "min_disk": 0,
                "min_ram": 0,
            },
            tags=["t", "u"][: number % 3],
            properties={"k": str(number % 2), "long": "x" * 300},
        )
        if number % 2 == 0:
            image.add_member(CAUSE, "p2")
            image.set_member_status(CAUSE, "p2", "accepted")
        await log.create(image)
    return recorder


async def test_tables_of_the_release_before_are_filled_over_and_dropped(url: str) -> None:
    recorder = await _released(url)
    assert not is_up_to_date(recorder)
    migrate(recorder)
    assert is_up_to_date(recorder)
    images = next(known for known in PROJECTIONS if known.name == "images")
    assert await asyncio.to_thread(lambda: list(differences(recorder, images))) == []
    assert recorder.missing_tables(RELEASED) == [table.name for table in RELEASED]
    page = await Queries(recorder).page(
        ListQuery(limit=50, tags=("t",), properties=(("k", "0"),)),
        Actor("u", "p2", with_implied({"member"}), policy=DEFAULT_POLICY),
    )
    assert len(page.images) == 6  # 2, 4, 8, 10, 14 and 16: its own or offered, with a tag.
    migrate(recorder)  # Once more does nothing.
    assert await asyncio.to_thread(lambda: list(differences(recorder, images))) == []
    await recorder.close()


async def test_indexes_of_the_release_before_are_replaced(url: str) -> None:
    recorder = await _released(url)
    migrate(recorder)
    names = (
        "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'images_1' "
        "AND sql NOTNULL"
        if url.startswith("sqlite")
        else "SELECT indexname FROM pg_indexes WHERE tablename = 'images_1' "
        "AND indexname <> 'images_1_pkey'"
    )
    there = {name for (name,) in recorder.fetch_now(names)}
    assert there == {index.name for index in IMAGES.indexes}
    await recorder.close()


async def test_a_process_of_the_release_before_writes_no_more(url: str) -> None:
    """What it wrote would be missing from the new tables, so it must not be acknowledged."""
    old = await _released(url)
    new = open_log(url)
    await asyncio.to_thread(migrate, new)
    image = create(
        CAUSE, image_id="00000000-0000-0000-0000-0000000000ff",
        fields={"name": "late", "visibility": "public", "owner": "p1", "protected": False,
                "os_hidden": False, "disk_format": None, "container_format": None,
                "min_disk": 0, "min_ram": 0},
        tags=["t"], properties={},
    )  # fmt: skip
    with pytest.raises(Exception, match="image_tags_1"):
        await EventLog(old, _released_rows).create(image)
    assert new.max_notification_id() == old.max_notification_id()
    assert new.select_events(image.id) == []
    await old.close()
    await new.close()
