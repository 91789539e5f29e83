"""A real Keystone for tests and for trying things out: SQLite, Fernet tokens, gunicorn.

It lives in a virtual environment of its own (`make .venv-keystone/.installed`), because what it
pins is not what we use.
"""

import base64
import secrets
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.backends.processes import free_port
from tests.backends.server import Server

PROGRAMS = Path(__file__).parent.parent.parent / ".venv-keystone" / "bin"

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


class Keystone(Server):
    """One Keystone server; `start` brings it back on the same port with its state.

    Tokens live `token_seconds`. With `data` it works on the state of another one, whose users and
    tokens it then shares.
    """

    start_seconds = 90.0

    def __init__(
        self, folder: Path, *, token_seconds: int = 3600, data: Path | None = None
    ) -> None:
        super().__init__(folder)
        self.data = data or folder
        self._token_seconds = token_seconds
        self.port = free_port()
        self.admin_password = "admin" + secrets.token_hex(8)
        """The password of the user `admin` of a state that is made new."""

    @property
    def url(self) -> str:
        """The URL of its API, the same after a restart."""
        return f"http://127.0.0.1:{self.port}/v3"

    def prepare(self) -> None:
        facts = {
            "folder": self.folder,
            "data": self.data,
            "port": self.port,
            "token_seconds": self._token_seconds,
        }
        (self.folder / "keystone.conf").write_text(_KEYSTONE.format(**facts))
        # Not as arguments: Keystone takes the arguments of its process for its own.
        (self.folder / "gunicorn.conf.py").write_text(_GUNICORN.format(**facts))
        if not (self.data / "keystone.db").exists():
            self._make_state()

    def command(self) -> Sequence[str | Path]:
        return [_program("gunicorn")]

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=self.start_seconds):
                return True
        except OSError:
            return False

    def requests(self, line: str) -> int:
        """How many requests it has answered whose first line begins like this."""
        return (self.folder / "access.log").read_text().count(f'"{line}')

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
        config = f"--config-file={self.folder / 'keystone.conf'}"
        done = subprocess.run(
            [_program("keystone-manage"), config, *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.variables,
        )
        if done.returncode:
            raise RuntimeError(f"keystone-manage {arguments[0]} failed:\n{done.stderr[-2000:]}")

    @property
    def variables(self) -> dict[str, str]:
        given = super().variables.items()
        return {name: value for name, value in given if not name.startswith("OS_")} | {
            "OS_KEYSTONE_CONFIG_DIR": str(self.folder),
            "OS_KEYSTONE_CONFIG_FILES": "keystone.conf",
            "PYTHONWARNINGS": "ignore",
        }


def _program(name: str) -> Path:
    program = PROGRAMS / name
    if not program.exists():
        raise RuntimeError(f"There is no {program}: run `make .venv-keystone/.installed`")
    return program
