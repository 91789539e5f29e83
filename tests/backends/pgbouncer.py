"""A real PgBouncer in front of a PostgreSQL, for tests: from Debian's package `pgbouncer`."""

import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

import psycopg

from tests.backends import postgres

START_SECONDS = 30.0
_CONFIGURATION = """\
[databases]
* = host=127.0.0.1 port={server_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {sessions}
max_client_conn = 1000
logfile = {folder}/log
"""


def is_installed() -> bool:
    """Whether the program is here."""
    return _program() is not None


class PgBouncer:
    """One pooler for the server of `url`, which gives each session or each transaction another
    connection; as a context manager it is stopped at the end."""

    def __init__(self, folder: Path, url: str, mode: Literal["session", "transaction"]) -> None:
        self._folder = folder
        self._parts = urlsplit(url)
        self._mode = mode
        self._port = postgres.free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = _program()
        assert program is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        postgres.give_to_nobody(self._folder)
        file = self._folder / "pgbouncer.ini"
        file.write_text(
            _CONFIGURATION.format(
                server_port=self._parts.port,
                port=self._port,
                mode=self._mode,
                # So few that transactions have to share them, or one for each who asks.
                sessions=8 if self._mode == "transaction" else 100,
                folder=self._folder,
            )
        )
        self._process = subprocess.Popen(
            [program, file],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            cwd="/",
            **postgres.as_nobody(),
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return self
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._folder / "log").read_text()[-2000:]
                    raise RuntimeError(f"PgBouncer did not start: {error}\n{log}") from None
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(START_SECONDS)

    @property
    def url(self) -> str:
        """The same database, through the pooler."""
        netloc = f"{self._parts.username}@127.0.0.1:{self._port}"
        return self._parts._replace(netloc=netloc).geturl()


def _program() -> str | None:
    return shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
