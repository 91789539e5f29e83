"""A real Keystone for tests and for trying things out: SQLite, Fernet tokens, gunicorn.

It lives in a virtual environment of its own (`make .venv-keystone/.installed`), because what it
pins is not what we use. It listens on 127.0.0.1, and everything it writes lies in one folder.
"""

import base64
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Self

START_SECONDS = 90.0
PROGRAMS = Path(__file__).parent.parent.parent / ".venv-keystone" / "bin"
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

_KEYSTONE = """\
[DEFAULT]
log_file = {folder}/keystone.log
[database]
connection = sqlite:///{data}/keystone.db
[token]
provider = fernet
expiration = {token_seconds}
[fernet_tokens]
key_repository = {data}/fernet
[fernet_receipts]
key_repository = {data}/fernet
[credential]
key_repository = {data}/credential
[identity]
password_hash_rounds = 4
[cache]
enabled = false
"""

_GUNICORN = """\
wsgi_app = "keystone.wsgi.api:application"
bind = "127.0.0.1:{port}"
workers = 1
threads = 4
accesslog = "{folder}/access.log"
control_socket_disable = True
"""


class Keystone:
    """One Keystone server. As a context manager it is stopped at the end.

    Tokens live `token_seconds`. With `data` it works on the state of another one, whose users and
    tokens it then shares.
    """

    def __init__(
        self, folder: Path, *, token_seconds: int = 3600, data: Path | None = None
    ) -> None:
        self._folder = folder
        self.data = data or folder
        self._token_seconds = token_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.admin_password = "admin" + secrets.token_hex(8)
        """The password of the user `admin` of a state that is made new."""

    @property
    def url(self) -> str:
        """The URL of its API, the same after a restart."""
        return f"http://127.0.0.1:{self.port}/v3"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it, making its database first if there is none, and waits until it answers.

        Raises RuntimeError with the end of its log when it stops or is not ready in time.
        """
        _check_installed()
        self._folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "folder": self._folder,
            "data": self.data,
            "port": self.port,
            "token_seconds": self._token_seconds,
        }
        (self._folder / "keystone.conf").write_text(_KEYSTONE.format(**facts))
        # Not as arguments: Keystone takes the arguments of its process for its own.
        (self._folder / "gunicorn.conf.py").write_text(_GUNICORN.format(**facts))
        if not (self.data / "keystone.db").exists():
            self._make_state()
        with (self._folder / "gunicorn.log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAMS / "gunicorn"],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # The signal comes when the starting thread ends, so only the main one may ask.
                preexec_fn=_die_with_parent
                if threading.current_thread() is threading.main_thread()
                else None,
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Ends it in good order; `start` brings it back with its state."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once, as a crash would; `start` brings it back with its state."""
        self._end(signal.SIGKILL)

    def requests(self, line: str) -> int:
        """How many requests it has answered whose first line begins like this."""
        return (self._folder / "access.log").read_text().count(f'"{line}')

    def _make_state(self) -> None:
        for name in ("fernet", "credential"):
            keys = self.data / name
            keys.mkdir(mode=0o700)
            for number in ("0", "1"):
                key = keys / number
                key.touch(0o600)
                key.write_bytes(base64.urlsafe_b64encode(secrets.token_bytes(32)))
        self._manage("db_sync")
        options = {"password": self.admin_password, "public-url": self.url}
        options |= {"internal-url": self.url, "region-id": "RegionOne"}
        self._manage("bootstrap", *(f"--bootstrap-{key}={value}" for key, value in options.items()))

    def _manage(self, *arguments: str) -> None:
        config = f"--config-file={self._folder / 'keystone.conf'}"
        done = subprocess.run(
            [PROGRAMS / "keystone-manage", config, *arguments],
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=self._environment(),
        )
        if done.returncode:
            raise RuntimeError(f"keystone-manage {arguments[0]} failed:\n{done.stderr[-2000:]}")

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        configuration = {
            "OS_KEYSTONE_CONFIG_DIR": str(self._folder),
            "OS_KEYSTONE_CONFIG_FILES": "keystone.conf",
        }
        return kept | configuration | {"PYTHONWARNINGS": "ignore"}

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(self.url, timeout=START_SECONDS):
                    return
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    said = (self._folder / "gunicorn.log").read_text()[-2000:]
                    raise RuntimeError(f"Keystone did not start: {error}\n{said}") from None
            time.sleep(0.05)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)  # gunicorn's worker too.
            else:
                process.send_signal(number)
        process.wait(START_SECONDS)


def _check_installed() -> None:
    if not (PROGRAMS / "gunicorn").exists():
        raise RuntimeError(
            f"There is no Keystone in {PROGRAMS}: run `make .venv-keystone/.installed`"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_PROCESS_CONTROL = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """Runs in the child: a test run that is killed must not leave a server behind."""
    _PROCESS_CONTROL.prctl(_DEATH_SIGNAL, signal.SIGKILL)
