"""Who asks for dear lists hurts those who show images little more than who asks for cheap ones.

A real service on a log of many images; one process shows an image again and again, another has
sixteen callers who list. How often the image is shown beside the cheapest list is compared with how
often beside a dear one, in short windows in turn, so that what else the machine does meets both.

The cheapest list that reads is one that finds nothing by an index: those who wait for each answer
before they ask again ask for it most often. Of dearer lists fewer are asked for; what would hurt
others is a list that keeps the interpreter, the database or its connections busy for long.
"""

import importlib.util
import random
import statistics
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calotype.http.paths import link
from tests.bench.processes import Partner

pytestmark = pytest.mark.slow

FEW_IMAGES, MANY_IMAGES = 20_000, 100_000
"""In the ordinary and in the long form."""
CALLERS = 16
MOST, MOST_OF_FEW_ROUNDS = 1.5, 3.0
"""How many times as much a dear list may hurt; and where a busy machine is not waited for."""
WINDOW_SECONDS, GLANCE_SECONDS = 0.5, 0.3
FEWEST_ROUNDS, MOST_ROUNDS = 5, 30
"""A busy machine gets more rounds, of which the middle one counts."""
PAIRS, DEAREST = 100, 4
ADMIN = {"X-User-Id": "a", "X-Project-Id": "ops", "X-Roles": "admin"}
MEMBER = {"X-User-Id": "b", "X-Project-Id": "big", "X-Roles": "member"}
CHEAPEST = (ADMIN, "/v2/images?checksum=ff")
SHOW = f"/v2/images/{uuid.UUID(int=77)}"
IDS = "in:" + ",".join(str(uuid.UUID(int=n * 7)) for n in range(100))
KNOWN = [
    (ADMIN, (("id", IDS),)),
    (MEMBER, (("id", IDS),)),
    (ADMIN, (("sort_key", "name"), ("limit", "1000"))),
    (MEMBER, (("created_at", "lt:2026-04-10T18:00:00Z"), ("limit", "1000"))),
    (ADMIN, (("tag", "common"), ("size_min", "999990"), ("sort", "id:asc"))),
    (ADMIN, (("sort", "status:asc,name:desc"),)),
]
"""Lists that hurt more than others once."""

Asked = tuple[dict[str, str], str]


def _path(parameters: Any) -> str:
    return link("/v2/images", parameters)


@pytest.fixture(scope="module")
def reads() -> ModuleType:
    """The world of the test that counts what lists read."""
    path = Path(__file__).with_name("test_list_reads.py")
    spec = importlib.util.spec_from_file_location("list_reads", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Beside:
    """Shows an image beside callers who list."""

    def __init__(self, port: int, listing: Partner, showing: Partner) -> None:
        self._port, self._listing, self._showing = port, listing, showing

    def shown(self, asked: Asked, seconds: float = WINDOW_SECONDS) -> float:
        """How many times a second the image is shown beside callers of this list."""
        headers, path = asked
        self._prepare(self._listing, CALLERS, path, headers, seconds)
        self._prepare(self._showing, 1, SHOW, ADMIN, seconds)
        with ThreadPoolExecutor(2) as threads:
            lists, shows = threads.map(lambda one: one.ask({}), (self._listing, self._showing))
        assert set(shows["statuses"]) == {"200"}
        assert set(lists["statuses"]) <= ({"200"} if asked == CHEAPEST else {"200", "503"}), asked
        assert sum(lists["statuses"].values()) >= CALLERS
        return float(len(shows["latencies"]) / shows["seconds"])

    def _prepare(
        self, load: Partner, callers: int, path: str, headers: dict[str, str], seconds: float
    ) -> None:
        job = {"port": self._port, "connections": callers, "method": "GET", "paths": [path]}
        until = {"count": 10_000_000, "seconds": seconds, "give_up_seconds": seconds + 60}
        assert load.ask({**job, **until, "headers": headers, "expect": 200}) == {"ready": True}

    def harm(self, asked: Asked, most: float) -> float:
        """How many times as much this list hurts as the cheapest one."""
        ratios: list[float] = []
        while len(ratios) < FEWEST_ROUNDS or (
            statistics.median(ratios) > most and len(ratios) < MOST_ROUNDS
        ):
            ratios.append(self.shown(CHEAPEST) / self.shown(asked))
        return statistics.median(ratios)


@pytest.fixture
def beside(request: pytest.FixtureRequest, service: Any, reads: ModuleType) -> Iterator[Beside]:
    images = MANY_IMAGES if request.node.get_closest_marker("long") else FEW_IMAGES
    service.environment = {"CALOTYPE_IDENTITY__KIND": "headers"}
    service.folder.mkdir()
    kind = reads.OnPostgres if service.log_url else reads.OnSqlite
    kind(service.log_url or f"sqlite:///{service.folder}/log.sqlite", images).close()
    service.start()
    with ExitStack() as stack:
        loads = [stack.enter_context(Partner("tests.bench.load")) for _ in range(2)]
        yield Beside(service.port, *loads)


def test_callers_of_lists_that_once_hurt_others_no_longer_do(beside: Beside) -> None:
    _hurt_little(beside, [(who, _path(one)) for who, one in KNOWN[:3]], MOST_OF_FEW_ROUNDS)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_sixteen_callers_of_dear_lists_hurt_others_little_more(beside: Beside) -> None:
    _hurt_little(beside, [(who, _path(one)) for who, one in KNOWN])


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_dearest_of_all_filters_pairs_and_sorts_hurts_little_more(
    beside: Beside, reads: ModuleType
) -> None:
    chance = random.Random(7)
    lists = [*((single,) for single in reads.SINGLES), *reads.SORTS]
    asked = [(who, _path(one)) for one in lists for who in (ADMIN, MEMBER)]
    asked += [
        (chance.choice((ADMIN, MEMBER)), _path(pair))
        for pair in chance.sample(reads._all_pairs(), PAIRS)
    ]
    asked.sort(key=lambda one: beside.shown(one, GLANCE_SECONDS))
    _hurt_little(beside, asked[:DEAREST])


def _hurt_little(beside: Beside, lists: list[Asked], most: float = MOST) -> None:
    harms = [(round(beside.harm(one, most), 2), one[0]["X-User-Id"], one[1]) for one in lists]
    for harm, who, path in harms:
        print(harm, who, path[:100])
    assert [one for one in harms if one[0] > most] == []
