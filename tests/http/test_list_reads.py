"""What lists read: rows and index entries, however many images there are.

The images are written straight into the query tables, by the rows that the projection makes of
them; statistics are up to date. Every filter with a rare and a common value, every sort, and pairs
of filters are asked for as an administrator, as a project that owns much, and as one that owns
little. PostgreSQL says what it read (EXPLAIN), of SQLite the steps of its machine are counted.
"""

import itertools
import os
import random
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from calotype.commands.images.image import Image, create
from calotype.commands.policy.actor import Actor, Cause, with_implied
from calotype.commands.policy.policy import DEFAULT_POLICY
from calotype.http.v2.filters import SORT_KEYS, parse_list
from calotype.projections.images.queries import Queries
from calotype.projections.images.rows import all_rows_of
from calotype.projections.images.tables import TABLES
from calotype.stores.log.opening import open_log
from calotype.stores.log.postgres.reading import PAGE_SETTINGS, READ_SETTINGS
from calotype.stores.log.statements import numbered

PAGE = 26
"""Rows that a page of the default size reads at least."""
MOST = 50
"""How many times as many a single filter or sort may read."""
MOST_OF_PAIRS = 200
"""The same of the bounded steps of a pair: candidates are counted, and each is asked for tags."""
SCANNED_SHARE = 0.2
"""How many of the pairs may end in a scan, which docs/lists.md tells of."""
FEW_IMAGES = 20_000
MANY_IMAGES = 100_000
PAIRS = 60
"""How many pairs of filters the ordinary suite asks for, of each caller."""
BORN = datetime(2026, 1, 1, tzinfo=UTC)
CAUSE = Cause({"user": "u", "project": "big", "roles": ["admin"]}, "req-1", None, "c")
MEMBER = with_implied({"member"})
CALLERS = {
    "admin": Actor("a", "ops", with_implied({"admin"}), policy=DEFAULT_POLICY),
    "big": Actor("b", "big", MEMBER, policy=DEFAULT_POLICY),
    "small": Actor("s", "small", MEMBER, policy=DEFAULT_POLICY),
    "nobody": Actor("n", None, MEMBER, policy=DEFAULT_POLICY),
}
SINGLES = [
    ("name", "common"),
    ("name", "rare"),
    ("name", "in:common,rare,none"),
    ("name", "in:" + ",".join(f"image-{n}" for n in range(100))),
    ("status", "active"),
    ("status", "queued"),
    ("status", "deactivated"),
    ("status", "in:queued,deactivated"),
    ("id", str(uuid.UUID(int=77))),
    ("id", "in:" + ",".join(str(uuid.UUID(int=n * 7)) for n in range(100))),
    ("container_format", "bare"),
    ("container_format", "ovf"),
    ("disk_format", "qcow2"),
    ("disk_format", "iso"),
    ("disk_format", "in:iso,vhd"),
    ("checksum", f"{5:032x}"),
    ("os_hash_algo", "sha512"),
    ("os_hash_algo", "sha256"),
    ("os_hash_value", f"{5:0128x}"),
    ("owner", "small"),
    ("owner", "big"),
    ("size", "12345"),
    ("size_min", "1000"),
    ("size_min", "999000"),
    ("size_max", "999000"),
    ("size_max", "1000"),
    ("virtual_size", "24690"),
    ("virtual_size_min", "2000"),
    ("virtual_size_min", "1998000"),
    ("virtual_size_max", "2000"),
    ("min_disk", "0"),
    ("min_disk", "20"),
    ("min_disk", "500"),
    ("min_disk_min", "20"),
    ("min_disk_min", "500"),
    ("min_disk_max", "20"),
    ("min_ram", "512"),
    ("min_ram", "65536"),
    ("min_ram_min", "512"),
    ("min_ram_min", "65536"),
    ("min_ram_max", "512"),
    ("protected", "true"),
    ("protected", "false"),
    ("os_hidden", "true"),
    ("os_hidden", "false"),
    ("visibility", "public"),
    ("visibility", "private"),
    ("visibility", "shared"),
    ("visibility", "community"),
    ("visibility", "all"),
    ("member_status", "pending"),
    ("member_status", "accepted"),
    ("member_status", "rejected"),
    ("member_status", "all"),
    *[
        (name, f"{operator}:2026-{day}:00:00Z")
        for name in ("created_at", "updated_at")
        for operator in ("gt", "gte", "lt", "lte", "eq", "neq")
        for day in ("01-01T06", "02-20T00", "04-10T18")
    ],
    ("tag", "common"),
    ("tag", "rare"),
    ("os_distro", "common"),
    ("os_distro", "rare"),
    ("os_distro", "nobody-has-it"),
]
SORTS = [(("sort_key", key), ("sort_dir", way)) for key in SORT_KEYS for way in ("asc", "desc")]


