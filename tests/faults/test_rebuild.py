"""Rebuilding beside a service that is written to and read from: nobody notices, however it ends."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from calotype.projections.rebuild.registry import PROJECTIONS
from calotype.stores.log.opening import open_log
from calotype.stores.log.tables import is_spare
from tests.bench import long_log

pytestmark = pytest.mark.slow

FORMATS = {"disk_format": "raw", "container_format": "bare"}
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
EVENTS = 3_000
CLIENTS = 4
PAUSE_SECONDS = 0.02
"""Between the requests of a client: the machine has a rebuild to do as well."""


class Load:
    """Clients that write and read all the time, and remember all that was not as it should be."""

    def __init__(self, url: str) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest_seconds = 0.0
        self._url = url
        self._ended = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()

    async def _run(self) -> None:
        async with aiohttp.ClientSession(self._url) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        chance = random.Random(number)
        while not self._ended:
            image = {**FORMATS, "name": f"n{number}", "tags": ["t"], "k": "1"}
            made = await self._ask(session, "POST", "/v2/images", 201, json=image)
            if made is None:
                continue
            path = f"/v2/images/{made['id']}"
            change = [{"op": "replace", "path": "/k", "value": str(chance.random())}]
            changed = await self._ask(session, "PATCH", path, 200, json=change, headers=PATCH)
            seen = await self._ask(session, "GET", path, 200)
            if changed is not None and seen is not None and seen["k"] != change[0]["value"]:
                self.failures.append(f"{path} shows {seen['k']} after {change[0]['value']}")
            mine = await self._ask(session, "GET", "/v2/images?tag=t&limit=5", 200)
            if mine is not None and len(mine["images"]) == 0:
                self.failures.append("the list is empty")
            await self._ask(session, "GET", f"/log/v1{path[3:]}/history", 200)
            if chance.random() < 0.5:
                await self._ask(session, "DELETE", path, 204)
                await self._ask(session, "GET", path, 404)

    async def _ask(
        self, session: aiohttp.ClientSession, method: str, path: str, expected: int, **more: Any
    ) -> Any:
        await asyncio.sleep(PAUSE_SECONDS)
        started = time.monotonic()
        try:
            async with session.request(method, path, **more) as answer:
                text = await answer.text()
                if answer.status == expected:
                    self.answers[method] += 1
                    return await answer.json() if text and expected < 300 else {}
                self.failures.append(f"{method} {path}: {answer.status} {text[:200]}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failures.append(f"{method} {path}: {error!r}")
        finally:
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)
        return None


def _log_url(service: Any) -> str:
    return service.log_url or f"sqlite:///{service.folder / 'log.sqlite'}"


def _with_a_long_log(service: Any) -> None:
    """Events whose images are in no table yet: only a rebuild brings them there."""
    service.folder.mkdir(exist_ok=True)
    assert service.run("migrate").returncode == 0
    long_log.fill(_log_url(service), EVENTS)


def _rebuild(service: Any, *names: str) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = service.run(
        "projections", "rebuild", *names, "--processes", "1"
    )
    return done


def _spare_tables(service: Any) -> list[str]:
    tables = [table for known in PROJECTIONS for table in known.tables]
    sql = (
        "SELECT relname FROM pg_class WHERE relkind = 'r'"
        if service.log_url
        else "SELECT name FROM sqlite_master WHERE type = 'table'"
    )
    recorder = open_log(_log_url(service))
    names = [str(row[0]) for row in recorder.fetch_now(sql)]
    recorder.close_now()
    return [name for name in names if is_spare(name, tables)]


def test_all_tables_are_rebuilt_while_two_processes_serve_and_no_request_fails(
    service: Any,
) -> None:
    _with_a_long_log(service)
    service.start("--workers", "2")
    with Load(service.url) as load:
        first = _rebuild(service)
        assert first.returncode == 0, first.stdout + first.stderr
        assert "images_1: 0 rows differed" in first.stdout  # They were missing, all of them.
        second = _rebuild(service)
        assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("the tables in use were as the log says") == len(PROJECTIONS)
    assert load.failures == []
    assert min(load.answers[method] for method in ("POST", "PATCH", "GET", "DELETE")) > 20
    verified = service.run("projections", "verify")
    assert verified.returncode == 0, verified.stdout
    assert verified.stdout.count("fits the log") == len(PROJECTIONS)
    assert _spare_tables(service) == []
    assert service.terminate() == 0


def _rebuild_and_kill(service: Any, name: str, at: str) -> None:
    """Starts a rebuild, kills it once it tells of the phase, and waits until all of it is gone."""
    command = [
        sys.executable,
        "-m",
        "calotype.ops",
        "projections",
        "rebuild",
        name,
        "--processes",
        "1",
    ]
    process = subprocess.Popen(
        [*command, *service.options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **service.environment},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"{name}: {at}:"):
            break
    else:
        raise AssertionError(f"never came to '{at}'")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    deadline = time.monotonic() + 30
    while any(_runs(int(pid)) for pid in children):
        assert time.monotonic() < deadline, "its processes did not end with it"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_rebuild_that_is_killed_leaves_the_service_as_it_was(service: Any, until: Any) -> None:
    _with_a_long_log(service)
    assert _rebuild(service, "images").returncode == 0
    service.start("--workers", "2")
    kills = (
        ("images", "events"),
        ("versions", "indexes"),
        ("audience", "events caught up with"),
    )
    with Load(service.url) as load:
        for name, at in kills:
            _rebuild_and_kill(service, name, at)
        assert _spare_tables(service)
        refused = _rebuild(service, "audience")
        assert refused.returncode in (0, 1)
        if refused.returncode == 1:
            assert "another process" in refused.stderr
        until(lambda: _rebuild(service).returncode == 0)
        _rebuild_and_kill(service, "images", "tables removed")
        until(lambda: _rebuild(service, "images").returncode == 0)
    assert load.failures == []
    assert _spare_tables(service) == []
    verified = service.run("projections", "verify")
    assert verified.returncode == 0, verified.stdout
