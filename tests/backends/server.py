"""What all launchers of real servers share: start, wait for an answer, stop, leave nothing behind.

A launcher says how its server is configured and run, and how to see that it answers.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.backends.processes import runs, send, spawn, tree_of

PAUSE_SECONDS = 0.02
KILLED_SECONDS = 30.0
SAID_BYTES = 2000
"""How much of the end of a server's log an error shows."""


class Server:
    """A program of which everything lies in `folder`; as a context manager it is killed at the end.

    It can be started again after `stop` and `kill`. The kernel kills it when this process ends.
    """

    start_seconds = 30.0
    stop_seconds = 45.0
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "output.log"
        """What the program prints, over all its starts."""
        self.cwd = folder
        """Where it runs; made when there is none."""
        self.helpers: list[Server] = []
        """Servers that it needs; they start before it and end after it."""
        self.process: subprocess.Popen[bytes] | None = None
        """The program as it was started last."""
        self._is_over = True

    def command(self) -> Sequence[str | Path]:
        """The command line; it must become the program, not stay its parent."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Writes the files that the program reads when it starts."""

    def answers(self) -> bool:
        """Whether it is ready for its clients; without a way to ask it is as soon as it runs."""
        return True

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of the program."""
        return dict(os.environ)

    @property
    def pid(self) -> int:
        """Process id of the program."""
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the program was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def lines(self) -> list[str]:
        """The whole lines that it has printed, over all its starts."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it and waits until it answers.

        Raises RuntimeError with the end of its log when it ends or does not answer in time.
        """
        self.cwd.mkdir(parents=True, exist_ok=True)
        self._is_over = False
        try:
            for helper in self.helpers:
                helper.start()
            self.prepare()
            with self.log.open("ab") as log:
                self.process = spawn(
                    self.command(), cwd=self.cwd, env=self.variables,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def wait_until_ready(self) -> None:
        """Waits until it answers. Raises RuntimeError as `start` does."""
        deadline = time.monotonic() + self.start_seconds
        while not self.answers():
            if not self.is_running or time.monotonic() > deadline:
                raise RuntimeError(f"{type(self).__name__} did not start. {self._said()}")
            time.sleep(PAUSE_SECONDS)

    def stop(self) -> int:
        """Ends it in good order, or by force when that takes too long; the program's exit code."""
        if self.is_running:
            assert self.process is not None
            self.process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(self.stop_seconds)
        return self.kill()

    def kill(self) -> int:
        """Ends all its processes at once, as a crash would; the program's exit code."""
        code = self._kill_own()
        for helper in reversed(self.helpers):
            helper.kill()
        return code

    def freeze(self) -> None:
        """Has all its processes stand still: connections stay open, and nothing is answered."""
        # Parents first, so that they start no others meanwhile.
        send(signal.SIGSTOP, tree_of(self.pid))

    def thaw(self) -> None:
        """Lets its processes run again."""
        send(signal.SIGCONT, reversed(tree_of(self.pid)))

    def _kill_own(self) -> int:
        if self.process is None:
            return 0
        if self._is_over:  # Its number may be another's by now.
            return self.process.wait()
        pids = tree_of(self.pid) if self.is_running else []
        send(signal.SIGKILL, pids)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # Children whose parent has ended.
        code = self.process.wait(KILLED_SECONDS)
        deadline = time.monotonic() + KILLED_SECONDS
        while any(map(runs, pids)) and time.monotonic() < deadline:
            time.sleep(PAUSE_SECONDS)
        self._is_over = True
        return code

    def _said(self) -> str:
        return f"The end of its log:\n{''.join(self.lines)[-SAID_BYTES:]}"


class Program(Server):
    """A program that needs nothing but its command line, and that nobody waits for."""

    def __init__(
        self, folder: Path, command: Sequence[str | Path], variables: dict[str, str] | None = None
    ) -> None:
        super().__init__(folder)
        self._command = command
        self._variables = variables

    def command(self) -> Sequence[str | Path]:
        return self._command

    @property
    def variables(self) -> dict[str, str]:
        return super().variables if self._variables is None else self._variables


def program(name: str, install: str) -> str:
    """The path of a program: beside Python, on the path, or where Debian keeps servers.

    Raises RuntimeError that says how to install it.
    """
    places = (
        str(Path(sys.executable).parent),
        os.environ.get("PATH", ""),
        "/usr/local/sbin:/usr/sbin",
    )
    found = shutil.which(name, path=":".join(places))
    if found is None:
        raise RuntimeError(f"There is no `{name}`: {install}")
    return found


def write_secret(path: Path, text: str) -> None:
    """Writes a file that only its owner can read."""
    path.touch(0o600)
    path.write_text(text)


def greets(port: int, first: bytes, expected: bytes) -> bool:
    """Whether a port of 127.0.0.1 answers these first bytes with those."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
            connection.sendall(first)
            return connection.recv(len(expected)) == expected
    except OSError:
        return False
