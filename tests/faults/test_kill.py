"""kill -9 at the worst moments: nothing is lost, no image is stuck, no orphan stays."""

import asyncio
import hashlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import requests

from calotype.commands.images.image import Image
from calotype.projections.images.rows import image_document
from calotype.stores.log.log import event_mapper
from calotype.stores.log.opening import open_log

pytestmark = pytest.mark.slow

FORMATS = {"disk_format": "raw", "container_format": "bare"}
OCTETS = {"Content-Type": "application/octet-stream"}


def _create(service: Any, **fields: Any) -> str:
    answer = requests.post(f"{service.url}/v2/images", json={**FORMATS, **fields}, timeout=30)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def _status(service: Any, image_id: str) -> str:
    return str(requests.get(f"{service.url}/v2/images/{image_id}", timeout=30).json()["status"])


def _half_an_upload(service: Any, image_id: str, announced: int, sent: int) -> socket.socket:
    """A connection that has sent the head of an upload and part of its body."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=30)
    connection.sendall(
        f"PUT /v2/images/{image_id}/file HTTP/1.1\r\nHost: x\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {announced}\r\n\r\n".encode()
    )
    connection.sendall(b"x" * sent)
    return connection


def _files(service: Any) -> list[Path]:
    return [path for path in (service.folder / "images").rglob("[!.]*") if path.is_file()]


def test_no_acknowledged_command_is_lost_when_the_writer_is_killed_under_load(
    service: Any,
) -> None:
    service.start()
    acknowledged: list[str] = []

    async def load() -> None:
        async with aiohttp.ClientSession() as session:

            async def create() -> None:
                while True:
                    try:
                        async with session.post(
                            f"{service.url}/v2/images", json={**FORMATS, "tags": ["t"]}
                        ) as answer:
                            if answer.status == 201:
                                acknowledged.append((await answer.json())["id"])
                    except aiohttp.ClientError:
                        return

            await asyncio.gather(*(create() for _ in range(16)))

    killer = threading.Timer(2.0, service.kill)
    killer.start()
    asyncio.run(load())
    killer.join()
    assert len(acknowledged) > 100
    _check_log_and_tables(service, acknowledged)
    service.start()
    for image_id in acknowledged[-5:]:
        assert _status(service, image_id) == "queued"


def _check_log_and_tables(service: Any, acknowledged: list[str]) -> None:
    """Replays the log: all acknowledged are in it, and the tables are exactly its fold."""
    recorder = open_log(service.log_url or f"sqlite:///{service.folder / 'log.sqlite'}")
    mapper = event_mapper()
    images: dict[Any, Image] = {}
    positions = []
    while page := recorder.select_notifications(
        positions[-1] if positions else None, 1000, inclusive_of_start=not positions
    ):
        for notification in page:
            positions.append(notification.id)
            event: Any = mapper.to_domain_event(notification)
            images[event.originator_id] = event.mutate(images.get(event.originator_id))
    assert positions == list(range(1, len(positions) + 1))
    assert set(acknowledged) <= {image.image_id for image in images.values()}
    rows = recorder.fetch_now("SELECT id, document FROM images_1")
    documents = {str(row[0]): orjson.loads(row[1]) for row in rows}
    recorder.close_now()
    assert documents == {
        str(image.id): orjson.loads(image_document(image)) for image in images.values()
    }


def test_an_image_is_queued_again_when_its_uploader_was_killed(service: Any, until: Any) -> None:
    service.start()
    image_id = _create(service)
    connection = _half_an_upload(service, image_id, 64 << 20, 20 << 20)
    until(lambda: _status(service, image_id) == "saving" and _files(service))
    service.kill()
    connection.close()
    service.start()
    until(lambda: _status(service, image_id) == "queued", 60.0)
    until(lambda: not _files(service))  # Nobody calls reconcile.
    data = os.urandom(3 << 20)
    answer = requests.put(
        f"{service.url}/v2/images/{image_id}/file", data=data, headers=OCTETS, timeout=60
    )
    assert answer.status_code == 204
    shown = requests.get(f"{service.url}/v2/images/{image_id}", timeout=30).json()
    assert shown["os_hash_value"] == hashlib.sha512(data).hexdigest()


def test_a_client_that_vanishes_in_mid_upload_leaves_a_queued_image_and_nothing_else(
    service: Any, until: Any
) -> None:
    service.start()
    image_id = _create(service)
    connection = _half_an_upload(service, image_id, 8 << 20, 5 << 20)
    until(lambda: _status(service, image_id) == "saving")
    connection.close()
    until(lambda: _status(service, image_id) == "queued")
    until(lambda: not _files(service))
    again = requests.put(
        f"{service.url}/v2/images/{image_id}/file", data=b"abc", headers=OCTETS, timeout=30
    )
    assert again.status_code == 204


def test_an_image_deleted_in_mid_upload_tells_the_uploader_and_leaves_nothing(
    service: Any, until: Any
) -> None:
    service.start()
    image_id = _create(service)
    connection = _half_an_upload(service, image_id, 4 << 20, 3 << 20)
    until(lambda: _status(service, image_id) == "saving")
    assert requests.delete(f"{service.url}/v2/images/{image_id}", timeout=30).status_code == 204
    connection.sendall(b"x" * (1 << 20))
    assert connection.recv(100).startswith(b"HTTP/1.1 410 ")
    until(lambda: not _files(service))
    connection.close()


def test_bytes_of_a_killed_delete_are_removed_after_the_restart(service: Any, until: Any) -> None:
    service.start()
    image_id = _create(service)
    requests.put(
        f"{service.url}/v2/images/{image_id}/file", data=b"x" * 1000, headers=OCTETS, timeout=30
    )
    (path,) = _files(service)
    service.kill()
    # The delete's event is in the log but the process died before it touched the store.
    data = path.read_bytes()
    service.start()
    assert requests.delete(f"{service.url}/v2/images/{image_id}", timeout=30).status_code == 204
    until(lambda: not _files(service))
    path.write_bytes(data)  # As if that had never happened: now it is an orphan.
    done = service.run("reconcile", "--grace-seconds", "0")
    assert "orphan" in done.stdout
    assert _files(service) == []


def test_reconcile_reports_missing_bytes_and_touches_nothing_in_a_dry_run(service: Any) -> None:
    service.start()
    kept, lost = _create(service, name="kept"), _create(service, name="lost")
    for image_id in (kept, lost):
        requests.put(
            f"{service.url}/v2/images/{image_id}/file", data=b"data", headers=OCTETS, timeout=30
        )
    next(path for path in _files(service) if path.name.startswith(lost)).unlink()
    stray = service.folder / "images" / "stray"
    stray.write_bytes(b"?")
    done = service.run("reconcile", "--grace-seconds", "0", "--dry-run")
    assert done.returncode == 1
    assert f"of image {lost}" in done.stdout
    assert kept not in done.stdout
    assert stray.exists()


def test_no_secret_of_the_log_url_is_written_anywhere(make_service: Any, postgres_url: str) -> None:
    service = make_service()
    service.log_url = postgres_url.replace("postgres@", "postgres:MARKER-SECRET@", 1)
    service.start()
    _create(service)
    shown = service.run("status")
    service.terminate()
    assert "MARKER-SECRET" not in "".join(service.lines) + shown.stdout + shown.stderr
