"""Processes that the benchmark starts, and what the kernel says that they used."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

START_SECONDS = 60.0
STOP_SECONDS = 45.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def tree_of(pid: int) -> list[int]:
    """The process and all its living descendants; empty when it is gone."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    tree = [pid]
    for thread in threads:
        try:
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        except OSError:
            continue
        for child in children:
            tree += tree_of(int(child))
    return tree


def cpu_seconds(pid: int) -> float:
    """User and system time of the whole tree, including children that were reaped.

    Living processes are read from their CPU clocks, which count nanoseconds where `stat` counts
    hundredths of a second. Raises ProcessLookupError when the process is gone.
    """
    tree = tree_of(pid)
    if not tree:
        raise ProcessLookupError(f"process {pid} is gone")
    return sum(_own_seconds(member) + _reaped_seconds(member) for member in tree)


def _own_seconds(pid: int) -> float:
    # The number of a process's CPU clock, as clock_getcpuclockid(3) makes it on Linux.
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _reaped_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[13]) + int(fields[14])) / _TICKS_PER_SECOND


def peak_memory_bytes(pid: int) -> int:
    """The largest resident memory that any one process of the tree had, in bytes."""
    peak = 0
    for member in tree_of(pid):
        try:
            lines = Path(f"/proc/{member}/status").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("VmHWM:"):
                peak = max(peak, int(line.split()[1]) * 1024)
    return peak


def forget_peak_memory(pid: int) -> None:
    """Starts the peak again from what is resident now, where the kernel allows it."""
    for member in tree_of(pid):
        try:
            Path(f"/proc/{member}/clear_refs").write_text("5")
        except OSError:
            pass  # Then the peak is that of the process's whole life, which is only stricter.


def settle(pid: int, *, patience_seconds: float = 15.0) -> None:
    """Waits until the tree does next to nothing, so that old work is not counted as new."""
    deadline = time.monotonic() + patience_seconds
    before = cpu_seconds(pid)
    while time.monotonic() < deadline:
        time.sleep(0.15)
        now = cpu_seconds(pid)
        if now - before < 0.01:
            return
        before = now


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks a process of ours to stop, and kills it when it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Partner:
    """A Python module run as a process that answers lines of JSON with lines of JSON.

    It ends when its standard input does, so it never outlives the benchmark.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._received = b""
        self._module = module

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            end(self._process)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, message: object, *, patience_seconds: float = 60.0) -> dict[str, Any]:
        """Sends a message and returns the answer. Raises RuntimeError when none comes."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(f"{self._module} ended before it was asked") from None
        return dict(json.loads(self._line(patience_seconds)))

    def _line(self, patience_seconds: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        pieces = [self._received]
        deadline = time.monotonic() + patience_seconds
        while b"\n" not in pieces[-1]:
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([descriptor], [], [], left)
            piece = os.read(descriptor, 1 << 20) if readable else b""
            if not piece:
                why = "ended" if readable else f"did not answer within {patience_seconds:.0f} s"
                raise RuntimeError(f"{self._module} {why}")
            pieces.append(piece)
        line, _, self._received = b"".join(pieces).partition(b"\n")
        return line


class CalotypeServer:
    """A `calotype serve` on a free port of 127.0.0.1, without authentication unless `settings` say.

    `log_url` is empty for the embedded log. The folder keeps its data and its output. `settings`
    are variables without the `CALOTYPE_` of their names.
    """

    def __init__(
        self,
        folder: Path,
        log_url: str = "",
        *,
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._log_url = log_url
        self._workers = workers
        self._environment = _environment(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def pid(self) -> int:
        """The process at the root of the server's tree."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = ["--data", str(self._folder / "data")]
        if self._log_url:
            settings += ["--log-url", self._log_url]
        with (self._folder / "server.log").open("ab") as output:
            migrated = subprocess.run(
                calotype_command(["migrate", *settings]), stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, env=self._environment, check=False,
            )  # fmt: skip
            if migrated.returncode:
                raise RuntimeError(f"calotype migrate failed:\n{self._said()}")
            listen = ["--listen", f"127.0.0.1:{self.port}", "--workers", str(self._workers)]
            self._process = subprocess.Popen(
                calotype_command(["serve", *settings, *listen]), stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, env=self._environment,
            )  # fmt: skip
        try:
            self._wait_until_ready()
        except BaseException:
            end(self._process)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        end(self._process)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        url = f"http://127.0.0.1:{self.port}/healthcheck"
        while True:
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except (urllib.error.URLError, OSError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"calotype did not start: {error}\n{self._said()}") from None
            time.sleep(0.05)

    def _said(self) -> str:
        """The end of what the server printed."""
        return (self._folder / "server.log").read_text()[-2000:]


def calotype_command(arguments: Sequence[str]) -> list[str]:
    """The command line of `calotype` with these arguments."""
    return [sys.executable, "-m", "calotype.ops", *arguments]


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Ours with no other settings of Calotype: what is measured is what a newcomer gets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CALOTYPE_")}
    given = {f"CALOTYPE_{name}": value for name, value in settings.items()}
    return kept | given | {"CALOTYPE_QUIET": "1"}
