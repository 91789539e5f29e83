"""A real PgBouncer in front of a PostgreSQL, for tests: from Debian's package `pgbouncer`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tests.backends import postgres
from tests.backends.processes import free_port
from tests.backends.server import Server, program

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
"""


class PgBouncer(Server):
    """One pooler for the server of `url`, which gives each session or each transaction another
    connection."""

    def __init__(self, folder: Path, url: str, mode: Literal["session", "transaction"]) -> None:
        super().__init__(folder)
        self._parts = urlsplit(url)
        self._mode = mode
        self._port = free_port()

    @property
    def url(self) -> str:
        """The same database, through the pooler."""
        netloc = f"{self._parts.username}@127.0.0.1:{self._port}"
        return self._parts._replace(netloc=netloc).geturl()

    def prepare(self) -> None:
        postgres.give_to_nobody(self.folder)
        text = _CONFIGURATION.format(
            server_port=self._parts.port,
            port=self._port,
            mode=self._mode,
            # So few that transactions have to share them, or one for each client.
            sessions=8 if self._mode == "transaction" else 100,
        )
        (self.folder / "pgbouncer.ini").write_text(text)

    def command(self) -> Sequence[str | Path]:
        binary = program("pgbouncer", "apt install pgbouncer")
        return [*postgres.as_nobody(), binary, self.folder / "pgbouncer.ini"]

    def answers(self) -> bool:
        return postgres.answers(self.url)
