"""The disk with the event log is really full: reading, deleting and restarting go on."""

import os
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow

FORMATS = {"disk_format": "raw", "container_format": "bare"}
BLOCK_BYTES = 4096
OCTETS = {"Content-Type": "application/octet-stream"}


class Disk:
    """A file system of 64 MiB in a file."""

    def __init__(self, folder: Path) -> None:
        self.mount = folder / "disk"
        self._image = folder / "disk.img"
        self._filler = self.mount / "filler"

    def make(self) -> None:
        self.mount.mkdir()
        with self._image.open("wb") as file:
            file.truncate(64 << 20)
        # Without blocks that only root may use, because the tests are root.
        subprocess.run(
            ["mkfs.ext4", "-q", "-m", "0", "-b", str(BLOCK_BYTES), self._image], check=True
        )
        subprocess.run(["mount", "-o", "loop", self._image, self.mount], check=True)

    def fill(self) -> None:
        """Takes all the room that there is, down to the last block."""
        with self._filler.open("ab", buffering=0) as file:
            for size_bytes in (1 << 20, BLOCK_BYTES):
                with suppress(OSError):
                    while True:
                        os.fsync(file.fileno())
                        file.write(bytes(size_bytes))

    def clear(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.fail("only root can mount a file system: run the tests as root")
    disk = Disk(tmp_path)
    disk.make()
    yield disk
    subprocess.run(["umount", "--lazy", disk.mount], check=True)


@pytest.fixture
def full(make_service: Any, disk: Disk, until: Any) -> Any:
    """`(service, ids of active images)` on a disk that is full."""
    service = make_service()
    service.folder = disk.mount / "data"
    service.start()
    images = [_create(service).json()["id"] for _ in range(14)]
    for image in images:
        url = f"{service.url}/v2/images/{image}/file"
        assert requests.put(url, data=b"data", headers=OCTETS, timeout=30).status_code == 204
    until((service.folder / "log.sqlite.reserve").exists)
    disk.fill()
    return service, images


def _create(service: Any) -> requests.Response:
    return requests.post(f"{service.url}/v2/images", json=FORMATS, timeout=30)


def _status(service: Any, path: str) -> int:
    return requests.get(service.url + path, timeout=30).status_code


def _delete(service: Any, image: str) -> int:
    return requests.delete(f"{service.url}/v2/images/{image}", timeout=30).status_code


def _refused(service: Any, until: Any) -> None:
    """Makes images until there is no room for another one, and looks at what is said then."""
    until(lambda: _create(service).status_code == 503)
    refused = _create(service)
    assert refused.status_code == 503
    assert str(service.folder) not in refused.text


def test_images_are_read_and_deleted_and_the_rest_is_refused_until_there_is_room(
    full: Any, disk: Disk, until: Any
) -> None:
    service, images = full
    _refused(service, until)
    for image in images[:10]:
        assert _delete(service, image) == 204
        assert _status(service, f"/v2/images/{image}") == 404
        disk.fill()
    assert _create(service).status_code == 503
    health = requests.get(f"{service.url}/healthcheck", timeout=30)
    assert (health.status_code, "no space" in health.text) == (503, True)
    assert str(service.folder) not in health.text
    for path in ("", f"/{images[10]}", f"/{images[10]}/file"):
        assert _status(service, f"/v2/images{path}") == 200
    disk.clear()
    until(lambda: _create(service).status_code == 201)
    until(lambda: _status(service, "/healthcheck") == 200)
    until((service.folder / "log.sqlite.reserve").exists)
    until(lambda: len(list((service.folder / "images").glob("[!.]*"))) == 4)


@pytest.mark.parametrize("ending", ["kill", "terminate"])
def test_a_restart_on_a_full_disk_serves_reads_and_deletes(
    full: Any, disk: Disk, until: Any, ending: str
) -> None:
    service, images = full
    _refused(service, until)
    getattr(service, ending)()
    disk.fill()
    service.start()
    for path in ("", f"/{images[0]}", f"/{images[0]}/file"):
        assert _status(service, f"/v2/images{path}") == 200
    assert _delete(service, images[0]) == 204
    assert _status(service, f"/v2/images/{images[0]}") == 404


def test_a_damaged_page_makes_writes_503_and_health_tells(make_service: Any, until: Any) -> None:
    service = make_service()
    service.start()
    image = _create(service).json()["id"]
    service.terminate()
    path = service.folder / "log.sqlite"
    with sqlite3.connect(path) as connection:
        sql = "SELECT rootpage FROM sqlite_master WHERE name GLOB 'images_[0-9]*_age'"
        (page,) = connection.execute(sql).fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)
    service.start()
    assert _status(service, f"/v2/images/{image}") == 200
    refused = _create(service)
    assert refused.status_code == 503
    health = requests.get(f"{service.url}/healthcheck", timeout=30)
    assert health.status_code == 503
    # Leases can still be written, and say nothing about the rest of the file.
    until(lambda: "is damaged" in requests.get(f"{service.url}/healthcheck", timeout=30).text)
    for answer in (refused, health):
        assert str(service.folder) not in answer.text


def test_nobody_else_may_read_the_log(make_service: Any) -> None:
    service = make_service()
    service.start()
    _create(service)
    files = [service.folder / f"log.sqlite{end}" for end in ("", "-wal", "-shm", ".head")]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    assert modes == dict.fromkeys(modes, 0o600)
    assert stat.S_IMODE(service.folder.stat().st_mode) == 0o700
    service.terminate()
    (service.folder / "log.sqlite").chmod(0o644)  # As earlier releases made it.
    service.start()
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    service.terminate()
    (service.folder / "log.sqlite").chmod(0o640)  # Somebody's backup reads it.
    service.start()
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o640
