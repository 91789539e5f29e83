"""`calotype projections`, beside a service that runs."""

import sqlite3
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow


def test_a_running_service_is_verified_and_a_changed_row_is_named(make_service: Any) -> None:
    service = make_service()
    service.start()
    images = [requests.post(f"{service.url}/v2/images", json={}, timeout=30) for _ in range(3)]
    service.environment["COLUMNS"] = "160"
    status = service.run("projections", "status")
    assert status.returncode == 0, status.stderr
    for text in ("images_1", "versions", "event_audience_2", "every append"):
        assert text in status.stdout
    done = service.run("projections", "verify")
    assert (done.returncode, done.stdout.count(": fits the log")) == (0, 4), done.stderr
    image_id = images[1].json()["id"]
    with sqlite3.connect(service.folder / "log.sqlite", timeout=30) as connection:
        changed = connection.execute("UPDATE images_1 SET name = 'x' WHERE id = ?", (image_id,))
        assert changed.rowcount == 1
    connection.close()
    done = service.run("projections", "verify", "images")
    assert done.returncode == 1
    assert f"images_1 {image_id}: differs in name" in done.stdout


def test_an_unknown_projection_is_named(make_service: Any) -> None:
    service = make_service()
    service.folder.mkdir(exist_ok=True)
    assert service.run("projections", "verify").returncode == 2  # There are no tables yet.
    assert service.run("migrate").returncode == 0
    done = service.run("projections", "verify", "pictures")
    assert (done.returncode, "pictures" in done.stderr) == (2, True)
