"""A real `calotype serve` process for real clients, and a real disk image to send."""

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.backends.service import Service

DISKS = (
    Path("/usr/lib/grub-rescue/grub-rescue-cdrom.iso"),
    Path("/usr/lib/grub-rescue/grub-rescue-floppy.img"),
)
"""Disks that packages of the distribution bring along; any of them boots."""


@contextmanager
def serving(folder: Path, log_url: str | None = None, **environment: str) -> Iterator[str]:
    """Runs the service on a free port and gives its URL; then stops it as an operator would.

    Fails unless it becomes ready and, after SIGTERM, leaves with exit code 0.
    """
    service = Service(folder, log_url, **environment)
    service.start()
    try:
        yield service.url
    finally:
        code = service.terminate()
    lines = service.lines
    assert code == 0, lines
    # Nothing that a client did may have surprised the service.
    assert not [line for line in lines if "Traceback" in line or '"level": "error"' in line], lines


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """`serving`, for tests whose service needs settings of its own."""
    return serving


@pytest.fixture(scope="module")
def service_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of `service`."""
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def service(service_folder: Path) -> Iterator[str]:
    """URL of a service in which everybody is an administrator of project `default`."""
    with serving(service_folder) as url:
        yield url


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a service that believes X-User-Id, X-Project-Id and X-Roles."""
    folder = tmp_path_factory.mktemp("guarded")
    with serving(folder, CALOTYPE_IDENTITY__KIND="headers") as url:
        yield url


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory, keystone: Any) -> Iterator[str]:
    """URL of a service that asks Keystone who comes, and that Keystone's catalogue names."""
    folder = tmp_path_factory.mktemp("listed")
    own = {f"CALOTYPE_KEYSTONE__{key.upper()}": text for key, text in keystone.settings.items()}
    with serving(folder, CALOTYPE_IDENTITY__KIND="keystone", **own) as url:
        service = keystone.accounts.endpoint(url)
        yield url
        keystone.accounts.call("DELETE", f"/services/{service}")


@pytest.fixture
def service_on_postgres(tmp_path: Path, postgres_url: str) -> Iterator[str]:
    """URL of a service whose log is a fresh PostgreSQL database."""
    with serving(tmp_path / "data", postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def qcow2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real disk, as qemu-img makes a qcow2 of it; fails where qemu-img or the disk is missing."""
    tool = shutil.which("qemu-img")
    assert tool, "qemu-img is missing: install qemu-utils"
    disks = [disk for disk in DISKS if disk.is_file()]
    assert disks, "no disk to convert: install grub-rescue-pc"
    image = tmp_path_factory.mktemp("disk") / "rescue.qcow2"
    convert = [tool, "convert", "-f", "raw", "-O", "qcow2", str(disks[0]), str(image)]
    subprocess.run(convert, check=True, timeout=60)
    return image


@pytest.fixture(scope="session")
def run_client() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command of the virtual environment with no settings of ours in its environment."""

    def run(*command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        tool = Path(sys.executable).with_name(command[0])
        environ = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        # A person sits there: without a terminal the clients send standard input as image data.
        keyboard, terminal = pty.openpty()
        try:
            done = subprocess.run(
                [str(tool), *command[1:]],
                stdin=terminal,
                capture_output=True,
                text=True,
                timeout=120,
                # Wide, so that no sentence of an error is broken into lines.
                env={**environ, "COLUMNS": "400"},
            )
        finally:
            os.close(terminal)
            os.close(keyboard)
        assert done.returncode == code, (command, done.returncode, done.stdout, done.stderr)
        return done

    return run
