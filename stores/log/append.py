"""Appends that wait, and the one thread that writes them.

All appends of a process go through one queue to one writer thread. It takes whatever waits,
writes it in one transaction together with the query rows, and answers every caller at once: under
load many commands share one fsync, and a single command waits for nobody. Because batches are
serialised across processes, positions are in commit order and have no gaps.
"""

import asyncio
import concurrent.futures
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from eventsourcing.persistence import IntegrityError, StoredEvent, Tracking

from calotype.stores.log.errors import LogFull, LogUnavailable
from calotype.stores.log.health import WriteHealth
from calotype.stores.log.options import LogOptions
from calotype.stores.log.tables import Change

BATCH_LIMIT = 256
"""How many appends one transaction takes at most."""
BATCH_BYTES = 4 << 20
"""A batch whose events have reached this length ends early: its rows and statements are longer."""

log = structlog.get_logger("calotype.log")


@dataclass(frozen=True, slots=True)
class Fence:
    """Keeps an append from being written once its lease is no longer in this epoch."""

    lease: str
    epoch: int


Outcome = list[int] | BaseException
"""The positions of an append's events, or why nothing was written."""


@dataclass(slots=True, eq=False)
class Append:
    """Events of one command, with the query rows and tracking that go with them."""

    events: Sequence[StoredEvent]
    rows: Callable[[], Sequence[Change]] | None
    """Called once, in the writer's thread; what it raises fails only this append."""
    tracking: Tracking | None
    future: "asyncio.Future[list[int]] | concurrent.futures.Future[list[int]]"
    changes: Sequence[Change] = ()
    """What `rows` gave; filled by the writer."""
    fence: Fence | None = None
    """Checked inside the transaction; the append fails with Fenced when the lease has moved on."""
    submitted_at: float = 0.0
    """By the monotonic clock; filled by the queue."""
    makes_room: bool = False
    """Whether bytes can be removed because of it, so that it must be possible on a full disk."""


class AppendQueue(ABC):
    """Appends that wait for the writer thread, which the first of them starts."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._health = WriteHealth(options.late_seconds)
        self._waiting: deque[Append] = deque()
        self._arrived = threading.Condition()
        self._writer: threading.Thread | None = None
        self._closing = False

    def submit(self, append: Append) -> None:
        """Queues an append and returns at once; its future gets the positions.

        The future fails with IntegrityError on a version conflict, with LogUnavailable when the
        database is down, or with what went wrong. Raises LogFull when too many wait.
        """
        with self._arrived:
            if len(self._waiting) >= self._options.queue_limit:
                limit = self._options.queue_limit
                raise LogFull(f"{limit} changes wait for the event log already")
            if self._closing:
                raise LogUnavailable("the event log is closed")
            append.submitted_at = time.monotonic()
            self._waiting.append(append)
            if self._writer is None:
                self._writer = threading.Thread(target=self._run, name="log-writer", daemon=True)
                self._writer.start()
            self._arrived.notify()

    def _take(self) -> list[Append]:
        """Up to BATCH_LIMIT of what waits, and about BATCH_BYTES; blocks while nothing does.

        Empty: the queue has ended.
        """
        with self._arrived:
            while not self._waiting and not self._closing:
                self._arrived.wait()
            taken: list[Append] = []
            size = 0
            while self._waiting and len(taken) < BATCH_LIMIT and size < BATCH_BYTES:
                taken.append(self._waiting.popleft())
                size += sum(len(event.state) for event in taken[-1].events)
            return taken

    def _take_older(self, than: float) -> list[Append]:
        """All that were submitted before this moment of the monotonic clock; never blocks."""
        with self._arrived:
            older = []
            while self._waiting and self._waiting[0].submitted_at < than:
                older.append(self._waiting.popleft())
            return older

    @property
    def waiting_since(self) -> float | None:
        """When the oldest append that waits was submitted; None while none waits."""
        with self._arrived:
            return self._waiting[0].submitted_at if self._waiting else None

    def end(self) -> None:
        """Takes no more appends, and returns when those that wait are written."""
        with self._arrived:
            self._closing = True
            self._arrived.notify_all()
        if self._writer is not None:
            self._writer.join()

    def _run(self) -> None:
        while True:
            batch = self._take()
            if not batch:
                break
            with self._health.writing(batch[0].submitted_at):
                self._write(batch)
        self._close_writer()

    def _write(self, batch: list[Append]) -> None:
        outcomes: list[tuple[Append, Outcome]] = []
        ready: list[Append] = []
        for append in batch:
            try:
                append.changes = append.rows() if append.rows is not None else ()
                ready.append(append)
            except Exception as error:
                outcomes.append((append, error))
        try:
            if ready:
                outcomes += self._write_batch(ready)
        except Exception as error:
            log.exception("batch failed")
            outcomes += [(append, error) for append in ready]
        away = next((one for _, one in outcomes if isinstance(one, LogUnavailable)), None)
        if away is not None:
            # Those that waited as long behind it need not find out for themselves.
            late = self._take_older(time.monotonic() - self._options.batch_seconds)
            outcomes += [(append, away) for append in late]
            self._health.failed(str(away))
        deliver(outcomes)

    @abstractmethod
    def _write_batch(self, batch: list[Append]) -> list[tuple[Append, Outcome]]:
        """Writes the batch in one transaction; each append succeeds or fails on its own."""

    @abstractmethod
    def _close_writer(self) -> None:
        """Closes the writer thread's connection."""


def deliver(outcomes: Sequence[tuple[Append, Outcome]]) -> None:
    """Resolves all futures, with one wake-up for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Outcome]]] = {}
    for append, outcome in outcomes:
        future = append.future
        if isinstance(future, asyncio.Future):
            by_loop.setdefault(future.get_loop(), []).append((future, outcome))
        elif future.set_running_or_notify_cancel():
            _settle(future, outcome)
    for loop, resolved in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, resolved)
        except RuntimeError:
            pass  # The loop is closed: no caller waits, and what was written stays written.


def _resolve(resolved: Sequence[tuple[asyncio.Future[Any], Outcome]]) -> None:
    for future, outcome in resolved:
        if not future.done():
            _settle(future, outcome)


def _settle(
    future: "asyncio.Future[Any] | concurrent.futures.Future[Any]", outcome: Outcome
) -> None:
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def without_rivals(batch: Sequence[Append]) -> tuple[list[Append], list[Append]]:
    """`(now, later)`: of several appends to one version of an aggregate only the first is `now`.

    The others have lost only if it succeeds, so they are tried after it.
    """
    taken: set[tuple[UUID | str, int]] = set()
    now: list[Append] = []
    later: list[Append] = []
    for append in batch:
        keys = {(event.originator_id, event.originator_version) for event in append.events}
        if taken.isdisjoint(keys):
            taken |= keys
            now.append(append)
        else:
            later.append(append)
    return now, later


def conflict(append: Append) -> IntegrityError:
    """The error of an append whose version of the aggregate is taken."""
    event = append.events[0]
    return IntegrityError(
        f"version {event.originator_version} of {event.originator_id} is taken already"
    )
