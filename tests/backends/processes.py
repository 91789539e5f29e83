"""Processes and ports of this machine, for those who start servers."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

_STARTER = ThreadPoolExecutor(1, "starter")


def spawn(command: Iterable[str | Path], **options: Any) -> subprocess.Popen[bytes]:
    """Starts a program that the kernel kills when this process ends, in whatever way it ends.

    `options` are those of `subprocess.Popen`. The program runs in a session of its own.
    """
    # The kernel kills it when the thread that started it ends: one thread, which ends with us.
    mortal = ["setpriv", "--pdeathsig=KILL", *command]
    return _STARTER.submit(
        lambda: subprocess.Popen(mortal, start_new_session=True, **options)
    ).result()


def tree_of(pid: int) -> list[int]:
    """The process and all its living descendants, parents first; empty when it is gone."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    tree = [pid]
    for thread in threads:
        with suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                tree += tree_of(int(child))
    return tree


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Sends a signal to processes, of which some may be gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def runs(pid: int) -> bool:
    """Whether the process has not ended; one that nobody has waited for has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    return free_ports(1)[0]
