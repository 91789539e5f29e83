"""Recording downloads without keeping anybody waiting for it."""

import asyncio
from uuid import UUID

import structlog
from eventsourcing.persistence import OperationalError

from calotype.commands.context import new_id
from calotype.commands.images.download import Download, download
from calotype.commands.policy.actor import Cause
from calotype.stores.log.errors import AlreadyExists, LogFull
from calotype.stores.log.log import EventLog
from calotype.stores.log.recorder import GroupCommitRecorder

TRIES = 12
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 10.0

log = structlog.get_logger("calotype.downloads")


class Downloads:
    """Appends an event for every download that is over, in the background.

    A log that cannot take it now is asked again for about a minute; then the facts go into the
    service's own log, which is the last place left for them.
    """

    def __init__(self, recorder: GroupCommitRecorder) -> None:
        self._log = EventLog[Download](recorder, lambda aggregate, events: (), cache_bytes=0)
        self._under_way: set[asyncio.Task[None]] = set()

    def note(
        self, cause: Cause, *, image_id: str, owner: str | None, bytes_sent: int, bytes_asked: int
    ) -> None:
        """Notes that an answer with image data is over; returns at once."""
        over = download(
            cause,
            UUID(new_id()),
            image_id=image_id,
            owner=owner,
            bytes_sent=bytes_sent,
            bytes_asked=bytes_asked,
        )
        task = asyncio.create_task(self._append(over))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def settle(self, seconds: float) -> None:
        """Waits until what was noted is in the log; for a process that is about to stop."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=seconds)

    async def _append(self, over: Download) -> None:
        events = tuple(over.pending_events)
        pause_seconds = FIRST_PAUSE_SECONDS
        for _ in range(TRIES):
            try:
                await self._log.create(over)
                return
            except AlreadyExists:
                return  # An earlier try was written although its reply was lost.
            except (LogFull, OperationalError):
                over.pending_events[:] = events
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
        log.error("download not recorded", image_id=over.image_id, bytes_sent=over.bytes_sent)
