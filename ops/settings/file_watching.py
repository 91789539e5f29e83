"""Files of the operator that are read again when they change."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from calotype.ops.settings.settings import SettingsError

LOOK_SECONDS = 2.0
"""How often the files are checked."""

Content = TypeVar("Content")
State = list[tuple[str, int, int, int]]

log = structlog.get_logger("calotype.settings")


async def watch(
    what: str,
    files: Callable[[], list[Path]],
    load: Callable[[], Content],
    use: Callable[[Content], None],
) -> None:
    """Passes what `load` reads to `use` whenever the files have changed and rest, until cancelled.

    Where `load` raises SettingsError, what was in force stays. It runs once without a change,
    because the files may have changed after the start had read them. `what` is for the log.
    """
    known: State | None = None
    noticed: State | None = None
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = await asyncio.to_thread(_state, files)
        if now == known or now != noticed:
            noticed = now  # They may be half-written: wait until they rest.
            continue
        text = f"{what} read again" if known is None else f"{what} changed"
        known = now
        try:
            use(await asyncio.to_thread(load))
        except SettingsError as error:
            log.error(f"{what} not changed, what was in force stays", error=str(error))
        else:
            log.info(text, files=[name for name, *_ in now])


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
