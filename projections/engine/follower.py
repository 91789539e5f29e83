"""Following the log asynchronously: pages of events become rows, together with a checkpoint.

A follower reads a page after its checkpoint, lets a fold turn it into rows, and writes rows and
checkpoint in one transaction through the log's own writer. One process leads, the holder of a
lease. The fence refuses what a leader writes that has lost its lease without noticing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from eventsourcing.persistence import IntegrityError, Notification, Tracking

from calotype.projections.engine.appending import append_rows
from calotype.projections.engine.leadership import Leadership
from calotype.projections.engine.rounds import Rounds, in_thread
from calotype.stores.log.append import Fence
from calotype.stores.log.errors import Fenced
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Change, Count

PAGE = 128
"""Events a page: what is written at once holds up ordinary commands, so it stays small."""
PAGE_BYTES = 4 << 20
"""A page whose events are longer ends early."""
ROWS_BYTES = 16 << 20
"""And one that has made so many bytes of rows, where the fold is given a page in chunks."""
POLL_SECONDS = 0.05

_REACHED = "SELECT notification_id FROM tracking WHERE application_name = :name"


class Fold(Protocol):
    """What makes rows of events. It runs in a thread, one page at a time."""

    def fold(self, page: Sequence[Notification]) -> Sequence[Change]:
        """The rows that change by these events, the next ones in the log.

        The same log always gives the same rows. What it raises stops the follower at this page,
        loudly, until the page can be folded.
        """

    def forget(self) -> None:
        """Drops what is remembered of earlier pages; another process may have written since."""


class Follower:
    """Keeps one fold's rows up to date with the log.

    `name` is the name of its checkpoint and lease, `holder` names this process. `wait(position)`
    returns when the log may have grown beyond the position, or after a while; without it the
    follower looks every 50 ms. After a page that was not full it rests for `rest_seconds`, less
    than a lease, for folds that are cheaper with many events at once; after a full one
    `rest_factor` times as long as it worked, so that callers come first. `read(position, limit)`
    gives a fold its events in another form, each with its position as `id`. A fold whose rows may
    be much longer than its events is given `chunk_events` at a time, so that a page can end when
    its rows are long.
    """

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        name: str,
        fold: Fold,
        *,
        holder: str,
        wait: Callable[[int], Awaitable[None]] | None = None,
        page_events: int = PAGE,
        chunk_events: int | None = None,
        read: Callable[[int, int], Sequence[Any]] | None = None,
        rest_seconds: float = 0.0,
        rest_factor: float = 0.0,
    ) -> None:
        self._recorder = recorder
        self._name = name
        self._fold = fold
        self._leadership = Leadership(recorder, f"follower:{name}", holder)
        self._wait = wait or self._poll
        self._page_events = page_events
        self._chunk_events = chunk_events or page_events
        self._read = read or self._read_notifications
        self._rest_seconds = rest_seconds
        self._rest_factor = rest_factor
        self._more = False
        self._known: int | None = None
        self._fence: Fence | None = None
        """Of the lead in which this process folds; None where it folds whoever leads."""
        self._rounds = Rounds(
            "follower",
            self._round,
            leadership=self._leadership,
            begin=self._begin,
            follower=name,
        )

    @property
    def position(self) -> int:
        """The last position that this process knows to be folded and written."""
        return self._known or 0

    @property
    def state(self) -> str:
        """What the follower does, for an operator."""
        return self._rounds.state

    async def run(self) -> None:
        """Follows until cancelled; a failure is logged, and tried again after a growing pause."""
        await self._rounds.run()

    async def catch_up(self) -> int:
        """Folds all that is in the log now without a rest, whoever leads; the position reached."""
        while await self._step():
            pass
        return self.position

    async def _round(self) -> None:
        started, look_seconds = time.monotonic(), self._recorder.lease_terms.look_seconds
        if await self._step():
            self._rounds.state = f"follows, at {self.position}"
            if not self._more:
                await asyncio.sleep(self._rest_seconds)
            elif self._rest_factor:
                worked_seconds = time.monotonic() - started
                await asyncio.sleep(min(self._rest_factor * worked_seconds, look_seconds))
        else:
            self._rounds.state = f"waits for events after {self.position}"
            with suppress(TimeoutError):
                async with asyncio.timeout(look_seconds):
                    await self._wait(self.position)

    async def _step(self) -> bool:
        """Folds and writes the next page; False when there is nothing after the checkpoint.

        Raises Fenced when another process leads, or a rebuild has replaced the tables.
        """
        try:
            page, changes = await in_thread(self._fold_page)
            if not page:
                return False
            last = page[-1].id
            tracking = Tracking(self._name, last)
            await append_rows(self._recorder, changes, tracking=tracking, fence=self._fence)
            self._known = last
            return True
        except BaseException as error:
            self._start_over()  # The fold may remember a page that was never written.
            if isinstance(error, IntegrityError) and not isinstance(error, Fenced):
                return True  # Another process has moved the checkpoint further: continue there.
            raise

    def _fold_page(self) -> tuple[Sequence[Notification], Sequence[Change]]:
        if self._known is None:
            self._known = self._recorder.max_tracking_id(self._name) or 0
        page = self._read(self._known, self._page_events)
        self._more = len(page) == self._page_events
        changes: list[Change] = []
        start = size = 0
        while start < len(page) and size < ROWS_BYTES:
            some = self._fold.fold(page[start : start + self._chunk_events])
            start += self._chunk_events
            if start < len(page):
                size += _bytes_in(some)
            changes += some
        self._more = self._more or start < len(page)
        return page[:start], changes

    def _read_notifications(self, position: int, limit: int) -> Sequence[Notification]:
        return self._recorder.select_notifications(
            position, limit, inclusive_of_start=False, limit_bytes=PAGE_BYTES
        )

    def _begin(self) -> None:
        # Once for each lead: a later one must not vouch for what this one has folded.
        self._fence = self._leadership.fence
        self._start_over()

    def _start_over(self) -> None:
        self._known = None
        self._fold.forget()

    async def _poll(self, position: int) -> None:
        last = self._recorder.max_notification_id
        while (await asyncio.to_thread(last) or 0) <= position:  # noqa: ASYNC110 - another process writes
            await asyncio.sleep(POLL_SECONDS)


def _bytes_in(changes: Sequence[Change]) -> int:
    """How much text the rows of these changes hold."""
    return sum(
        len(value)
        for change in changes
        if not isinstance(change, Count)
        for row in change.rows
        for value in row
        if isinstance(value, str)
    )


async def reached(recorder: GroupCommitRecorder, name: str) -> int:
    """The checkpoint of the follower of this name, in whichever process it runs."""
    rows: list[tuple[Any, ...]] = await recorder.fetch(_REACHED, {"name": name})
    return rows[0][0] if rows else 0


async def wait_until_reached(
    recorder: GroupCommitRecorder, name: str, position: int, seconds: float
) -> bool:
    """Waits for the follower to reach `position`; False when it did not in time."""
    deadline = time.monotonic() + seconds
    while await reached(recorder, name) < position:
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.01)
    return True
