"""Hundreds at once, several processes, kill -9: a limit is never passed by a byte, and whatever
fits is taken."""

import asyncio
import socket
from typing import Any

import aiohttp
import orjson
import pytest
import requests

from calotype.commands.images.usage import counts
from calotype.projections.rebuild.usage import counters_and_totals
from calotype.stores.log.log import event_mapper
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import added

pytestmark = pytest.mark.slow

FORMATS = {"disk_format": "raw", "container_format": "bare"}
OCTETS = {"Content-Type": "application/octet-stream"}
UPLOADS = 200
SIZE = 4000
KB = 1024


@pytest.fixture
def limited(service: Any) -> Any:
    """Gives a service, not yet started, whose projects may have so many bytes of data."""

    def limited(storage_bytes: int, **more: str) -> Any:
        limit = {"CALOTYPE_LIMITS__USER_STORAGE": f"{storage_bytes}B"}
        service.environment |= {**limit, **more}
        return service

    return limited


def _recorder(service: Any) -> GroupCommitRecorder:
    return open_log(service.log_url or f"sqlite:///{service.folder / 'log.sqlite'}")


def _history(service: Any) -> tuple[list[int], set[str]]:
    """The bytes of the one project after each event, and the processes that took uploads.

    Looks on the way whether the counters are the fold of the log.
    """
    recorder = _recorder(service)
    mapper, images, holders = event_mapper(), {}, set()
    held: tuple[int, ...] | None = None
    history = []
    for found in recorder.select_notifications(1, 100_000):
        image: Any = images.get(found.originator_id)
        before = image.usage if image else None
        image = mapper.to_domain_event(found).mutate(image)
        images[found.originator_id] = image
        for count in counts(before, image.usage):
            held = added(held, count.amounts)
        history.append(held[2] if held else 0)
        holder = orjson.loads(found.state).get("holder")
        holders |= {holder} if holder else set()
    there, expected = counters_and_totals(recorder)
    recorder.close_now()
    assert sorted(there) == sorted(expected)
    return history, holders


async def _upload_at_once(service: Any, announced: Any) -> list[int]:
    """Uploads to 200 images at once, each by its own connection; the statuses."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def create() -> str:
            async with session.post(f"{service.url}/v2/images", json=FORMATS) as answer:
                assert answer.status == 201, await answer.text()
                return str((await answer.json())["id"])

        async def upload(number: int, image_id: str) -> int:
            body = b"x" * SIZE

            async def pieces() -> Any:
                yield body[:1000]
                yield body[1000:]

            data = body if announced(number) else pieces()
            url = f"{service.url}/v2/images/{image_id}/file"
            async with session.put(url, data=data, headers=OCTETS) as answer:
                return answer.status

        async def upload_nothing() -> int:
            url = f"{service.url}/v2/images/{await create()}/file"
            async with session.put(url, data=b"", headers=OCTETS) as answer:
                return answer.status

        # No bytes fit always, so that these tell which processes take uploads: of the others
        # one process may be so quick that it has taken all that fit.
        assert set(await asyncio.gather(*(upload_nothing() for _ in range(40)))) == {204}
        ids = await asyncio.gather(*(create() for _ in range(UPLOADS)))
        return list(
            await asyncio.gather(*(upload(number, each) for number, each in enumerate(ids)))
        )


@pytest.mark.parametrize(
    "announced",
    [lambda number: True, lambda number: number % 2 == 0],
    ids=["sizes announced", "every second size unknown"],
)
def test_of_two_hundred_uploads_at_once_to_two_processes_exactly_those_that_fit_are_taken(
    limited: Any, until: Any, announced: Any
) -> None:
    fit = 57
    service = limited(fit * SIZE + SIZE - 1, CALOTYPE_WORKERS="2")
    service.start()
    until(lambda: sum('"event": "ready"' in line for line in service.lines) == 2)
    statuses = asyncio.run(_upload_at_once(service, announced))
    assert {status: statuses.count(status) for status in set(statuses)} == {
        204: fit,
        413: UPLOADS - fit,
    }
    history, holders = _history(service)
    assert max(history) <= fit * SIZE + SIZE - 1
    assert history[-1] == fit * SIZE
    assert len(holders) == 2


def test_what_a_killed_process_had_reserved_is_free_when_it_is_swept_and_not_before(
    make_service: Any, postgres_url: str, until: Any
) -> None:
    service = make_service(CALOTYPE_LIMITS__USER_STORAGE="10KB")
    service.log_url = postgres_url
    service.start()
    ids = [
        requests.post(f"{service.url}/v2/images", json=FORMATS, timeout=30).json()["id"]
        for _ in range(5)
    ]
    connections = []
    for image_id in ids[:4]:
        connection = socket.create_connection(("127.0.0.1", service.port), timeout=30)
        connection.sendall(
            f"PUT /v2/images/{image_id}/file HTTP/1.1\r\nHost: x\r\n"
            "Content-Type: application/octet-stream\r\n"
            f"Content-Length: {2 * KB}\r\n\r\n".encode()
            + b"x" * 100
        )
        connections.append(connection)

    def status(image_id: str) -> str:
        url = f"{service.url}/v2/images/{image_id}"
        return str(requests.get(url, timeout=30).json()["status"])

    def put(size: int) -> int:
        url = f"{service.url}/v2/images/{ids[4]}/file"
        return requests.put(url, data=b"x" * size, headers=OCTETS, timeout=30).status_code

    until(lambda: all(status(image_id) == "saving" for image_id in ids[:4]))
    requests.delete(f"{service.url}/v2/images/{ids[3]}", timeout=30)
    service.kill()
    for connection in connections:
        connection.close()
    assert _history(service)[0][-1] == 6 * KB
    service.start()
    assert put(4 * KB + 1) == 413
    until(lambda: all(status(image_id) == "queued" for image_id in ids[:3]))
    assert _history(service)[0][-1] == 0
    assert put(10 * KB + 1) == 413
    assert put(10 * KB) == 204
    done = service.run("projections", "verify", "usage")
    assert (done.returncode, done.stdout) == (0, "usage: fits the log\n"), done.stderr


def test_killed_under_load_again_and_again_the_counters_are_the_fold_of_the_log(
    limited: Any,
) -> None:
    service = limited(40 * KB)
    answered = 0

    async def load() -> None:
        nonlocal answered
        answered = 0
        async with aiohttp.ClientSession() as session:

            async def live(number: int) -> None:
                nonlocal answered
                try:
                    while True:
                        async with session.post(f"{service.url}/v2/images", json=FORMATS) as made:
                            image_id = (await made.json())["id"]
                        url = f"{service.url}/v2/images/{image_id}"
                        size = 500 * (number + 1)
                        async with session.put(f"{url}/file", data=b"x" * size, headers=OCTETS):
                            pass
                        async with session.delete(url):
                            answered += 1
                except (aiohttp.ClientError, OSError):
                    return

            lives = asyncio.gather(*(live(number) for number in range(16)))
            while answered < 60:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.to_thread(service.kill)
            await lives

    for _ in range(2):
        service.start()
        asyncio.run(load())
        history, _ = _history(service)
        assert max(history) <= 40 * KB
