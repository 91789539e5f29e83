"""Delivering the log to a sink: every event at least once, each image's in order, for ever.

One process leads, by a lease. It reads a page after the checkpoint, publishes it, waits until the
broker has confirmed every message, and then moves the checkpoint under the lease's epoch. A
process that dies anywhere leaves a checkpoint before what was not confirmed; the next leader
tells at most one page again, under the same message ids.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog
from eventsourcing.persistence import IntegrityError, Tracking

from calotype.projections.engine.leadership import Leadership
from calotype.projections.engine.positions import positions_now
from calotype.projections.sinks.contract import Broker, MessageEncoder, TryLater
from calotype.projections.sinks.pages import Page, Publication, page_after
from calotype.projections.sinks.parked import checkpoint_of, lease_of, parking, troubled
from calotype.stores.log.append import Append
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Change

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
FINISH_SECONDS = 2.0
"""How long a process that stops may still take for the page that it has begun."""

log = structlog.get_logger("calotype.sinks")


class Chore(Protocol):
    """Something else that the leader of a sink publishes, between pages of events."""

    async def next_page(self) -> tuple[Page, Sequence[Change]] | None:
        """What is due now, with the rows that say it was done; None when nothing is."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A page that is being published, kept until it is written down that it was."""

    page: Page
    publication: Publication
    rows: Sequence[Change] | None = None
    """What is written for a page of the chore; None: a page of events."""


class Delivery:
    """One process's part in one sink.

    A sink that the log has not seen before begins at `start`: `head`, with what comes from now
    on, or `beginning`, with everything. `wait(position)` returns when the log may have grown
    beyond it. `state` and `position` tell what it is doing.
    """

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        name: str,
        encoder: MessageEncoder,
        broker: Broker,
        *,
        holder: str,
        wait: Callable[[int], Awaitable[None]],
        start: Literal["head", "beginning"] = "head",
        chore: Chore | None = None,
    ) -> None:
        self.name = name
        self._recorder = recorder
        self._checkpoint = checkpoint_of(name)
        self._telling = encoder
        self._broker = broker
        self._leadership = Leadership(recorder, lease_of(name), holder)
        self._wait = wait
        self._start = start
        self._chore = chore
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._trouble: str | None = None
        self._busy = False
        self._ending = False
        self._was_chore = False
        self._known: int | None = None
        self._reading = threading.Lock()
        self.state = "not started"

    @property
    def position(self) -> int:
        """The last position that this process knows to be delivered."""
        return self._known or 0

    async def register(self) -> None:
        """Gives a new sink its place in the log, and returns when it has one.

        Called before the process takes requests, so that no change is missed that follows.
        """
        while await asyncio.to_thread(self._recorder.max_tracking_id, self._checkpoint) is None:
            if await self._leadership.held():
                head = await asyncio.to_thread(self._recorder.max_notification_id)
                first = (head or 0) if self._start == "head" else 0
                try:
                    await self._append((), first)
                    log.info("sink registered", sink=self.name, position=self._text(first))
                except IntegrityError:
                    self._leadership.doubt()
            else:
                await asyncio.sleep(0.05)  # Another process is about to do it.

    async def run(self) -> None:
        """Delivers whenever this process leads, until cancelled."""
        leading: asyncio.Task[None] | None = None
        epoch: int | None = None
        try:
            while True:
                # While the database is silent, the leader goes on as long as its lease is sure.
                with suppress(Exception):
                    await self._leadership.held()
                if leading is not None and (leading.done() or self._leadership.epoch != epoch):
                    await _cancelled(leading)
                    leading = None
                epoch = self._leadership.epoch
                if epoch is None:
                    self.state = "stands by: another process leads"
                elif leading is None:
                    log.info("sink leads", sink=self.name, epoch=epoch)
                    leading = asyncio.create_task(self._lead())
                await asyncio.sleep(self._recorder.lease_terms.look_seconds)
        finally:
            self._ending = True
            if leading is not None:
                if self._busy:
                    await asyncio.wait((leading,), timeout=FINISH_SECONDS)
                await _cancelled(leading)
            await self._broker.close()
            await self._leadership.give_back()
            self.state = "stopped"

    async def _lead(self) -> None:
        """Delivers until cancelled; trouble is told, and tried again.

        Returns when what it wrote was refused, to start over from what stands there.
        """
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._trouble = None
        self._known = None
        work: _Work | None = None
        while not self._ending:
            try:
                await self._broker.open()
                if work is None:
                    work = await self._next_work()
                if work is not None:
                    await self._do(work)
                await self._tell_trouble("")
                self._pause_seconds = FIRST_PAUSE_SECONDS
                if work is None or not work.page.full:
                    await self._rest()
                work = None
            except IntegrityError:
                self._leadership.doubt()
                return
            except Exception as error:
                await self._stumble(error)

    async def _next_work(self) -> "_Work | None":
        """A page of the chore and one of events in turn, as far as there are any."""
        if self._chore is not None and not self._was_chore:
            self._was_chore = True  # First, so that trouble with it does not hold up the events.
            due = await self._chore.next_page()
            if due is not None:
                return _Work(due[0], Publication(self._broker, due[0], self._may_send), due[1])
        self._was_chore = False
        page = await asyncio.to_thread(self._next_page)
        if page is None:
            return None
        return _Work(page, Publication(self._broker, page, self._may_send))

    def _next_page(self) -> Page | None:
        with self._reading:  # One that was cancelled may still be at it.
            if self._known is None:
                self._telling.forget()
                self._known = self._recorder.max_tracking_id(self._checkpoint) or 0
            return page_after(self._recorder, self._telling, self._known)

    def _text(self, position: int) -> str:
        return positions_now(self._recorder).encode(position)

    async def _do(self, work: "_Work") -> None:
        """Publishes, and writes down that it is done. What is confirmed is not sent again."""
        self._busy = True
        try:
            page = work.page
            self.state = f"delivers up to {page.last}"
            await work.publication.publish()
            for position, error in page.refused.items():
                where = self._text(position)
                log.error("message refused", sink=self.name, position=where, error=error)
            if work.rows is not None:
                await self._append(work.rows)
                return
            await self._append(parking(self.name, page.refused, page.topics), page.last)
            self._known = page.last
        finally:
            self._busy = False

    def _may_send(self) -> bool:
        return self._leadership.sure

    async def _append(self, changes: Sequence[Change], position: int | None = None) -> None:
        """Moves the checkpoint and writes the rows, if this process still leads."""
        tracking = None if position is None else Tracking(self._checkpoint, position)
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        fence = self._leadership.fence
        self._recorder.submit(Append((), lambda: changes, tracking, future, fence=fence))
        await future

    async def _rest(self) -> None:
        if self._ending:
            return
        self.state = f"waits for events after {self.position}"
        with suppress(TimeoutError):
            async with asyncio.timeout(self._recorder.lease_terms.look_seconds):
                await self._wait(self.position)

    async def _stumble(self, error: Exception) -> None:
        trouble = str(error) if isinstance(error, TryLater) else repr(error)
        self.state = f"tries again: {trouble}"
        with suppress(
            Exception
        ):  # MessageEncoder of it must not be what keeps it from trying again.
            await self._tell_trouble(trouble)
        await asyncio.sleep(self._pause_seconds)
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _tell_trouble(self, trouble: str) -> None:
        """Tells operators when it is another than before: in the service's log, and in a row."""
        if trouble != self._trouble:
            if trouble:
                log.warning("sink cannot go on", sink=self.name, error=trouble)
            elif self._trouble:
                log.info("sink goes on", sink=self.name)
            await self._append([troubled(self.name, trouble)])
            self._trouble = trouble


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
