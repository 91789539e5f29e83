"""A real RabbitMQ (Debian's package rabbitmq-server), for tests and for trying things out.

It runs under a node name of its own, with its own port mapper (epmd) as our child. Everything
listens on loopback on ports that were free, and everything it writes lies in one folder.
"""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

START_SECONDS = 90.0
STOP_SECONDS = 45.0
PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

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


def is_installed() -> bool:
    """Whether the server's programs are on this machine."""
    return PROGRAM.exists() and shutil.which("epmd") is not None


class RabbitMQ:
    """One broker with one account. As a context manager it is stopped at the end.

    `stop` and `start` bring it back on the same ports with its durable queues. Where `folder`
    holds `ca.pem`, `cert.pem` and `key.pem` when it starts, it listens with TLS, too.
    """

    def __init__(self, folder: Path, *, max_message_bytes: int = 1 << 20) -> None:
        self.user = "calotype"
        self.password = secrets.token_hex(16)
        self._folder = folder
        self.max_message_bytes = max_message_bytes
        """What it takes at most; a change counts from the next start."""
        self._port, self._tls_port, self._node_port, self._mapper_port = _free_ports(4)
        self._mapper: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL with its account, the same after a restart."""
        return f"amqp://{self.user}:{self.password}@127.0.0.1:{self._port}/"

    @property
    def tls_url(self) -> str:
        """The same for TLS."""
        return f"amqps://{self.user}:{self.password}@127.0.0.1:{self._tls_port}/"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it and waits until it takes connections, about ten seconds.

        Raises RuntimeError with the end of its log when it stops or is not ready in time.
        """
        self._write_configuration()
        mapper = ["epmd", "-port", str(self._mapper_port), "-address", "127.0.0.1"]
        self._mapper = self._run(mapper)
        self._process = self._run([str(PROGRAM)])
        self._wait_until_ready()

    def stop(self) -> None:
        """Ends it in good order; `start` brings it back with what is durable."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def _write_configuration(self) -> None:
        for name in ("mnesia", "log", "home"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "enabled_plugins").write_text("[].")
        text = _CONFIGURATION + (_TLS if (self._folder / "ca.pem").exists() else "")
        configuration = self._folder / "rabbitmq.conf"
        configuration.touch(0o600)
        configuration.write_text(
            text.format(
                folder=self._folder,
                port=self._port,
                tls_port=self._tls_port,
                user=self.user,
                password=self.password,
                max_message_bytes=self.max_message_bytes,
            )
        )

    @property
    def environment(self) -> dict[str, str]:
        """What the programs of this broker need, `rabbitmqctl` too."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        return kept | {
            "HOME": str(self._folder / "home"),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"calotype{self._port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            # Lets the script become the server instead of staying as its parent.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -start_epmd false +S 2:2 "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _run(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self._folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # The signal comes when the starting thread ends, so only the main one may ask.
                preexec_fn=_die_with_parent
                if threading.current_thread() is threading.main_thread()
                else None,
            )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                said = (self._folder / "output.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"RabbitMQ did not start. What it said last:\n{said}")
            time.sleep(0.05)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            _kill_group(process)  # Its helpers, too.
        mapper, self._mapper = self._mapper, None
        if mapper is not None:
            _kill_group(mapper)


def _answers(port: int) -> bool:
    """Whether the broker greets who says the first words of AMQP."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


_PROCESS_CONTROL = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """Runs in the child: a test run that is killed must not leave a server behind."""
    _PROCESS_CONTROL.prctl(_DEATH_SIGNAL, signal.SIGKILL)
