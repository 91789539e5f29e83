"""Delivering the log to a sink: every event at least once, each image's in order.

One process leads, by a lease. It reads a page after the checkpoint, publishes it, waits until the
broker has confirmed every message, and then moves the checkpoint with the lease's fence. A
process that dies anywhere leaves a checkpoint before what was not confirmed; the next leader
sends at most one page again, under the same message ids.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog
from eventsourcing.persistence import IntegrityError, Tracking

from calotype.projections.engine.appending import append_rows
from calotype.projections.engine.leadership import Leadership
from calotype.projections.engine.positions import positions_now
from calotype.projections.engine.rounds import Rounds, in_thread
from calotype.projections.sinks.contract import Broker, MessageEncoder, TryLater
from calotype.projections.sinks.pages import Page, Publication, page_after
from calotype.projections.sinks.parked import checkpoint_of, lease_of, parking, troubled
from calotype.stores.log.append import Fence
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Change

FINISH_SECONDS = 2.0
"""How long a process that stops may still take for the page that it has begun."""

log = structlog.get_logger("calotype.sinks")


class Chore(Protocol):
    """Another source of what the leader of a sink publishes, between pages of events."""

    async def next_page(self) -> tuple[Page, Sequence[Change]] | None:
        """The page that is due now, with the rows that record it; None when none is due."""


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
    beyond it.
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
        self._encoder = encoder
        self._broker = broker
        self._leadership = Leadership(recorder, lease_of(name), holder)
        self._wait = wait
        self._start = start
        self._chore = chore
        self._trouble: str | None = None
        self._work: _Work | None = None
        self._more = False
        self._was_chore = False
        self._known: int | None = None
        self._fence: Fence | None = None
        """Of the lead in which this process delivers."""
        self._rounds = Rounds(
            "sink",
            self._round,
            leadership=self._leadership,
            begin=self._begin,
            rest=self._rest,
            end=broker.close,
            trouble=self._note_trouble,
            finish_seconds=FINISH_SECONDS,
            sink=name,
        )

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
                self._fence = self._leadership.fence
                try:
                    await self._append((), first)
                    log.info("sink registered", sink=self.name, position=self._text(first))
                except IntegrityError:
                    self._leadership.doubt()
            else:
                await asyncio.sleep(0.05)  # Another process is about to do it.

    @property
    def state(self) -> str:
        """What the delivery does, for an operator."""
        return self._rounds.state

    async def run(self) -> None:
        """Delivers whenever this process leads, until cancelled."""
        await self._rounds.run()

    def _begin(self) -> None:
        """A new lead starts from the stored checkpoint, with a fence of its own."""
        self._fence = self._leadership.fence
        self._trouble = self._known = self._work = None

    async def _round(self) -> None:
        await self._broker.open()
        work = self._work = self._work or await self._next_work()
        if work is not None:
            await self._do(work)
        await self._tell_trouble("")
        self._work = None
        self._more = work is not None and work.page.full

    async def _next_work(self) -> _Work | None:
        """A page of the chore and one of events in turn, as far as there are any."""
        if self._chore is not None and not self._was_chore:
            self._was_chore = True  # First, so that trouble with it does not hold up the events.
            due = await self._chore.next_page()
            if due is not None:
                return _Work(due[0], Publication(self._broker, due[0], self._may_send), due[1])
        self._was_chore = False
        page = await in_thread(self._next_page)
        if page is None:
            return None
        return _Work(page, Publication(self._broker, page, self._may_send))

    def _next_page(self) -> Page | None:
        if self._known is None:
            self._encoder.forget()
            self._known = self._recorder.max_tracking_id(self._checkpoint) or 0
        return page_after(self._recorder, self._encoder, self._known)

    def _text(self, position: int) -> str:
        return positions_now(self._recorder).encode(position)

    async def _do(self, work: _Work) -> None:
        """Publishes, and writes down that it is done. What is confirmed is not sent again."""
        page = work.page
        self._rounds.state = f"delivers up to {page.last}"
        await work.publication.publish()
        for position, error in page.refused.items():
            log.error("message refused", sink=self.name, position=self._text(position), error=error)
        if work.rows is not None:
            await self._append(work.rows)
        else:
            await self._append(parking(self.name, page.refused, page.topics), page.last)
            self._known = page.last

    def _may_send(self) -> bool:
        return self._leadership.sure

    async def _append(self, changes: Sequence[Change], position: int | None = None) -> None:
        """Moves the checkpoint and writes the rows, if this process still leads."""
        tracking = None if position is None else Tracking(self._checkpoint, position)
        await append_rows(self._recorder, changes, tracking=tracking, fence=self._fence)

    async def _rest(self) -> None:
        if not self._more:
            self._rounds.state = f"waits for events after {self.position}"
            with suppress(TimeoutError):
                async with asyncio.timeout(self._recorder.lease_terms.look_seconds):
                    await self._wait(self.position)

    async def _note_trouble(self, error: Exception) -> None:
        with suppress(Exception):  # A report that fails must not stop the next attempt.
            await self._tell_trouble(str(error) if isinstance(error, TryLater) else repr(error))

    async def _tell_trouble(self, trouble: str) -> None:
        """Reports trouble that has changed to operators: in the service's log, and in a row."""
        if trouble != self._trouble:
            if trouble:
                log.warning("sink cannot go on", sink=self.name, error=trouble)
            elif self._trouble:
                log.info("sink goes on", sink=self.name)
            await self._append([troubled(self.name, trouble)])
            self._trouble = trouble