def _image(number: int, images: int) -> Image:
    """Image number so many of a world of so many. Of every 1000 it is as the numbers here say."""
    chance = random.Random(number)

    def choose(*choices: tuple[int, Any]) -> Any:
        return chance.choices([c[1] for c in choices], [c[0] for c in choices])[0]

    visibility = choose((3, "public"), (3, "community"), (200, "private"), (794, "shared"))
    fields = {
        "name": choose((25, "common"), (974, f"image-{number}"), (1, None)),
        "visibility": visibility,
        "protected": chance.random() < 0.005,
        "os_hidden": chance.random() < 0.03,
        "owner": choose((200, "big"), (2, "small"), (796, f"p{number % 50}"), (2, None)),
        "disk_format": choose((800, "qcow2"), (198, "raw"), (2, "iso")),
        "container_format": choose((998, "bare"), (2, "ovf")),
        "min_disk": choose((700, 0), (298, 20), (2, 500)),
        "min_ram": choose((700, 0), (298, 512), (2, 65536)),
    }
    if number % (images // 8) == 0:
        fields["name"] = "rare"
    tags = ["common"] * (chance.random() < 0.1) + ["rare"] * (number % (images // 8) == 1)
    distro = choose((100, "common"), (900, f"distro-{number % 9}"))
    properties = {"os_distro": "rare" if number % (images // 8) == 2 else distro, "arch": "x"}
    image = create(
        CAUSE,
        image_id=str(uuid.UUID(int=chance.getrandbits(128) if number % 7 else number)),
        fields=fields,
        tags=tags,
        properties=properties,
    )
    born = BORN + timedelta(seconds=number * 86_400 * 100 // images)
    image.created_at = born.strftime("%Y-%m-%dT%H:%M:%SZ")
    image.changed_on = born + timedelta(seconds=chance.randrange(3600))
    image.status = choose((947, "active"), (50, "queued"), (1, "deactivated"), (2, "saving"))
    if image.status == "active":
        image.size = chance.randrange(1_000_000) if number % 999 else 12345
        image.virtual_size = image.size * 2
        image.checksum = f"{number % 9000:032x}"
        image.os_hash_algo = "sha512" if chance.random() < 0.995 else "sha256"
        image.os_hash_value = f"{number % 9000:0128x}"
    if visibility == "shared":
        for project in ("big", "small"):
            if chance.random() < 0.003 and fields["owner"] != project:
                image.add_member(CAUSE, project)
                status = chance.choice(["pending", "accepted", "rejected"])
                image.set_member_status(CAUSE, project, status)
    return image


class World:
    """A filled log whose reads are counted."""

    def __init__(self, url: str, images: int) -> None:
        self.url, self.images = url, images
        self.recorder = open_log(url)
        self.recorder.migrate()
        for table in TABLES:
            self.recorder.fetch_now(f"DROP TABLE IF EXISTS {table.name}")
        self.recorder.create_tables([replace(table, indexes=()) for table in TABLES])
        rows: dict[str, list[tuple[Any, ...]]] = {table.name: [] for table in TABLES}
        for number in range(images):
            for table, row in all_rows_of(_image(number, images)):
                rows[table.name].append(row)
        self._write(rows)
        self.queries = Queries(Counted(self))  # type: ignore[arg-type]
        self.bounded = self.scanned = 0
        """What has been read since `ask`, by statements that are bounded, and by scans."""

    def _write(self, rows: dict[str, list[tuple[Any, ...]]]) -> None:
        raise NotImplementedError

    def reads(self, sql: str, values: dict[str, Any], scan: bool) -> int:
        """How many rows and index entries the statement reads."""
        raise NotImplementedError

    async def ask(self, caller: str, *parameters: tuple[str, str]) -> int:
        """How many images the first page shows; `bounded` and `scanned` tell what that took."""
        self.bounded = self.scanned = 0
        page = await self.queries.page(parse_list(parameters), CALLERS[caller])
        return len(page.images)

    def close(self) -> None:
        self.recorder.close_now()


class Counted:
    """A recorder that counts what its queries read."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def fetch(
        self,
        sql: str,
        values: dict[str, Any] | None = None,
        *,
        heavy: bool = False,
        search: bool = False,
        scan: bool = False,
    ) -> list[tuple[Any, ...]]:
        values = values or {}
        reads = self._world.reads(sql, values, scan)
        if scan:
            self._world.scanned += reads
        else:
            self._world.bounded += reads
        fetch = self._world.recorder.fetch
        return await fetch(sql, values, heavy=heavy, search=search, scan=scan)


class OnPostgres(World):
    def _write(self, rows: dict[str, list[tuple[Any, ...]]]) -> None:
        self.connection = psycopg.connect(
            self.url, autocommit=True, cursor_factory=psycopg.RawCursor
        )
        for name, some in rows.items():
            with self.connection.cursor().copy(f"COPY {name} FROM STDIN".encode()) as copy:
                for row in some:
                    copy.write_row(row)
        self.recorder.create_tables(TABLES)
        self.connection.execute("VACUUM (ANALYZE)")
        # As the statements are planned that are prepared and asked again and again.
        self.connection.execute("SET plan_cache_mode = force_generic_plan")

    def reads(self, sql: str, values: dict[str, Any], scan: bool) -> int:
        text, names = numbered(sql)
        for name, value in PAGE_SETTINGS.items():
            of_scans = READ_SETTINGS.get(name)
            reset = f"RESET {name}" if of_scans is None else f"SET {name} = {of_scans}"
            self.connection.execute(reset if scan else f"SET {name} = {value}")
        explained = self.connection.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {text}",
            [values[name] for name in names],
        ).fetchone()
        assert explained is not None
        plan = explained[0][0]["Plan"]
        self.buffers = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        return round(self._read_by(plan))

    def _read_by(self, node: dict[str, Any]) -> float:
        own = 0.0
        if node["Node Type"] in (
            "Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan",
        ):  # fmt: skip
            removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
            rows = node["Actual Rows"] + sum(node.get(name, 0) for name in removed)
            own = rows * node["Actual Loops"]
        return own + sum(self._read_by(inner) for inner in node.get("Plans", ()))

    def close(self) -> None:
        self.connection.close()
        super().close()


class OnSqlite(World):
    STEPS = 100
    """Steps of the machine for each row that is looked at and asked whether it fits; a mere step
    along an index is ten or so."""

    def _write(self, rows: dict[str, list[tuple[Any, ...]]]) -> None:
        self.connection = sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None)
        sqlite3.register_adapter(uuid.UUID, str)
        self.connection.execute("BEGIN")
        for name, some in rows.items():
            if some:
                marks = ", ".join("?" * len(some[0]))
                self.connection.executemany(f"INSERT INTO {name} VALUES ({marks})", some)
        self.connection.execute("COMMIT")
        self.recorder.create_tables(TABLES)
        self.connection.execute("ANALYZE")

    def reads(self, sql: str, values: dict[str, Any], scan: bool) -> int:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 10
            return 0

        self.connection.set_progress_handler(count, 10)
        self.connection.execute(sql, values).fetchall()
        self.connection.set_progress_handler(None, 0)
        return steps // self.STEPS

    def close(self) -> None:
        self.connection.close()
        super().close()


KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


def _world(request: pytest.FixtureRequest, path: Any, images: int) -> Iterator[World]:
    if request.param == "sqlite":
        made: World = OnSqlite(f"sqlite:///{path / 'log.sqlite'}", images)
    else:
        server = request.getfixturevalue("postgres_server")
        name = f"reads_{uuid.uuid4().hex}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        made = OnPostgres(server.rsplit("/", 1)[0] + f"/{name}", images)
    with closing(made):
        yield made


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[World]:
    yield from _world(request, tmp_path_factory.mktemp("reads"), FEW_IMAGES)


@pytest.fixture(scope="module", params=KINDS)
def large_world(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[World]:
    yield from _world(request, tmp_path_factory.mktemp("reads"), MANY_IMAGES)


async def _singles(world: World, caller: str) -> None:
    found = {}
    asked = [*[(single,) for single in SINGLES], *SORTS, ()]
    for parameters in asked:
        shown = await world.ask(caller, *parameters)
        found[parameters] = (world.bounded + world.scanned, world.scanned, shown)
    if "CALOTYPE_TEST_READS" in os.environ:
        for parameters, reads in sorted(found.items(), key=lambda one: -one[1][0])[:25]:
            print(caller, reads, str(parameters)[:90])
        print(caller, "plain", found[()])
    dear = {what: reads for what, reads in found.items() if reads[0] > MOST * PAGE}
    assert dear == {}


@pytest.mark.parametrize("caller", CALLERS)
async def test_single_filters_and_sorts_read_fifty_pages_at_most(world: World, caller: str) -> None:
    await _singles(world, caller)


@pytest.mark.long
@pytest.mark.parametrize("caller", CALLERS)
async def test_single_filters_and_sorts_read_as_little_of_many_images(
    large_world: World, caller: str
) -> None:
    await _singles(large_world, caller)


async def _pairs(world: World, caller: str, pairs: list[tuple[Any, ...]]) -> None:
    scans = []
    for parameters in pairs:
        await world.ask(caller, *parameters)
        assert world.bounded <= MOST_OF_PAIRS * PAGE, parameters
        if world.scanned:
            scans.append(parameters)
    if "CALOTYPE_TEST_READS" in os.environ:
        print(caller, "scans", len(scans), "of", len(pairs))
        for parameters in scans[:12]:
            print("   ", str(parameters)[:150])
    assert len(scans) <= len(pairs) * SCANNED_SHARE, scans


def _all_pairs() -> list[tuple[Any, ...]]:
    ones = [(single,) for single in SINGLES]
    pairs = [one + two for one, two in itertools.combinations(ones, 2) if one[0][0] != two[0][0]]
    return pairs + [one + sort for one in ones for sort in SORTS]


@pytest.mark.parametrize("caller", CALLERS)
async def test_pairs_are_bounded_until_they_scan_and_few_scan(world: World, caller: str) -> None:
    chance = random.Random(os.environ.get("CALOTYPE_TEST_SEED", "7") + caller)
    await _pairs(world, caller, chance.sample(_all_pairs(), PAIRS))


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("caller", CALLERS)
async def test_all_pairs_of_many_images_are_bounded_until_they_scan(
    large_world: World, caller: str
) -> None:
    await _pairs(large_world, caller, _all_pairs())
