"""One watcher per process, which wakes every coroutine that waits for the log to grow.

A thread waits for commits, as the log's subscriptions do (LISTEN on PostgreSQL; on SQLite a wake
within the process and polling `data_version` for others), and looks once at what is new and
whom it concerns. So a thousand idle consumers cost a thousand futures, and an event of one
project does not make the consumers of all others ask the database.
"""

import asyncio
import threading
from typing import Any

import structlog

from calotype.projections.feed.audience import EVENT_AUDIENCE, FOLLOWER
from calotype.stores.log.errors import LogUnavailable
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.subscription import LONGEST_WAIT_SECONDS, RECONNECT_SECONDS, CommitWatch

MANY_EVENTS = 2000
"""More events than this at once wake everybody instead of being looked through."""

LOG_ENDS = (
    "SELECT (SELECT max(notification_id) FROM stored_events), "
    "(SELECT notification_id FROM tracking WHERE application_name = :name)"
)
"""The last position of the log, and how far the follower `:name` is."""
_CONCERNED = (
    f"SELECT DISTINCT project FROM {EVENT_AUDIENCE.name} "
    "WHERE position > :after AND position <= :until"
)

log = structlog.get_logger("calotype.commit_watcher")


class CommitWatcher:
    """Wakes coroutines of one event loop when there is something new for them.

    The thread starts with the first wait and ends with `close`.
    """

    def __init__(self, recorder: GroupCommitRecorder) -> None:
        self._recorder = recorder
        self._waiting: dict[str | None, set[asyncio.Future[None]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._watch: CommitWatch | None = None
        self._ends = (-1, -1)
        """What the loop knows: the end of the log, and of what projects may read of it."""
        self.ended = False
        """Set when this process stops: `wait` returns at once then."""

    async def wait(self, project: str | None, after: int, seconds: float) -> None:
        """Returns when the project may have something to read after the position, or in time.

        `project` None waits for any growth of the log. May return early; ask again then.
        """
        self._start()
        if self.ended or self.knows_more(project, after):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(project, set())
        waiting.add(future)
        try:
            await asyncio.wait((future,), timeout=seconds)
        finally:
            future.cancel()
            waiting.discard(future)
            if not waiting and self._waiting.get(project) is waiting:
                del self._waiting[project]

    def knows_more(self, project: str | None, after: int) -> bool:
        """Whether a feed has something after the position, as far as earlier waits have shown."""
        return after < self._ends[0 if project is None else 1]

    async def grown(self, position: int) -> None:
        """Returns when the log may have grown beyond the position; for followers."""
        if self.ended:
            await asyncio.sleep(LONGEST_WAIT_SECONDS)  # The process goes, and so will the caller.
        await self.wait(None, position, LONGEST_WAIT_SECONDS)

    def end(self) -> None:
        """Ends every wait: the process is about to stop."""
        self.ended = True
        for project in list(self._waiting):
            self._wake(project)
        if self._watch is not None:
            self._watch.wake()

    async def close(self) -> None:
        """Ends, and returns when the thread has given its connection back."""
        self.end()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _start(self) -> None:
        if self._thread is None and not self.ended:
            self._loop = asyncio.get_running_loop()
            self._watch = self._recorder.watch()
            self._thread = threading.Thread(
                target=self._watch_log, args=(self._watch,), name="log-watch", daemon=True
            )
            self._thread.start()

    def _wake(self, project: str | None) -> None:
        for future in self._waiting.pop(project, ()):
            if not future.done():
                future.set_result(None)

    def _advance(self, ends: tuple[int, int], concerned: list[str] | None) -> None:
        before, self._ends = self._ends, ends
        if ends[0] > before[0]:
            self._wake(None)
        everybody = [project for project in self._waiting if project is not None]
        for project in everybody if concerned is None else concerned:
            self._wake(project)

    # ---- in the thread ----

    def _watch_log(self, watch: CommitWatch) -> None:
        known: tuple[int, int] | None = None
        try:
            while not self.ended:
                try:
                    mark = watch.mark()
                    ends = self._look()
                    if ends != known:
                        self._tell(ends, self._concerned(known, ends))
                        known = ends
                    watch.wait(mark, LONGEST_WAIT_SECONDS)
                except LogUnavailable as error:
                    if not self.ended:
                        log.warning("cannot watch the log", error=str(error))
                        threading.Event().wait(RECONNECT_SECONDS)
        finally:
            watch.close()

    def _look(self) -> tuple[int, int]:
        row: tuple[Any, ...] = self._recorder.fetch_now(LOG_ENDS, {"name": FOLLOWER})[0]
        return row[0] or 0, row[1] or 0

    def _concerned(self, known: tuple[int, int] | None, ends: tuple[int, int]) -> list[str] | None:
        """The projects with new events; None for all, where looking would be long."""
        if known is None or not 0 <= ends[1] - known[1] <= MANY_EVENTS:
            return None
        if ends[1] == known[1]:
            return []
        if not any(project is not None for project in list(self._waiting)):
            return None  # Whoever begins to wait meanwhile is woken without being looked up.
        rows = self._recorder.fetch_now(_CONCERNED, {"after": known[1], "until": ends[1]})
        return [row[0] for row in rows]

    def _tell(self, ends: tuple[int, int], concerned: list[str] | None) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._advance, ends, concerned)
        except RuntimeError:
            self.ended = True  # The loop is closed: nobody waits any more.
