"""Processes that the benchmark talks to, and what the kernel says that processes used."""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from tests.backends.processes import spawn, tree_of

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


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


class Partner:
    """A Python module run as a process that answers lines of JSON with lines of JSON.

    It ends when its standard input does.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = spawn(
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
            self._process.kill()
            self._process.wait()

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
