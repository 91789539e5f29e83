"""Drills with three PostgreSQLs under Patroni: the primary is lost while many write."""

import asyncio
import itertools
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from calotype.projections.engine.positions import positions_now
from calotype.projections.feed import audience
from calotype.projections.past import row_versions
from calotype.stores.log.opening import open_log
from tests.backends.patroni import Cluster, Node

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

WRITERS, PAUSE_SECONDS = 64, 0.4
BATCH_SECONDS, CONNECT_SECONDS = 3, 2
LATE_SECONDS = BATCH_SECONDS / 2
SOON_SECONDS = BATCH_SECONDS + CONNECT_SECONDS + 3
"""After the promotion, until the first write."""
SEEN_LATE_SECONDS = 3.0
"""On a busy machine: after the promotion, until we see it."""
FORMATS = {"disk_format": "raw", "container_format": "bare"}

FAULTS: dict[str, tuple[Callable[[Node], None], Callable[[Node], None]]] = {
    "killed": (Node.kill, Node.start),
    "frozen": (Node.freeze, Node.thaw),
    "cut off": (Node.cut_off, Node.join),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Not below pytest's own folder: other runs of the same user may take that away."""
    with tempfile.TemporaryDirectory(prefix="calotype-", ignore_cleanup_errors=True) as folder:
        with Cluster(Path(folder)) as cluster:
            yield cluster


@pytest.fixture
def services(cluster: Cluster, tmp_path: Path, service_class: Any) -> Iterator[list[Any]]:
    """Two processes on the cluster, with short times."""
    url = cluster.create_database(f"drill_{uuid4().hex}")
    times = {
        "CALOTYPE_LOG__BATCH_SECONDS": str(BATCH_SECONDS),
        "CALOTYPE_LOG__CONNECT_SECONDS": str(CONNECT_SECONDS),
    }
    made = [service_class(tmp_path / "data", url, **times) for _ in range(2)]
    for service in made:
        service.start()
    yield made
    for service in made:
        service.kill()


@dataclass
class Load:
    """What clients did, and what they were told; times are of the monotonic clock."""

    services: list[Any]
    acknowledged: list[tuple[float, str]] = field(default_factory=list)
    """When which image was said to be created, in the order in which each writer heard it."""
    by_writer: dict[int, list[str]] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    health: list[tuple[float, float, int, int]] = field(default_factory=list)
    """When health was asked, when the answer came, which service, its status."""
    told: list[str] = field(default_factory=list)
    """The positions that the feed's stream gave."""
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            watching = [
                asyncio.create_task(self._read_stream(session)),
                *(asyncio.create_task(self._ask_health(session, n)) for n in range(2)),
            ]
            await asyncio.gather(*(self._write(session, n) for n in range(WRITERS)))
            async with asyncio.timeout(60):
                while self.told[-1:] != [self._last_position()]:  # noqa: ASYNC110 - a process
                    await asyncio.sleep(0.5)
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    def _last_position(self) -> str:
        recorder = open_log(self.services[0].log_url)
        try:
            return positions_now(recorder).encode(recorder.max_notification_id() or 0)
        finally:
            recorder.close_now()

    async def _write(self, session: aiohttp.ClientSession, writer: int) -> None:
        """Creates images; one whose fate is unknown is tried again until it is known."""
        heard = self.by_writer.setdefault(writer, [])
        for url in itertools.cycle(service.url for service in self.services):
            if self.ended.is_set():
                return
            image_id = str(uuid4())
            status = 0
            while status not in (201, 409):
                body = {"id": image_id, **FORMATS}
                timeout = aiohttp.ClientTimeout(60)
                async with session.post(f"{url}/v2/images", json=body, timeout=timeout) as answer:
                    status = answer.status
                self.answers[status] += 1
                assert status in (201, 409, 503)
                if status == 503:
                    await asyncio.sleep(0.5)
            self.acknowledged.append((time.monotonic(), image_id))
            heard.append(image_id)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _ask_health(self, session: aiohttp.ClientSession, number: int) -> None:
        while True:
            asked = time.monotonic()
            async with session.get(f"{self.services[number].url}/healthcheck") as answer:
                self.health.append((asked, time.monotonic(), number, answer.status))
            await asyncio.sleep(0.25)

    async def _read_stream(self, session: aiohttp.ClientSession) -> None:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": ""}
        url = f"{self.services[0].url}/log/v1/events"
        timeout = aiohttp.ClientTimeout(total=None)
        while True:
            given = {name: value for name, value in headers.items() if value}
            async with session.get(url, headers=given, timeout=timeout) as answer:
                if answer.status == 200:
                    event = ""
                    async for line in answer.content:
                        if line.startswith(b"id: "):
                            event = line[4:].decode().strip()
                            headers["Last-Event-ID"] = event
                        elif line.startswith(b"data: "):
                            self.told.append(event)
            await asyncio.sleep(0.2)


def _promoted_at(cluster: Cluster, lost: Node, seconds: float) -> float:
    deadline = time.monotonic() + seconds
    while cluster.primary(other_than=lost) is None:
        assert time.monotonic() < deadline, "no standby took over"
        time.sleep(0.1)
    return time.monotonic()


@pytest.mark.parametrize("fault", FAULTS)
def test_writing_goes_on_when_the_primary_is(
    fault: str, cluster: Cluster, services: list[Any], until: Any
) -> None:
    """Nothing acknowledged is lost or doubled, the order is kept, and health tells the truth."""
    strike, heal = FAULTS[fault]
    primary = cluster.wait_until_whole()
    load = Load(services)
    thread = threading.Thread(target=load.run)
    thread.start()
    healed = False
    try:
        until(lambda: len(load.acknowledged) > 200)
        struck_at = time.monotonic()
        strike(primary)
        promoted_at = _promoted_at(cluster, primary, 90)
        until(lambda: load.acknowledged[-1][0] > promoted_at)
        count = len(load.acknowledged)
        until(lambda: len(load.acknowledged) > count + 200)
        heal(primary)  # What was the primary comes back while all go on.
        healed = True
        cluster.wait_until_whole()
        count = len(load.acknowledged)
        until(lambda: len(load.acknowledged) > count + 200)
    finally:
        load.ended.set()
        if not healed:
            heal(primary)
        thread.join(180)
    assert not thread.is_alive()
    print(f"{fault}: {len(load.acknowledged)} acknowledged, answers {dict(load.answers)}")
    _check_times(load, struck_at, promoted_at)
    _check_log(load, services[0])


def _check_times(load: Load, struck_at: float, promoted_at: float) -> None:
    times = [at for at, _ in load.acknowledged]
    first = next(at for at in times if at > promoted_at)
    gap_began = max((at for at in times if at < first), default=struck_at)
    print(
        f"promoted after {promoted_at - struck_at:.1f} s, written {first - promoted_at:.1f} s later"
    )
    assert first - promoted_at < SOON_SECONDS
    # While no write got through: 503, from shortly after the beginning to shortly before the end.
    hung = [
        (asked - gap_began, number, status)
        for asked, _, number, status in load.health
        if gap_began + LATE_SECONDS + 1.5 < asked < promoted_at - SEEN_LATE_SECONDS
    ]
    assert len(hung) > 10
    assert {status for _, _, status in hung} == {503}, hung
    assert max(answered - asked for asked, answered, _, _ in load.health) < SOON_SECONDS
    assert load.health[-1][3] == 200


def _check_log(load: Load, service: Any) -> None:
    recorder = open_log(service.log_url)
    positions: list[int] = []
    created: dict[str, int] = {}
    while page := recorder.select_notifications(len(positions) + 1, 1000):
        for one in page:
            positions.append(one.id)
            if one.topic == "image.created":
                assert str(one.originator_id) not in created, "written twice"
                created[str(one.originator_id)] = one.id
    assert positions == list(range(1, len(positions) + 1))
    assert {image_id for _, image_id in load.acknowledged} <= created.keys()
    for heard in load.by_writer.values():
        order = [created[image_id] for image_id in heard]
        assert order == sorted(order)
    rows = recorder.fetch_now("SELECT id FROM images_1")
    assert {str(row[0]) for row in rows} == created.keys()
    deadline = time.monotonic() + 60
    for name in (audience.FOLLOWER, row_versions.FOLLOWER):
        while recorder.max_tracking_id(name) != positions[-1]:
            assert time.monotonic() < deadline, name
            time.sleep(0.2)
    stream = positions_now(recorder)
    assert [stream.decode(event, "id") for event in load.told] == positions
    recorder.close_now()
