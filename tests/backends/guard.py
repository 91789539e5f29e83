"""Runs a program and kills all that it has started, also what has left it, when it or we end.

`python guard.py PROGRAM [ARGUMENT ...]`. It is for programs such as Patroni, whose database
outlives them: a guard becomes the parent of every orphan below it.
"""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

_PARENT_DEATH_SIGNAL, _CHILD_SUBREAPER = 1, 36  # Of prctl(2).


def _end(*_: object) -> NoReturn:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while pids := children.read_text().split():
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        os.wait()
    os._exit(0)


def main(command: list[str]) -> NoReturn:
    """Runs the command until it or our parent ends, or SIGTERM comes."""
    control = ctypes.CDLL(None)
    signal.signal(signal.SIGTERM, _end)
    control.prctl(_CHILD_SUBREAPER, 1)
    control.prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    first = subprocess.Popen(command).pid
    while os.wait()[0] != first:
        pass
    _end()


if __name__ == "__main__":
    main(sys.argv[1:])
