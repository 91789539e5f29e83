"""What the rounds do to the processes of one service, and see of them."""

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tests.backends.processes import runs, send

GONE_SECONDS = 60.0


async def kill(pids: Iterable[int]) -> None:
    """Kills processes that others started, and waits until they are gone."""
    pids = list(pids)
    send(signal.SIGKILL, pids)
    async with asyncio.timeout(GONE_SECONDS):
        while any(map(runs, pids)):  # noqa: ASYNC110 - nobody tells about other's children
            await asyncio.sleep(0.02)


def peers(pid: int) -> set[int]:
    """The ports of the clients whose connections this process holds."""
    held = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            held.add(os.readlink(entry.path))
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if f"socket:[{columns[9]}]" in held:
            found.add(int(columns[2].rpartition(":")[2], 16))
    return found
