"""`calotype serve`, as an operator runs it, and other commands on the same data."""

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.backends.processes import tree_of
from tests.backends.server import Server

COMMAND_SECONDS = 300.0
_NUMBERS = itertools.count(1)


class Service(Server):
    """A service with its data in `folder`, where they stay when it dies; its log lies beside it.

    `log_url` is None for the embedded log. `environment` are settings; none of ours count besides.
    A start waits for all `wanted_workers`.
    """

    start_seconds = 120.0
    stop_seconds = 60.0

    def __init__(self, folder: Path, log_url: str | None = None, **environment: str) -> None:
        super().__init__(folder)
        self.log = folder.with_name(f"{folder.name}-{next(_NUMBERS)}.log")
        # The data directory is for the service to make.
        self.cwd = folder.parent
        self.log_url = log_url
        self.port = 0
        """Where it listens, from its start on."""
        self.environment = environment
        self.python = sys.executable
        """The Python whose `calotype` it runs."""
        self.under: list[str] = []
        """A command that runs the service's command, such as `prlimit`."""
        self.migrates = True
        """Whether a start migrates the log of a URL first."""
        self.listen = "127.0.0.1:0"
        self.wanted_workers = 1
        self._more: Sequence[str] = ()
        self._ready: set[int] = set()
        self._read_bytes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> list[str]:
        """Options by which every command finds the same data."""
        log = ["--log-url", self.log_url] if self.log_url else []
        return ["--data", str(self.folder), *log]

    @property
    def variables(self) -> dict[str, str]:
        given = super().variables.items()
        kept = {name: value for name, value in given if not name.startswith("CALOTYPE_")}
        return kept | {"CALOTYPE_QUIET": "1"} | self.environment

    @property
    def _calotype(self) -> list[str]:
        return [self.python, "-m", "calotype.ops"]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs another `calotype` command on the same data."""
        return subprocess.run(
            [*self._calotype, *arguments, *self.options],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            env=self.variables,
        )

    def start(self, *more: str) -> None:
        """Starts it with these options besides, and waits until it is ready."""
        self._more = more
        super().start()

    def prepare(self) -> None:
        self._ready.clear()
        if self.log_url and self.migrates:
            done = self.run("migrate")
            assert done.returncode == 0, done.stderr

    def command(self) -> Sequence[str | Path]:
        workers = ["--workers", str(self.wanted_workers)] if self.wanted_workers > 1 else []
        serve = [*self._calotype, "serve", "--listen", self.listen, *workers]
        return [*self.under, *serve, *self.options, *self._more]

    def answers(self) -> bool:
        self._read_log()
        return len(self._ready.intersection(tree_of(self.pid))) >= self.wanted_workers

    def _read_log(self) -> None:
        """Takes note of the processes that say that they serve, and where."""
        with self.log.open("rb") as log:
            log.seek(self._read_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read_bytes += len(line)
                if b'"event": "ready"' in line:
                    said = json.loads(line)
                    self._ready.add(said["pid"])
                    self.port = int(said["listen"].rpartition(":")[2])

    def workers(self) -> list[int]:
        """The processes that serve."""
        pids = tree_of(self.pid)
        return pids[1:] if self.wanted_workers > 1 else pids

    def kill_parent(self) -> None:
        """Kills the process that was started; workers notice and end what they do."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """Ends it as an operator would; the exit code. Raises RuntimeError when it does not end."""
        code = self.stop()
        if code == -signal.SIGKILL:
            raise RuntimeError(f"The service did not stop. {self._said()}")
        return code
