"""`calotype restorable|restore|purge`, beside a service that runs."""

import json
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow

FORMATS = {"disk_format": "raw", "container_format": "bare"}
OCTETS = {"Content-Type": "application/octet-stream"}


def _deleted(url: str, name: str, data: bytes) -> str:
    image = requests.post(f"{url}/v2/images", json={"name": name, **FORMATS}, timeout=30).json()
    path = f"{url}/v2/images/{image['id']}"
    assert requests.put(f"{path}/file", data=data, headers=OCTETS, timeout=30).status_code == 204
    assert requests.delete(path, timeout=30).status_code == 204
    return str(image["id"])


def test_what_one_user_deleted_comes_back_in_one_go(make_service: Any) -> None:
    service = make_service(CALOTYPE_DELETION__RETENTION_SECONDS="3600")
    service.start()
    ids = [_deleted(service.url, f"[red]{n}[/red]", b"bytes of %d" % n) for n in range(3)]
    listed = service.run("restorable", "--json")
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [row["id"] for row in rows] == ids[::-1]
    service.environment["COLUMNS"] = "250"
    assert "[red]1[/red]" in service.run("restorable").stdout
    user = rows[0]["deleted_by"]["user"]
    some = service.run(
        "restore", "--deleted-by", user, "--from", rows[1]["deleted_at"], "--dry-run"
    )
    assert some.stdout.split() == ["would", "restore", ids[2], "would", "restore", ids[1]]
    assert requests.get(f"{service.url}/v2/images/{ids[1]}", timeout=30).status_code == 404
    assert service.run("restore", "--deleted-by", "nobody").stdout == ""
    done = service.run("restore", "--deleted-by", user, "--from", rows[1]["deleted_at"])
    assert done.returncode == 0, done.stderr
    for number in (1, 2):
        path = f"{service.url}/v2/images/{ids[number]}/file"
        assert requests.get(path, timeout=30).content == b"bytes of %d" % number
    history = requests.get(f"{service.url}/log/v1/images/{ids[1]}/history", timeout=30).json()
    last = history["changes"][-1]
    assert last["type"] == "image.restored"
    assert last["actor"]["user"].startswith("cli:")


def test_a_purge_is_for_good_and_says_why(make_service: Any, until: Any) -> None:
    service = make_service(CALOTYPE_DELETION__RETENTION_SECONDS="3600")
    service.start()
    image = _deleted(service.url, "secret", b"personal data")
    kept = list(service.folder.rglob(f"{image}*"))
    assert kept
    assert service.run("purge", image).returncode == 2  # Nothing goes without a reason.
    done = service.run("purge", image, "--reason", "erasure asked for")
    assert done.returncode == 0, done.stderr
    again = service.run("purge", image, "--reason", "erasure asked for")
    assert (again.returncode, image in again.stderr) == (1, True)
    late = service.run("restore", image)
    assert (late.returncode, "Traceback" in late.stderr) == (1, False)
    until(lambda: not any(path.exists() for path in kept))
    history = requests.get(f"{service.url}/log/v1/images/{image}/history", timeout=30).json()
    assert "erasure asked for" in json.dumps(history["changes"])


def test_what_cannot_be_understood_is_one_line_that_names_it(make_service: Any) -> None:
    service = make_service()
    service.folder.mkdir(exist_ok=True)
    assert service.run("migrate").returncode == 0
    unknown = "11111111-2222-3333-4444-555555555555"
    for arguments, code, text in (
        (["restore"], 2, "IMAGE"),
        (["restore", unknown, "--deleted-by", "u"], 2, "IMAGE"),
        (["restore", "--from", "yesterday"], 2, "--from"),
        (["restore", unknown], 1, unknown),
        (["purge", unknown, "--reason", "r"], 1, unknown),
    ):
        done = service.run(*arguments)
        assert (done.returncode, text in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr
