"""A page of the list is what a plain Python model of the rules says, on both databases."""

import operator
import random
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from calotype.commands.errors import Forbidden, Invalid
from calotype.commands.images.image import Image, create
from calotype.commands.policy.actor import Actor, Cause, with_implied
from calotype.commands.policy.policy import DEFAULT_POLICY
from calotype.projections.images import walks
from calotype.projections.images.listing import Filter, ListQuery
from calotype.projections.images.queries import Queries
from calotype.projections.images.rows import rows_of
from calotype.projections.images.tables import TABLES
from calotype.stores.log.log import EventLog
from calotype.stores.log.opening import open_log

CAUSE = Cause({"user": "u", "project": "p1", "roles": ["admin"]}, "req-1", None, "c")
PROJECTS = ("p1", "p2", "p3")
MEMBER = with_implied({"member"})
CALLERS = {
    "p1": Actor("u1", "p1", MEMBER, policy=DEFAULT_POLICY),
    "p2": Actor("u2", "p2", MEMBER, policy=DEFAULT_POLICY),
    "admin": Actor("a", "p3", with_implied({"admin"}), policy=DEFAULT_POLICY),
    "nobody": Actor("n", None, MEMBER, policy=DEFAULT_POLICY),
}
SORT_KEYS = ("name", "status", "disk_format", "size", "id", "created_at", "updated_at")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def world(request: Any, tmp_path: Any) -> AsyncIterator[tuple[Any, list[Image]]]:
    """Sixty images of all kinds, through the ordinary write path."""
    url = (
        f"sqlite:///{tmp_path / 'log.sqlite'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    recorder = open_log(url)
    recorder.migrate()
    recorder.create_tables(TABLES)
    log = EventLog(recorder, rows_of)
    images = [_make(random.Random(seed)) for seed in range(60)]
    for image in images:
        await log.create(image)
    yield recorder, images
    await recorder.close()


def _make(chance: random.Random) -> Image:
    fields = {
        "name": chance.choice([None, "", "a", "b", "B", "ä"]),
        "visibility": chance.choice(["public", "private", "shared", "community"]),
        "protected": chance.random() < 0.3,
        "os_hidden": chance.random() < 0.15,
        "owner": chance.choice([*PROJECTS, None]),
        "disk_format": chance.choice([None, "raw", "qcow2"]),
        "container_format": "bare",
        "min_disk": chance.choice([0, 1, 2]),
        "min_ram": chance.choice([0, 0, 512]),
    }
    image = create(
        CAUSE,
        image_id=str(uuid.UUID(int=chance.getrandbits(128))),
        fields=fields,
        tags=chance.sample(["x", "y", "z"], chance.randrange(3)),
        properties={
            name: chance.choice(["1", "2"]) for name in ("k", "l") if chance.random() < 0.7
        },
    )
    if fields["disk_format"] and chance.random() < 0.5:
        url = f"file:///s/{image.id}"
        image.start_upload(CAUSE, upload_id="u", store="default", url=url, holder="h")
        image.store_data(
            CAUSE,
            upload_id="u",
            url=url,
            size=chance.choice([1, 2, 3]),
            virtual_size=chance.choice([None, 7]),
            checksum=chance.choice(["c", "d"]),
            os_hash_algo=chance.choice(["sha512", "sha256"]),
            os_hash_value=chance.choice(["v", "w"]),
        )
    for project in chance.sample(PROJECTS, chance.randrange(3)):
        image.add_member(CAUSE, project)
        image.set_member_status(CAUSE, project, chance.choice(["pending", "accepted", "rejected"]))
    return image


def _listed(image: Image, actor: Actor, query: ListQuery) -> bool:
    """The rules of reference/image-api.md section 6.1, one by one."""
    mine = actor.project is not None and image.owner == actor.project
    kind, wanted = image.visibility, query.visibility
    if wanted not in (None, "all", kind):
        return False
    if actor.is_admin:
        return wanted is not None or kind != "community" or mine
    if actor.project is None:
        return kind == "public" or (kind == "community" and wanted in ("community", "all"))
    if kind == "community":
        return mine or wanted in ("community", "all")
    known = image.members.get(actor.project)
    invited = known is not None and query.member_status in (known.status, "all")
    return mine or kind == "public" or (kind == "shared" and invited)


def _matches(image: Image, query: ListQuery) -> bool:
    if image.fields["os_hidden"] != query.hidden or not set(query.tags) <= set(image.tags):
        return False
    if any(image.properties.get(name) != value for name, value in query.properties):
        return False
    for condition in query.filters:
        value = _value(image, condition.column)
        if value is None:
            return False
        if condition.operator == "in":
            if value not in condition.values:
                return False
        elif not getattr(operator, _PYTHON.get(condition.operator, condition.operator))(
            value, condition.values[0]
        ):
            return False
    return True


_PYTHON = {"neq": "ne", "gte": "ge", "lte": "le"}


def _value(image: Image, column: str) -> Any:
    if column == "id":
        return str(image.id)
    return image.fields[column] if column in image.fields else getattr(image, column)


def _sort_value(image: Image, key: str) -> Any:
    if key == "id":
        return str(image.id)
    if key == "size":
        return -1 if image.size is None else image.size
    value = image.fields[key] if key in image.fields else getattr(image, key)
    return (value or "").encode()


def _expected(images: list[Image], actor: Actor, query: ListQuery) -> list[str]:
    chosen = [i for i in images if _listed(i, actor, query) and _matches(i, query)]
    for key, way in reversed(query.sort):
        chosen.sort(key=lambda image, key=key: _sort_value(image, key), reverse=way == "desc")
    return [image.image_id for image in chosen]


def _queries() -> list[ListQuery]:
    chance = random.Random(7)
    queries = []
    for _ in range(150):
        keys = chance.sample(SORT_KEYS, chance.randrange(3))
        ways = [chance.choice(["asc", "desc"]) for _ in keys]
        last = ways[0] if len(set(ways)) == 1 else "desc"
        sort = dict(zip(keys, ways, strict=True))
        for key in ("created_at", "id"):
            sort.setdefault(key, last)
        queries.append(
            ListQuery(
                limit=chance.choice([1, 3, 7, 100]),
                sort=tuple(sort.items()),
                visibility=chance.choice(
                    [None, None, "public", "private", "shared", "community", "all"]
                ),
                member_status=chance.choice(["accepted", "pending", "all"]),
                hidden=chance.random() < 0.2,
                tags=tuple(chance.sample(["x", "y"], chance.choice([0, 0, 1, 2]))),
                properties=chance.choice(
                    [(), (), (), (("k", "1"),), (("k", "2"), ("l", "1")), (("k", "1"), ("k", "2"))]
                ),
                filters=tuple(chance.sample(FILTERS, chance.choice([0, 0, 1, 1, 2]))),
            )
        )
    return queries


FILTERS = [
    Filter("name", "eq", ("a",)),
    Filter("name", "in", ("a", "B", "")),
    Filter("name", "in", tuple("abcdefghijB")),
    Filter("size", "gte", (2,)),
    Filter("size", "lte", (2,)),
    Filter("size", "eq", (3,)),
    Filter("size", "eq", (-1,)),
    Filter("virtual_size", "eq", (7,)),
    Filter("virtual_size", "lte", (9,)),
    Filter("status", "eq", ("active",)),
    Filter("status", "eq", ("queued",)),
    Filter("status", "in", ("queued", "active")),
    Filter("protected", "eq", (True,)),
    Filter("protected", "eq", (False,)),
    Filter("min_disk", "eq", (1,)),
    Filter("min_disk", "eq", (0,)),
    Filter("min_disk", "lte", (1,)),
    Filter("min_ram", "gte", (1,)),
    Filter("min_ram", "gte", (0,)),
    Filter("container_format", "eq", ("bare",)),
    Filter("disk_format", "in", ("raw", "iso")),
    Filter("checksum", "eq", ("d",)),
    Filter("os_hash_algo", "eq", ("sha256",)),
    Filter("os_hash_value", "eq", ("w",)),
    Filter("owner", "eq", ("p2",)),
    Filter("created_at", "lte", ("2999-01-01T00:00:00Z",)),
    Filter("created_at", "neq", ("2001-01-01T00:00:00Z",)),
    Filter("updated_at", "gte", ("2001-01-01T00:00:00Z",)),
    Filter("updated_at", "lt", ("2001-01-01T00:00:00Z",)),
]


@pytest.mark.parametrize(
    ("bounds", "page_bytes"),
    [((30, 14, 26), 1 << 20), ((1, 1, 1), 900), ((1, 3, 4), 1 << 20), ((0, 2, 1), 2500)],
)
async def test_walking_page_by_page_gives_the_whole_list_in_order(
    world: Any, bounds: tuple[int, int, int], page_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the steps finds the page: with tight bounds most lists go through all.

    And wherever a page is cut because its documents are large.
    """
    for name, bound in zip(("FEW_PAGES", "WALKED_PAGES", "SMALLEST_PAGE"), bounds, strict=True):
        monkeypatch.setattr(walks, name, bound)
    recorder, images = world
    queries = Queries(recorder, page_bytes)
    for number, query in enumerate(_queries()):
        for name, actor in CALLERS.items():
            walked: list[str] = []
            marker = None
            for _ in range(200):
                page = await queries.page(_with_marker(query, marker), actor)
                walked += [_id(row) for row in page.images]
                size = sum(len(row[0]) for row in page.images)
                assert size <= page_bytes or len(page.images) == 1
                short = len(page.images) < query.limit and page.next_marker is not None
                assert not short or size > page_bytes - 1500, "cut without need"
                marker = page.next_marker
                if marker is None:
                    break
            assert walked == _expected(images, actor, query), (number, name, query)


def _with_marker(query: ListQuery, marker: str | None) -> ListQuery:
    from dataclasses import replace

    return replace(query, marker=marker)


def _id(row: tuple[str, str, str]) -> str:
    import orjson

    return str(orjson.loads(row[0])["id"])


async def test_an_unknown_marker_is_invalid_and_a_foreign_one_forbidden(world: Any) -> None:
    recorder, images = world
    queries = Queries(recorder)
    for marker in (str(uuid.uuid4()), "nonsense"):
        with pytest.raises(Invalid, match="marker"):
            await queries.page(ListQuery(limit=1, marker=marker), CALLERS["p1"])
    hidden_from_p1 = next(
        image
        for image in images
        if image.visibility == "private" and image.owner not in ("p1", None)
    )
    with pytest.raises(Forbidden):
        await queries.page(ListQuery(limit=1, marker=hidden_from_p1.image_id), CALLERS["p1"])


async def test_values_that_no_row_can_hold_match_nothing(world: Any) -> None:
    queries = Queries(world[0])
    for condition in (Filter("id", "eq", ("no uuid",)), Filter("size", "gte", (2**70,))):
        page = await queries.page(ListQuery(limit=5, filters=(condition,)), CALLERS["admin"])
        assert page.images == []
