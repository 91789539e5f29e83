"""kill -9 while sealing: the next process goes on, and the tree is as if nothing had happened."""

import asyncio
import re
import sqlite3
import threading
import time
from typing import Any

import aiohttp
import psycopg
import pytest
import requests

from calotype.projections.seal import merkle, verify_proof
from calotype.projections.seal.seal import event_leaf, events_after
from calotype.stores.log.opening import open_log

pytestmark = pytest.mark.slow


async def _create_until_it_dies(service: Any) -> None:
    async with aiohttp.ClientSession() as session:

        async def create() -> None:
            while True:
                try:
                    async with session.post(f"{service.url}/v2/images", json={"name": "n"}):
                        pass
                except aiohttp.ClientError:
                    return

        await asyncio.gather(*(create() for _ in range(8)))


def _checkpoint(service: Any, verifier: verify_proof.Verifier) -> verify_proof.Checkpoint | None:
    answer = requests.get(f"{service.url}/log/v1/checkpoint", timeout=30)
    return (
        verify_proof.open_checkpoint(answer.text, [verifier]) if answer.status_code == 200 else None
    )


def _log_root(service: Any, size: int) -> bytes:
    recorder = open_log(service.log_url or f"sqlite:///{service.folder / 'log.sqlite'}")
    tree = merkle.CompactRange()
    for event in events_after(recorder, 0, size):
        tree.append(event_leaf(event))
    recorder.close_now()
    assert tree.size == size
    return tree.root()


def test_the_sealer_survives_kill_9_and_goes_on(service: Any, until: Any) -> None:
    made = service.run("audit", "key", "--name", "kill.example/log")
    assert made.returncode == 0, made.stderr
    verifier = verify_proof.read_verifier(made.stdout)
    for _ in range(3):
        service.start()
        killer = threading.Timer(1.5, service.kill)
        killer.start()
        asyncio.run(_create_until_it_dies(service))
        killer.join()
    service.start()
    requests.post(f"{service.url}/v2/images", json={"name": "last"}, timeout=30)
    last = _position(service)

    def sealed() -> verify_proof.Checkpoint | None:
        point = _checkpoint(service, verifier)
        return point if point is not None and point.size >= last else None

    before = until(sealed)
    assert before.size > 100
    assert before.root == _log_root(service, before.size)
    done = service.run("audit", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The log is what was sealed." in done.stdout


def test_a_seal_that_is_broken_is_told_and_never_blocks_the_api(service: Any, until: Any) -> None:
    assert service.run("audit", "key").returncode == 0
    service.start()
    for _ in range(3):
        assert _create(service) == 201
    until(
        lambda: requests.get(f"{service.url}/log/v1/tile/0/000.p/3", timeout=30).status_code == 200
    )
    service.terminate()
    # One more that is not sealed: a log whose last event is another one is not served at all.
    service.environment["CALOTYPE_AUDIT__SEAL"] = "false"
    service.start()
    assert _create(service) == 201
    service.terminate()
    del service.environment["CALOTYPE_AUDIT__SEAL"]
    _change_by_hand(service, "UPDATE stored_events SET topic = 'x' WHERE notification_id = 3")
    service.start()
    assert _create(service) == 201
    until(lambda: any("-3 is not the one that was sealed" in line for line in service.lines))
    assert _create(service) == 201
    done = service.run("audit", "verify")
    assert done.returncode == 1
    assert re.search("DOES NOT FIT at position p[0-9a-f]+-3:", done.stdout), done.stdout


def test_sealing_can_be_turned_off(make_service: Any) -> None:
    service = make_service(CALOTYPE_AUDIT__SEAL="false")
    service.start()
    assert _create(service) == 201
    time.sleep(2.5)
    assert requests.get(f"{service.url}/log/v1/checkpoint", timeout=30).status_code == 404
    assert not (service.folder / "audit.key").exists()


def _create(service: Any) -> int:
    return requests.post(f"{service.url}/v2/images", json={"name": "n"}, timeout=30).status_code


def _change_by_hand(service: Any, sql: str) -> None:
    if service.log_url:
        with psycopg.connect(service.log_url) as connection:
            connection.execute(sql)
    else:
        with sqlite3.connect(service.folder / "log.sqlite") as connection:
            connection.execute(sql)


def _position(service: Any) -> int:
    recorder = open_log(service.log_url or f"sqlite:///{service.folder / 'log.sqlite'}")
    last = recorder.max_notification_id()
    recorder.close_now()
    assert last is not None
    return last
