"""`calotype history`: the same facts as the API, for people and for scripts."""

import json
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow


def test_the_command_tells_what_the_api_tells_and_the_past_is_served(
    service: Any, until: Any
) -> None:
    """On a running service, with its own follower; the history is readable after it stopped."""
    service.start()
    url = service.url
    image = requests.post(f"{url}/v2/images", json={"name": "[red]a[/red]"}, timeout=30).json()
    path = f"{url}/log/v1/images/{image['id']}"
    first = requests.get(f"{path}/history", timeout=30).json()["changes"][0]["position"]
    headers = {"X-Openstack-Request-Id": "req-tagging"}
    requests.put(f"{url}/v2/images/{image['id']}/tags/t", headers=headers, timeout=30)
    requests.delete(f"{url}/v2/images/{image['id']}", timeout=30)
    then = requests.get(f"{path}?as_of={first}", timeout=30)
    assert (then.status_code, then.json()) == (200, image)
    told = requests.get(f"{path}/history", timeout=30).json()["changes"]
    assert service.terminate() == 0
    lines = service.run("history", image["id"], "--json")
    assert lines.returncode == 0, lines.stderr
    assert [json.loads(line) for line in lines.stdout.splitlines()] == told
    later = service.run("history", image["id"], "--json", "--after", first)
    assert [json.loads(line) for line in later.stdout.splitlines()] == told[1:]
    service.environment["COLUMNS"] = "200"
    table = service.run("history", image["id"])
    assert table.returncode == 0, table.stderr
    for text in ("[red]a[/red]", "req-tagging", "image.tag_added", 'tags = ["t"]'):
        assert text in table.stdout


def test_what_cannot_be_answered_is_one_line(make_service: Any) -> None:
    service = make_service()
    unmigrated = service.run("history", "11111111-2222-3333-4444-555555555555")
    assert unmigrated.returncode == 2
    service.folder.mkdir(exist_ok=True)
    assert service.run("migrate").returncode == 0
    for image, code, text in (
        ("11111111-2222-3333-4444-555555555555", 1, "No image found"),
        ("nonsense", 1, "No image found"),
    ):
        done = service.run("history", image)
        assert (done.returncode, text in done.stderr) == (code, True)
    done = service.run("history", "nonsense", "--after", "p000000000000-1")
    assert (done.returncode, "'--after' is a position of another" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr + unmigrated.stderr
