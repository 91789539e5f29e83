"""`calotype consumers`, beside a service that runs."""

import json
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow


def _told(done: Any) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_consumer_is_made_watched_repaired_and_deleted_from_the_shell(make_service: Any) -> None:
    service = make_service(COLUMNS="250")
    service.start()
    for _ in range(2):
        requests.post(f"{service.url}/v2/images", json={"name": "n"}, timeout=30)
    url = f"{service.url}/log/v1/consumers/cmdb"
    made = _told(
        service.run("consumers", "create", "cmdb", "--type", "image.created", "--max-attempts", "1")
    )
    assert (made["lag"]["events"], made["max_attempts"]) == (2, 1)
    assert made["created_by"].startswith("cli:")
    taken = requests.post(f"{url}/fetch", json={"member": "m1"}, timeout=30).json()["deliveries"]
    listed = service.run("consumers", "list")
    assert listed.returncode == 0, listed.stderr
    assert "cmdb" in listed.stdout
    assert "m1" in listed.stdout
    [row] = [json.loads(line) for line in service.run("consumers", "list", "--json").stdout.split()]
    assert (row["name"], row["claimed"]) == ("cmdb", 2)
    failed = [{"token": one["token"], "error": "[red]boom[/red]"} for one in taken]
    requests.post(f"{url}/ack", json={"failed": failed}, timeout=30)
    assert "[red]boom[/red]" in service.run("consumers", "parked", "cmdb").stdout
    rows = service.run("consumers", "parked", "cmdb", "--json").stdout.splitlines()
    positions = [json.loads(row)["position"] for row in rows]
    assert positions == [one["event"]["id"] for one in taken]
    assert service.run("consumers", "redeliver", "cmdb").returncode == 2
    done = service.run("consumers", "redeliver", "cmdb", positions[0])
    assert done.stdout.split() == ["redelivered", positions[0]]
    again = service.run("consumers", "redeliver", "cmdb", positions[0])
    assert (again.returncode, positions[0] in again.stderr) == (1, True)
    done = service.run("consumers", "discard", "cmdb", "--all")
    assert done.stdout.split() == ["discarded", positions[1]]
    assert _told(service.run("consumers", "show", "cmdb"))["waiting"] == 1
    assert _told(service.run("consumers", "seek", "cmdb", "end"))["lag"]["events"] == 0
    wrong = service.run("consumers", "seek", "cmdb", "p000000000000-1")
    assert (wrong.returncode, "another event log" in wrong.stderr) == (2, True)
    assert service.run("consumers", "create", "webhook:x").returncode == 2
    assert service.run("consumers", "show", "cmdb", "--project", "p1").returncode == 1
    assert service.run("consumers", "delete", "cmdb").returncode == 0
    assert requests.get(url, timeout=30).status_code == 404
