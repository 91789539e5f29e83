"""Whatever is sent, over every route, on a real process: no 5xx, nothing hangs, nothing leaks.

`make fuzz REQUESTS=100000 SEED=n` sends as many as one likes.
"""

import asyncio
import os
import uuid
from types import ModuleType
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow

REQUESTS = int(os.environ.get("CALOTYPE_FUZZ_REQUESTS", "20000"))
SEED = int(os.environ.get("CALOTYPE_FUZZ_SEED", "1"))
ADMIN = {"X-User-Id": "fuzz", "X-Project-Id": "red", "X-Roles": "admin"}
HEADERS_IDENTITY = {"CALOTYPE_IDENTITY__KIND": "headers"}
OCTETS = {**ADMIN, "Content-Type": "application/octet-stream"}


def _prepared(service: Any) -> dict[str, list[str]]:
    """Images in several states, a consumer and a webhook: more than an empty service has."""
    images = [str(uuid.uuid4())]
    for number in range(4):
        body = {"disk_format": "raw", "container_format": "bare", "tags": ["a"], "x": "y"}
        made = requests.post(f"{service.url}/v2/images", json=body, headers=ADMIN, timeout=30)
        images.append(made.json()["id"])
        if number:
            url = f"{service.url}/v2/images/{images[-1]}/file"
            done = requests.put(url, data=b"0123456789" * 9, headers=OCTETS, timeout=30)
            assert done.status_code == 204, done.text
    path = f"{service.url}/log/v1/consumers/a"
    assert requests.put(path, json={}, headers=ADMIN, timeout=30).status_code == 201
    page = requests.get(f"{service.url}/log/v1/events", headers=ADMIN, timeout=30)
    positions = [page.headers["Calotype-Position"], page.json()[0]["id"]]
    names = {"name": ["a", "image", "images"], "tag": ["a"], "member": ["red", "blue"]}
    return {"image_id": images, "type": ["image.created"], "position": positions, **names}


def _attacked(hostile: ModuleType, service: Any, count: int, seed: int) -> None:
    service.environment = {**service.environment, **HEADERS_IDENTITY}
    service.start()
    known = hostile.Known(_prepared(service))
    result = asyncio.run(hostile.attack(service.port, known, requests=count, seed=seed))
    print(f"seed {seed}: {result.line()}")
    assert not result.failed, "\n".join(result.failed[:20])
    assert result.sent == count
    assert len(result.statuses) > 8, result.line()  # Else they did not get past the first door.
    assert requests.get(f"{service.url}/healthcheck", timeout=30).text == "OK"
    refused = [line for line in service.lines if '"request failed"' in line]
    assert not refused, refused[:3]


def test_two_thousand_hostile_requests_get_no_5xx_and_none_hangs(
    hostile: ModuleType, make_service: Any
) -> None:
    _attacked(hostile, make_service(), 2000, SEED)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_as_many_hostile_requests_as_one_likes_get_no_5xx_and_none_hangs(
    hostile: ModuleType, service: Any
) -> None:
    _attacked(hostile, service, REQUESTS, SEED)
