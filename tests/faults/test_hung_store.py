"""A store that neither answers nor fails: requests get 503 in time, and nothing stays of them.

A real FUSE file system and a real S3 server, both stopped with SIGSTOP.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests

from tests.backends.seaweedfs import SeaweedFS

pytestmark = pytest.mark.slow

MIB = 1 << 20
DEADLINE = 2.0


class Mount:
    """A directory behind a FUSE daemon that can be made to answer nobody."""

    def __init__(self, behind: Path, directory: Path) -> None:
        self.behind, self.directory = behind, directory
        for path in (behind, directory):
            path.mkdir()
        self._daemon = subprocess.Popen(["bindfs", "-f", str(behind), str(directory)])

    def hang(self) -> None:
        os.kill(self._daemon.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._daemon.pid, signal.SIGCONT)

    def close(self) -> None:
        self.go_on()
        subprocess.run(["fusermount3", "-u", "-z", str(self.directory)], check=True, timeout=30)
        self._daemon.wait(30)


@pytest.fixture
def mount(tmp_path: Path, until: Any) -> Iterator[Mount]:
    mount = Mount(tmp_path / "behind", tmp_path / "mounted")
    try:
        until(lambda: os.path.ismount(mount.directory))
        yield mount
    finally:
        mount.close()


@pytest.fixture
def on_mount(make_service: Any, mount: Mount, uploading: ModuleType) -> Any:
    """A running service whose store is that directory."""
    service = make_service(
        CALOTYPE_STORE__DIRECTORY=str(mount.directory),
        CALOTYPE_STORE__DEADLINE_SECONDS=str(DEADLINE),
        CALOTYPE_HTTP__GRACE_SECONDS="1",
        **uploading.SHORT_LEASES,
    )
    service.start()
    return service


def _put(service: Any, image_id: str, data: bytes) -> requests.Response:
    url = f"{service.url}/v2/images/{image_id}/file"
    headers = {"Content-Type": "application/octet-stream"}
    return requests.put(url, data=data, headers=headers, timeout=60)


def test_a_file_system_that_hangs_holds_no_request_and_keeps_nothing(
    on_mount: Any, mount: Mount, uploading: ModuleType, until: Any
) -> None:
    stored, begun, later = (uploading.create(on_mount) for _ in range(3))
    assert _put(on_mount, stored, b"x" * MIB * 3).status_code == 204
    slow = uploading.SlowUpload(on_mount, begun, 20 * MIB)
    slow.send(4 * MIB)
    until(lambda: len(uploading.left(mount.behind)) == 2)
    mount.hang()
    slow.finish()
    assert slow.answer() == 503
    assert uploading.status(on_mount, begun) == "queued"
    assert _put(on_mount, later, b"small").status_code == 503
    assert uploading.status(on_mount, later) == "queued"
    url = f"{on_mount.url}/v2/images/{stored}"
    assert requests.get(f"{url}/file", timeout=60).status_code == 503
    assert requests.delete(url, timeout=60).status_code == 204
    mount.go_on()
    until(lambda: not uploading.left(mount.behind))
    assert _put(on_mount, later, b"small").status_code == 204
    assert requests.get(f"{on_mount.url}/v2/images/{later}/file", timeout=60).content == b"small"


def test_a_file_system_that_hangs_counts_as_down_and_does_not_keep_the_process(
    on_mount: Any, mount: Mount, uploading: ModuleType
) -> None:
    mount.hang()
    images = [uploading.create(on_mount) for _ in range(10)]
    uploads = [uploading.SlowUpload(on_mount, image, 3 * MIB) for image in images[:9]]
    for upload in uploads:
        upload.finish()
    assert {upload.answer() for upload in uploads} == {503}
    asked_at = time.monotonic()
    assert _put(on_mount, images[9], b"more").status_code == 503
    assert time.monotonic() - asked_at < DEADLINE
    assert {uploading.status(on_mount, image) for image in images} == {"queued"}
    assert on_mount.terminate() == 0


def test_an_s3_server_that_hangs_holds_no_request_and_keeps_nothing(
    make_service: Any, tmp_path: Path, uploading: ModuleType, until: Any
) -> None:
    with SeaweedFS(tmp_path / "s3") as s3:
        s3.make_bucket("images")
        service = make_service(
            CALOTYPE_STORE__KIND="s3",
            CALOTYPE_STORE__ENDPOINT=s3.endpoint,
            CALOTYPE_STORE__BUCKET="images",
            CALOTYPE_STORE__ACCESS_KEY=s3.access_key,
            CALOTYPE_STORE__SECRET_KEY=s3.secret_key,
            CALOTYPE_STORE__DEADLINE_SECONDS=str(DEADLINE),
            CALOTYPE_STORE__TIMEOUT_SECONDS="20",
            **uploading.SHORT_LEASES,
        )
        service.start()
        image = uploading.create(service)
        slow = uploading.SlowUpload(service, image, 20 * MIB)
        slow.send(10 * MIB)
        until(lambda: s3.open_uploads("images"))
        s3.freeze()
        try:
            slow.finish()
            assert slow.answer() == 503
            assert uploading.status(service, image) == "queued"
        finally:
            s3.thaw()
        until(lambda: not s3.open_uploads("images"))
        assert _put(service, image, b"again").status_code == 204
        assert service.terminate() == 0
