"""Tables made again from the log are what appends and followers had written, on both logs."""

import asyncio
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calotype.commands.errors import CalotypeError, NotFound
from calotype.commands.images import deletion
from calotype.commands.images.download import download
from calotype.commands.images.image import Image
from calotype.commands.policy.quotas import Quotas
from calotype.ops.wiring.composition import migrate
from calotype.projections.engine.follower import Follower
from calotype.projections.engine.leadership import LeaseTaken, held
from calotype.projections.images.rows import rows_of
from calotype.projections.rebuild.rebuild import (
    NothingBuilt,
    count_again,
    look,
    rebuild,
    spare_of,
    switch,
)
from calotype.projections.rebuild.registry import PROJECTIONS, Projection
from calotype.projections.rebuild.verify import differences
from calotype.stores.log.log import EventLog
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from tests.images import CAUSE, new_image

IMAGES, USAGE, VERSIONS, AUDIENCE = PROJECTIONS
BUILT = (IMAGES, VERSIONS, AUDIENCE)
Rows = dict[str, list[tuple[str, ...]]]
Wish = Callable[[Image, random.Random], None]


class Quiet:
    """Nobody is told."""

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, count: int) -> None: ...


class Database:
    """A log of its own, and ways to look at its tables and to damage them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.recorder: GroupCommitRecorder = open_log(url)
        migrate(self.recorder)
        self.log = EventLog(self.recorder, rows_of, Quotas(self.recorder))
        self.ids: list[UUID] = []

    async def live(self, chance: random.Random, wishes: int) -> None:
        """New images, and random changes of these; what is refused changes nothing."""
        self.ids = []
        for number in range(4):
            tags = chance.sample(["a", "b", "c"], number % 3)
            image = new_image(
                visibility=chance.choice(["shared", "public", "private"]),
                tags=tags,
                properties={"k": "1"} if number % 2 else {},
            )
            await self.log.create(image)
            self.ids.append(image.id)
        for _ in range(wishes):
            await self.change(chance.choice(self.ids), chance.choice(WISHES), chance)
        sent = download(
            CAUSE, uuid4(), image_id=str(self.ids[0]), owner="p", bytes_sent=1, bytes_asked=2
        )
        await EventLog(self.recorder, lambda aggregate, events: []).create(sent)

    async def change(self, image_id: UUID, wish: Wish, chance: random.Random) -> None:
        def check(image: Any) -> None:
            if image.status == "deleted" and wish not in OF_DELETED:
                raise NotFound("as every command finds")

        with suppress(CalotypeError):
            await self.log.change(image_id, check, wish, chance)

    async def follow(self) -> None:
        for known in (VERSIONS, AUDIENCE):
            assert known.follower is not None
            fold = known.follow(self.recorder, {})
            await Follower(self.recorder, known.follower, fold, holder="h").catch_up()

    def rows(self, known: Projection) -> Rows:
        found = {}
        for table in known.tables:
            names = ", ".join(column.name for column in table.columns)
            rows = self.recorder.fetch_now(f"SELECT {names} FROM {table.name}")
            found[table.name] = sorted(tuple(map(str, row)) for row in rows)
        return found

    def tamper(self, sql: str) -> None:
        if self.url.startswith("sqlite"):
            with sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=30) as connection:
                assert connection.execute(sql).rowcount > 0
            connection.close()
        else:
            with psycopg.connect(self.url) as server:
                assert server.execute(sql.encode()).rowcount > 0

    def tables(self) -> set[str]:
        """All tables that there are, by any name."""
        sql = (
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            if self.url.startswith("sqlite")
            else "SELECT relname FROM pg_class WHERE relkind = 'r' "
            "AND relnamespace = current_schema()::regnamespace"
        )
        return {row[0] for row in self.recorder.fetch_now(sql)}

    def indexes(self, table: str) -> list[str]:
        """The definitions of its indexes, without names."""
        sql = (
            "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :t AND sql NOTNULL"
            if self.url.startswith("sqlite")
            else "SELECT indexdef FROM pg_indexes WHERE tablename = :t "
            "AND schemaname = current_schema()"
        )
        rows = self.recorder.fetch_now(sql, {"t": table})
        return sorted(row[0].partition(" ON ")[2].replace('"', "") for row in rows)

    def rebuild(self, known: Projection, *, processes: int = 1) -> None:
        """Builds and switches."""
        rebuild(self.recorder, self.url, known, Quiet(), processes=processes)
        switch(self.recorder, known, Quiet())


@pytest.fixture
async def database(log_url: str) -> AsyncIterator[Database]:
    database = Database(log_url)
    yield database
    await database.recorder.close()


def _rename(image: Image, chance: random.Random) -> None:
    image.update(
        CAUSE,
        fields={"name": chance.choice("ab"), "visibility": chance.choice(["shared", "private"])},
        properties={"k": chance.choice("123")},
        removed_properties=["l"],
        tags=chance.choice([None, [], ["a"]]),
    )


def _upload(image: Image, chance: random.Random) -> None:
    number = str(image.version)
    image.start_upload(CAUSE, upload_id=number, store="s", url=f"file:///{number}", holder="h")


def _store(image: Image, chance: random.Random) -> None:
    image.store_data(
        CAUSE,
        upload_id=image.upload_id or "",
        url=f"file:///{image.upload_id}",
        size=chance.randrange(9),
        virtual_size=None,
        checksum="c",
        os_hash_algo="sha512",
        os_hash_value="v",
    )


def _place(image: Image, chance: random.Random) -> None:
    url = f"http://{chance.choice('ab')}"
    image.change_locations(
        CAUSE,
        locations=[{"url": url, "metadata": {}}],
        stores={url: "s"},
        size=None,
        checksum=None,
        os_hash_algo=None,
        os_hash_value=None,
    )


def _remove_data(image: Image, chance: random.Random) -> None:
    for url in list(image.blobs):
        image.note_data_removed(CAUSE, url=url, reason="r")


def _fail_upload(image: Image, chance: random.Random) -> None:
    for blob in list(image.blobs.values()):
        image.fail_upload(CAUSE, upload_id=blob.upload_id or "", reason="r")


def _restore(image: Image, chance: random.Random) -> None:
    deletion.restore(image, CAUSE)


def _purge(image: Image, chance: random.Random) -> None:
    deletion.purge(image, CAUSE, reason="r")


WISHES: tuple[Wish, ...] = (
    _rename,
    _rename,
    _upload,
    _upload,
    _store,
    _store,
    _place,
    _remove_data,
    _fail_upload,
    lambda image, chance: image.add_tag(CAUSE, chance.choice("abc")),
    lambda image, chance: image.remove_tag(CAUSE, chance.choice("abc")),
    lambda image, chance: image.add_member(CAUSE, chance.choice("mn")),
    lambda image, chance: image.set_member_status(CAUSE, chance.choice("mn"), "accepted"),
    lambda image, chance: image.remove_member(CAUSE, chance.choice("mn")),
    lambda image, chance: image.deactivate(CAUSE),
    lambda image, chance: image.reactivate(CAUSE),
    lambda image, chance: image.delete(CAUSE, retention_seconds=chance.choice([0.0, 3600.0])),
    _restore,
    _purge,
)
OF_DELETED = (_remove_data, _fail_upload, _restore, _purge)
"""What the API, or the sweeper, can do to a deleted image."""


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32), st.integers(0, 60))
def test_whatever_happens_to_images_both_ways_give_the_same_rows(
    sqlite_database: Database, seed: int, wishes: int
) -> None:
    """Event by event as appends and followers write, and image by image as rebuilds do."""

    async def happen() -> None:
        await sqlite_database.live(random.Random(seed), wishes)
        await sqlite_database.follow()

    asyncio.run(happen())
    for known in PROJECTIONS:
        assert list(differences(sqlite_database.recorder, known)) == []


@pytest.fixture
def sqlite_database(tmp_path: Any) -> Any:
    database = Database(f"sqlite:///{tmp_path / 'log.sqlite'}")
    yield database
    database.recorder.close_now()


@pytest.mark.parametrize("known", BUILT, ids=lambda known: known.name)
async def test_a_rebuild_gives_the_rows_and_indexes_that_were_there(
    database: Database, known: Projection
) -> None:
    for seed in range(3):
        await database.live(random.Random(seed), 60)
    await database.follow()
    rows, tables = database.rows(known), database.tables()
    indexes = {name: database.indexes(name) for name in rows}
    assert all(rows[table.name] for table in known.tables)
    for processes in (1, 2):
        await asyncio.to_thread(database.rebuild, known, processes=processes)
        assert database.rows(known) == rows
        assert database.tables() == tables
        assert {name: database.indexes(name) for name in rows} == indexes
    migrate(database.recorder)
    assert {name: database.indexes(name) for name in rows} == indexes
    await database.live(random.Random(9), 20)
    await database.follow()
    assert list(differences(database.recorder, known)) == []


@pytest.mark.parametrize(
    ("known", "sql", "table", "counts"),
    [
        (IMAGES, "UPDATE images_1 SET name = 'x'", "images_1", "different"),
        (IMAGES, "DELETE FROM image_blobs_1", "image_blobs_1", "missing"),
        (
            IMAGES,
            f"INSERT INTO image_tags_2 VALUES ('{UUID(int=7)}', 't', '', NULL, '')",
            "image_tags_2",
            "not_in_the_log",
        ),
        (VERSIONS, "UPDATE log_moments_2 SET clock = '9'", "log_moments_2", "different"),
        (VERSIONS, "DELETE FROM image_versions_2", "image_versions_2", "missing"),
        (AUDIENCE, "UPDATE event_audience_2 SET view = 'full'", "event_audience_2", "different"),
    ],
)
async def test_damaged_rows_are_told_and_healed(
    database: Database, known: Projection, sql: str, table: str, counts: str
) -> None:
    await database.live(random.Random(3), 60)
    await database.follow()
    rows = database.rows(known)
    database.tamper(sql)
    assert database.rows(known) != rows
    await asyncio.to_thread(rebuild, database.recorder, database.url, known, Quiet(), processes=1)
    comparison = await asyncio.to_thread(look, database.recorder, known, Quiet())
    found = {part.table: part for part in comparison if not part.equal}
    assert set(found) == {table}
    assert getattr(found[table], counts) > 0
    await asyncio.to_thread(switch, database.recorder, known, Quiet())
    assert database.rows(known) == rows


async def test_sums_are_counted_again_and_told_when_they_were_wrong(database: Database) -> None:
    await database.live(random.Random(3), 20)
    rows = database.rows(USAGE)
    (before,) = await asyncio.to_thread(count_again, database.recorder, USAGE, Quiet())
    assert before.equal
    database.tamper(f"UPDATE {USAGE.tables[0].name} SET images = images + 1")
    (before,) = await asyncio.to_thread(count_again, database.recorder, USAGE, Quiet())
    assert before.different > 0
    assert database.rows(USAGE) == rows


@pytest.mark.parametrize("known", BUILT, ids=lambda known: known.name)
async def test_what_happens_between_building_and_switching_is_caught_up_with(
    database: Database, known: Projection
) -> None:
    """New images and changes of old ones, more than one page of them; followers behind or ahead."""
    await database.live(random.Random(1), 60)
    old = database.ids
    await asyncio.to_thread(rebuild, database.recorder, database.url, known, Quiet(), processes=1)
    assert spare_of(database.recorder.fetch_now, known) is not None
    chance = random.Random(2)
    await database.live(chance, 150)
    await database.follow()
    assert [
        part
        for part in await asyncio.to_thread(look, database.recorder, known, Quiet())
        if not part.equal
    ] == []
    for _ in range(40):
        await database.change(chance.choice(old), chance.choice(WISHES), chance)
    position = await asyncio.to_thread(switch, database.recorder, known, Quiet())
    assert position == database.recorder.max_notification_id()
    if known.follower is not None:
        assert database.recorder.max_tracking_id(known.follower) == position
    assert list(differences(database.recorder, known)) == []
    assert spare_of(database.recorder.fetch_now, known) is None


async def test_a_follower_with_a_page_in_hand_writes_nothing_old_after_a_switch(
    database: Database,
) -> None:
    """Its lease has a new epoch: it starts over, and reads the moment before from the new table."""
    await database.live(random.Random(1), 30)
    await database.follow()
    database.tamper("UPDATE log_moments_2 SET clock = '9'")
    fold = VERSIONS.follow(database.recorder, {})
    assert VERSIONS.follower is not None
    follower = Follower(database.recorder, VERSIONS.follower, fold, holder="h")
    following = asyncio.create_task(follower.run())
    await database.live(random.Random(2), 30)  # Followed with what is remembered of the damage.
    head = database.recorder.max_notification_id() or 0
    while follower.position < head:  # noqa: ASYNC110 - it reports to nobody
        await asyncio.sleep(0.01)
    await asyncio.to_thread(database.rebuild, VERSIONS)
    await database.live(random.Random(4), 30)
    head = database.recorder.max_notification_id() or 0
    while follower.position < head:  # noqa: ASYNC110 - it reports to nobody
        await asyncio.sleep(0.01)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert list(differences(database.recorder, VERSIONS)) == []


async def test_of_two_rebuilds_at_once_the_second_is_refused(database: Database) -> None:
    await database.live(random.Random(1), 5)

    def both() -> None:
        with held(database.recorder, "rebuild:images"):
            for act in (database.rebuild, lambda known: switch(database.recorder, known, Quiet())):
                with pytest.raises(LeaseTaken, match="another process"):
                    act(IMAGES)
        database.rebuild(IMAGES)

    tables = database.tables()
    await asyncio.to_thread(both)
    assert database.tables() == tables


async def test_what_is_left_over_is_removed_and_nothing_built_is_refused(
    database: Database,
) -> None:
    await database.live(random.Random(1), 20)
    tables = database.tables()
    with pytest.raises(NothingBuilt, match="images"):
        await asyncio.to_thread(switch, database.recorder, IMAGES, Quiet())
    for _ in range(2):
        await asyncio.to_thread(
            rebuild, database.recorder, database.url, IMAGES, Quiet(), processes=1
        )
        assert len(database.tables()) == len(tables) + len(IMAGES.tables)
    await asyncio.to_thread(database.rebuild, IMAGES)
    assert database.tables() == tables


async def test_while_a_rebuild_goes_on_and_ends_no_append_and_no_read_fails(
    database: Database,
) -> None:
    """In one process: the writer's and the readers' statements were prepared on other tables."""
    await database.live(random.Random(1), 40)
    ended = threading.Event()

    def again_and_again() -> None:
        try:
            for _ in range(2):
                database.rebuild(IMAGES)
        finally:
            ended.set()

    rebuilding = asyncio.create_task(asyncio.to_thread(again_and_again))
    chance, rounds = random.Random(5), 0
    while not ended.is_set():
        await database.live(chance, 10)
        rows = await database.recorder.fetch(
            "SELECT count(*) FROM images_1 i JOIN image_blobs_1 b ON b.image_id = i.id"
        )
        assert rows
        rounds += 1
    await rebuilding
    assert rounds > 3
    assert list(differences(database.recorder, IMAGES)) == []
