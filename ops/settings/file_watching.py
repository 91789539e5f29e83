"""Files of the operator that are read again when they change."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from calotype.ops.settings.settings import SettingsError

LOOK_SECONDS = 2.0
"""How often the files are looked at."""

State = list[tuple[str, int, int, int]]


async def watch(
    files: Callable[[], list[Path]], read_again: Callable[[list[str], bool], Awaitable[None]]
) -> None:
    """Has files read again whenever they have changed and rest, until cancelled.

    `read_again` is told their names, and whether this is the first time: once it is done without a
    change, because they may have changed after the start had read them.
    """
    known: State | None = None
    noticed: State | None = None
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = await asyncio.to_thread(_state, files)
        if now == known or now != noticed:
            noticed = now  # They may be half-written: wait until they rest.
            continue
        first, known = known is None, now
        await read_again([name for name, *_ in now], first)


def _state(files: Callable[[], list[Path]]) -> State:
    """What changes when a file does: names, times, sizes and places on the disk."""
    try:
        paths = files()
    except (OSError, SettingsError):
        paths = []  # Reading them will say why they cannot be found.
    state = []
    for path in paths:
        try:
            status = path.stat()
            state.append((str(path), status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            state.append((str(path), 0, 0, 0))
    return state
