"""A real RabbitMQ (Debian's package rabbitmq-server), for tests and for trying things out.

It runs under a node name of its own, with its own port mapper (epmd) as our child.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path

from tests.backends.processes import free_ports
from tests.backends.server import Program, Server, greets, program, write_secret

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
default_user = {user}
default_pass = {password}
loopback_users = none
disk_free_limit.absolute = 50MB
max_message_size = {max_message_bytes}
"""
_TLS = """\
listeners.ssl.1 = 127.0.0.1:{tls_port}
ssl_options.cacertfile = {folder}/ca.pem
ssl_options.certfile = {folder}/cert.pem
ssl_options.keyfile = {folder}/key.pem
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
"""


class RabbitMQ(Server):
    """One broker with one account; `start` brings it back on the same ports with what is durable.

    Where `folder` holds `ca.pem`, `cert.pem` and `key.pem` when it starts, it listens with TLS,
    too. A start takes about ten seconds.
    """

    start_seconds = 90.0

    def __init__(self, folder: Path, *, max_message_bytes: int = 1 << 20) -> None:
        super().__init__(folder)
        self.user = "calotype"
        self.password = secrets.token_hex(16)
        self.max_message_bytes = max_message_bytes
        """What it takes at most; a change counts from the next start."""
        self._port, self._tls_port, self._node_port, self._mapper_port = free_ports(4)
        install = "apt install rabbitmq-server"
        if not PROGRAM.exists():
            raise RuntimeError(f"There is no {PROGRAM}: {install}")
        mapper = [program("epmd", install), "-port", str(self._mapper_port)]
        self.helpers.append(Program(folder / "epmd", [*mapper, "-address", "127.0.0.1"]))

    @property
    def url(self) -> str:
        """The URL with its account, the same after a restart."""
        return f"amqp://{self.user}:{self.password}@127.0.0.1:{self._port}/"

    @property
    def tls_url(self) -> str:
        """The same for TLS."""
        return f"amqps://{self.user}:{self.password}@127.0.0.1:{self._tls_port}/"

    def prepare(self) -> None:
        for name in ("mnesia", "log", "home"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "enabled_plugins").write_text("[].")
        text = _CONFIGURATION + (_TLS if (self.folder / "ca.pem").exists() else "")
        facts = {
            "folder": self.folder,
            "port": self._port,
            "tls_port": self._tls_port,
            "user": self.user,
            "password": self.password,
            "max_message_bytes": self.max_message_bytes,
        }
        write_secret(self.folder / "rabbitmq.conf", text.format(**facts))

    def command(self) -> Sequence[str | Path]:
        return [PROGRAM]

    def answers(self) -> bool:
        # A broker greets the client that says the first words of AMQP.
        return greets(self._port, b"AMQP\x00\x00\x09\x01", b"\x01")

    @property
    def variables(self) -> dict[str, str]:
        """What the programs of this broker need, `rabbitmqctl` too."""
        given = super().variables.items()
        kept = {key: value for key, value in given if not key.startswith(("RABBITMQ_", "ERL_"))}
        return kept | {
            "HOME": str(self.folder / "home"),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"calotype{self._port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            # Lets the script become the server instead of staying as its parent.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -start_epmd false +S 2:2 "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }
