"""What a tenant sends does not stay in the memory of a process."""

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MEBIBYTE = 1 << 20


def resident_megabytes(service: Any) -> int:
    for line in Path(f"/proc/{service.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024
    raise AssertionError


def call(service: Any, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(service.url + path, data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def at_once(service: Any, method: str, paths: list[str], body: Any = None) -> list[Any]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda path: call(service, method, path, body), paths))


def test_huge_properties_are_refused_and_leave_nothing(service: Any) -> None:
    service.start()
    assert call(service, "POST", "/v2/images", {"name": "first"})[0] == 201
    before = resident_megabytes(service)
    for size, setting in ((15, b"http.json_body_bytes"), (3, b"limits.property_value_bytes")):
        body = {"big": "x" * (size * MEBIBYTE)}
        answers = at_once(service, "POST", ["/v2/images"] * 40, body)
        assert {status for status, _ in answers} == {413}
        assert all(setting in text for _, text in answers)
    assert resident_megabytes(service) < before + 80


def test_many_large_images_do_not_fill_the_memory(service: Any) -> None:
    """What is cached is bounded by bytes: three times as many images take hardly more.

    Without the bound two more rounds take 360 MB; what followers have in hand moves the figure.
    """
    service.environment = {"CALOTYPE_LOG__CACHE_BYTES": str(8 * MEBIBYTE)}
    service.start()
    document = {f"p{number}": "x" * (63 << 10) for number in range(16)}
    resident = []
    for _ in range(3):
        created = at_once(service, "POST", ["/v2/images"] * 50, document)
        ids = [json.loads(text)["id"] for _, text in created]
        answers = at_once(service, "PUT", [f"/v2/images/{image_id}/tags/t" for image_id in ids])
        assert {status for status, _ in answers} == {204}
        resident.append(resident_megabytes(service))
    assert resident[2] < resident[0] + 160, resident
    assert resident[2] < 500, resident
