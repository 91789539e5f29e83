"""What a process does again and again: round by round, alone among all or beside the others.

One loop for lease, rest, back-off, fence and stop, so that none of them is invented again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from calotype.projections.engine.leadership import Leadership
from calotype.stores.log.errors import Fenced

FIRST_PAUSE_SECONDS = 0.2

log = structlog.get_logger("calotype.rounds")


class Rounds:
    """Calls `work` again and again, until `run` is cancelled.

    A round begins `every_seconds` after the one before has begun, or when that is done if it took
    longer. One that fails is logged and tried again after a pause, which grows up to
    `every_seconds`. With a `leadership` only the process that holds its lease works: the lease is
    renewed beside the round however long that takes, and a round is cancelled when the lease is
    lost. A round that raises Fenced asks for the lease anew. The lease is given back at the end.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        *,
        every_seconds: float,
        leadership: Leadership | None = None,
    ) -> None:
        self._name = name
        self._work = work
        self._every_seconds = every_seconds
        self._leadership = leadership

    async def run(self) -> None:
        if self._leadership is None:
            await self._go_on()
        else:
            await self._lead(self._leadership)

    async def _lead(self, leadership: Leadership) -> None:
        leading: asyncio.Task[None] | None = None
        asking: asyncio.Task[bool] | None = None
        epoch: int | None = None
        try:
            while True:
                # While the database is silent, the leader goes on as long as its lease is sure.
                if asking is None or asking.done():
                    asking = asyncio.create_task(leadership.held())
                    asking.add_done_callback(_look_at)
                await asyncio.wait((asking,), timeout=leadership.look_seconds)
                still = leadership.sure and leadership.epoch == epoch
                if leading is not None and (leading.done() or not still):
                    await _ended(leading)
                    leading = None
                if leading is None and leadership.sure:
                    epoch = leadership.epoch
                    log.info("leads", what=self._name, epoch=epoch)
                    leading = asyncio.create_task(self._go_on())
                await asyncio.sleep(leadership.look_seconds)
        finally:
            for task in (leading, asking):
                if task is not None:
                    await _ended(task)
            await leadership.give_back()

    async def _go_on(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            began_at = time.monotonic()
            try:
                await self._work()
                pause_seconds = FIRST_PAUSE_SECONDS
                left_seconds = began_at + self._every_seconds - time.monotonic()
                await asyncio.sleep(max(0.0, left_seconds))
            except Fenced:
                if self._leadership is not None:
                    self._leadership.doubt()
                return
            except Exception as error:
                log.warning("round failed", what=self._name, error=repr(error))
                await asyncio.sleep(min(pause_seconds, self._every_seconds))
                pause_seconds *= 2


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait((task,))


def _look_at(task: asyncio.Task[bool]) -> None:
    """Looks at a failure, so that the loop does not report it as forgotten."""
    if not task.cancelled():
        task.exception()
