"""The loop of what a process does again and again, alone among all processes or beside them.

Lease, back-off, rest and stop are here once, for followers, sinks, webhooks and the sweeper.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

import structlog
from eventsourcing.persistence import IntegrityError

from calotype.projections.engine.leadership import Leadership

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0

log = structlog.get_logger("calotype.rounds")

P = ParamSpec("P")
R = TypeVar("R")


class Rounds:
    """Calls `work` again and again, until `run` is cancelled.

    A round begins `every_seconds` after the one before has begun, or when that is done if it took
    longer. One that fails is logged and tried again after a pause, which doubles up to
    `every_seconds`, or up to 5 seconds where these are 0.

    With a `leadership` only the process that holds its lease works. The lease is renewed beside
    the round however long that takes, and the round is cancelled when the lease is lost. A round
    that raises IntegrityError, as a fence that does not hold does, ends the process's lead; the
    process asks for the lease again after a moment. The lease is given back at the end.

    `begin` is called before the first round of each lead, but not where the same lead continues
    after an interruption. `rest` is awaited after each round, and `end` before the lease is given
    back. `trouble` is given an error instead of the log. A round that runs when `run` is cancelled
    gets `finish_seconds` to end. `state` tells an operator what the loop does.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        *,
        every_seconds: float = 0.0,
        leadership: Leadership | None = None,
        begin: Callable[[], object] = lambda: None,
        rest: Callable[[], Awaitable[object]] | None = None,
        end: Callable[[], Awaitable[object]] | None = None,
        trouble: Callable[[Exception], Awaitable[object]] | None = None,
        finish_seconds: float = 0.0,
        **labels: object,
    ) -> None:
        self._name = name
        self._work = work
        self._every_seconds = every_seconds
        self._leadership = leadership
        self._begin = begin
        self._rest = rest
        self._end = end
        self._trouble = trouble or self._log_trouble
        self._finish_seconds = finish_seconds
        self._labels = labels
        self._begun: int | None = None
        """The epoch of the lead that has begun, until what it wrote is refused."""
        self._is_working = False
        self._is_ending = False
        self.state = "not started"

    async def run(self) -> None:
        try:
            if self._leadership is None:
                await self._repeat()
            else:
                await self._lead(self._leadership)
        finally:
            self.state = "stopped"

    async def _lead(self, leadership: Leadership) -> None:
        leading: asyncio.Task[None] | None = None
        asking: asyncio.Task[bool] | None = None
        try:
            while True:
                # While the database is silent, the leader works as long as its lease is sure.
                if asking is None or asking.done():
                    asking = asyncio.create_task(leadership.held())
                    asking.add_done_callback(_retrieve)
                await asyncio.wait((asking,), timeout=leadership.look_seconds)
                still = leadership.sure and leadership.epoch == self._begun
                if leading is not None and (leading.done() or not still):
                    await _ended(leading)
                    leading = None
                if leading is None and leadership.sure:
                    if leadership.epoch != self._begun:
                        log.info(f"{self._name} leads", epoch=leadership.epoch, **self._labels)
                        self._begin()
                        self._begun = leadership.epoch
                    leading = asyncio.create_task(self._repeat())
                if leading is not None:
                    await asyncio.wait((leading,), timeout=leadership.look_seconds)
                else:
                    self.state = "stands by: another process leads"
                    await asyncio.sleep(leadership.look_seconds)
        finally:
            self._is_ending = True
            if leading is not None and self._is_working:
                await asyncio.wait((leading,), timeout=self._finish_seconds)
            for task in (leading, asking):
                if task is not None:
                    await _ended(task)
            if self._end is not None:
                await self._end()
            await leadership.give_back()

    async def _repeat(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        longest_seconds = self._every_seconds or LONGEST_PAUSE_SECONDS
        while not self._is_ending:
            began_at = time.monotonic()
            try:
                self._is_working = True
                await self._work()
                self._is_working = False
                pause_seconds = FIRST_PAUSE_SECONDS
                if self._is_ending:
                    return
                if self._rest is not None:
                    await self._rest()
                left_seconds = began_at + self._every_seconds - time.monotonic()
                await asyncio.sleep(max(0.0, left_seconds))
            except Exception as error:
                self._is_working = False
                if self._leadership is not None and isinstance(error, IntegrityError):
                    self._leadership.doubt()
                    self._begun = None
                    await asyncio.sleep(FIRST_PAUSE_SECONDS)
                    return
                self.state = f"tries again: {str(error) or repr(error)}"
                await self._trouble(error)
                await asyncio.sleep(min(pause_seconds, longest_seconds))
                pause_seconds *= 2

    async def _log_trouble(self, error: Exception) -> None:
        log.warning(f"{self._name} failed", error=repr(error), **self._labels)


async def in_thread(work: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """Runs `work` in a thread; when cancelled, ends only after the thread has.

    So no round of a later lead shares what the thread works on with it.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **options))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(running, return_exceptions=True)
        raise


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait((task,))


def _retrieve(task: asyncio.Task[bool]) -> None:
    """Looks at a failure, so that the loop does not report it as forgotten."""
    if not task.cancelled():
        task.exception()
