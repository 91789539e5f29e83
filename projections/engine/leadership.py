"""Leading: of several processes that could do a thing, the holder of a lease does it."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from uuid import uuid4

from calotype.stores.log.append import Fence
from calotype.stores.log.errors import Fenced, LogUnavailable
from calotype.stores.log.recorder import GroupCommitRecorder


class Leadership:
    """One process's part in the lease `name`.

    The epoch grows with each change of leader. A leader that stalls may lose the lease without
    noticing: what it must not write then carries `fence`, and is refused. The lease is as long as
    the others that leaders hold, unless `seconds` says otherwise.
    """

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        name: str,
        holder: str,
        *,
        seconds: float | None = None,
    ) -> None:
        self._recorder = recorder
        self._own_seconds = seconds
        self._name = name
        self._holder = holder
        self._renew_at = 0.0
        self._sure_until = 0.0
        self.epoch: int | None = None
        """The epoch in which this process leads, as far as it knows; None: it does not."""
        self.lapses = 0
        """How often the lease had to be taken when it may have run out before."""

    async def held(self) -> bool:
        """Takes the lease or renews it when that is due; whether this process leads."""
        if self.epoch is None or time.monotonic() >= self._renew_at:
            asked_at, seconds = time.monotonic(), self.seconds
            self._renew_at = asked_at + seconds / 3
            self.epoch = await self._recorder.hold_lease(self._name, self._holder, seconds)
            if time.monotonic() >= self._sure_until:
                self.lapses += 1
            self._sure_until = asked_at + seconds
        return self.epoch is not None

    @property
    def seconds(self) -> float:
        """The length of the lease."""
        return self._own_seconds or self._recorder.lease_terms.leader_seconds

    @property
    def look_seconds(self) -> float:
        """How often `held` is asked when nothing else happens."""
        return self.seconds / 6

    @property
    def sure(self) -> bool:
        """Whether no other process can lead yet: for work outside the database."""
        return self.epoch is not None and time.monotonic() < self._sure_until

    @property
    def fence(self) -> Fence:
        """What an append of this leader carries."""
        assert self.epoch is not None
        return Fence(self._name, self.epoch)

    def doubt(self) -> None:
        """Asks for the lease again next time: the log refused what carried its fence."""
        self.epoch = None

    async def give_back(self) -> None:
        """Lets the next process lead at once."""
        if self.epoch is not None:
            self.epoch = None
            with suppress(Exception):  # A lease that is not given back runs out by itself.
                await asyncio.shield(self._recorder.release_lease(self._name, self._holder))


class LeaseTaken(Exception):
    """Another process holds the lease, or has died with it a moment ago."""


class HeldLease:
    """A lease that a tool holds while it works."""

    def __init__(self, name: str, epoch: int) -> None:
        self.epoch = epoch
        self.fence = Fence(name, epoch)
        self.lost = threading.Event()

    def check(self) -> None:
        """Raises Fenced when the lease has another holder."""
        if self.lost.is_set():
            raise Fenced(f"the lease {self.fence.lease} has another holder")


@contextmanager
def held(recorder: GroupCommitRecorder, name: str) -> Iterator[HeldLease]:
    """Holds the lease `name`, for tools, renewed by a thread. Raises LeaseTaken."""
    ended = threading.Event()
    taken: Future[HeldLease] = Future()
    thread = threading.Thread(
        target=lambda: asyncio.run(_hold(recorder, name, taken, ended)), name="lease", daemon=True
    )
    thread.start()
    try:
        yield taken.result()
    finally:
        ended.set()
        thread.join()


async def _hold(
    recorder: GroupCommitRecorder, name: str, taken: Future[HeldLease], ended: threading.Event
) -> None:
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
    leadership = Leadership(recorder, name, holder)
    try:
        if not await leadership.held() or leadership.epoch is None:
            raise LeaseTaken(f"{name} is held by another process; if that has died, try again soon")
        mine = HeldLease(name, leadership.epoch)
    except Exception as error:
        taken.set_exception(error)
        return
    taken.set_result(mine)
    while not await asyncio.to_thread(ended.wait, recorder.lease_terms.look_seconds):
        with suppress(LogUnavailable):  # It may come back before the lease has run out.
            if not await leadership.held() or leadership.epoch != mine.epoch:
                mine.lost.set()
    await leadership.give_back()
