"""The threads that speak to one store, and how long it may keep them waiting.

A call to a store that hangs (a file system whose server is gone, an endpoint that says nothing)
cannot be taken back: its thread is lost until the call returns. So every store has threads of its
own, which nothing else waits for, the end of the process included; whoever waits for an answer does
so for a limited time; and a store that has taken enough threads counts as down, which is an answer
at once, until some of them come back.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from calotype.stores.images.driver import Driver, StoreUnavailable

DEADLINE_SECONDS = 60.0
IDLE_SECONDS = 10.0
"""A thread without work ends after so long."""
MOST_LOST = 8
"""With so many threads lost a store counts as down."""
_JOBS_A_TURN = 8
"""After so many jobs a strand queues up behind the others, so that none keeps a thread."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class DaemonThreads(Executor):
    """Runs jobs in order on up to `most` threads, made when needed, that no exit waits for."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._threads = 0
        self._idle = 0

    def submit(
        self,
        fn: Callable[_Arguments, _Result],
        /,
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> "Future[_Result]":
        future: Future[_Result] = Future()
        with self._changed:
            self._jobs.append((future, partial(fn, *args, **kwargs)))
            if self._idle >= len(self._jobs):
                self._changed.notify()
            elif self._threads < self._most:
                self._threads += 1
                name = f"{self._name}_{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._jobs, IDLE_SECONDS)
                self._idle -= 1
                if not self._jobs:
                    self._threads -= 1
                    return
                future, work = self._jobs.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del future, work  # They would keep what was worked on until the next one comes.


class StoreThreads:
    """The threads of one store.

    Writes, reads and everything else have threads of their own, so that none waits for another
    kind. `deadline_seconds` is how long the store may go without any progress.
    """

    def __init__(self) -> None:
        self.writers = DaemonThreads(32, "image-write")
        self.readers = DaemonThreads(32, "image-read")
        self._others = DaemonThreads(16, "image-store")
        self.deadline_seconds = DEADLINE_SECONDS
        self._lost: set[Future[Any]] = set()
        self._lock = threading.Lock()

    def expect_answers(self) -> None:
        """Raises StoreUnavailable while the store counts as down."""
        with self._lock:
            lost = len(self._lost)
        if lost >= MOST_LOST:
            raise StoreUnavailable(f"The store does not answer: {lost} calls to it hang.")

    def lose(self, job: "Future[Any]") -> StoreUnavailable:
        """Takes the job's thread for lost until it comes back; the error for whoever waited."""
        with self._lock:
            self._lost.add(job)
        job.add_done_callback(self._found)
        return StoreUnavailable(
            f"The store did not answer for {self.deadline_seconds:g} seconds "
            "(store.deadline_seconds)."
        )

    async def call(
        self,
        work: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Result:
        """What `work` returns or raises. Raises StoreUnavailable when it takes too long."""
        return await self.within_deadline(self._others.submit(work, *arguments, **named))

    async def read(
        self,
        work: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Result:
        """The same on the threads of reads."""
        return await self.within_deadline(self.readers.submit(work, *arguments, **named))

    async def within_deadline(self, job: "Future[_Result]") -> _Result:
        """The job's outcome. Raises StoreUnavailable when that takes too long, or at once."""
        try:
            self.expect_answers()
        except StoreUnavailable:
            if job.cancel():
                raise
        waiting = asyncio.wrap_future(job)
        await asyncio.wait((waiting,), timeout=self.deadline_seconds)
        if waiting.done():
            return waiting.result()
        waiting.add_done_callback(_forget)
        if not job.cancel():
            raise self.lose(job)
        raise StoreUnavailable("The store's threads are all busy; try again later.")

    def _found(self, job: "Future[Any]") -> None:
        with self._lock:
            self._lost.discard(job)


class Strand:
    """Runs its jobs one after the other, on a pool that many strands share.

    It holds a thread only while it has jobs, so thousands of strands that wait for a slow client
    cost nothing. A job must not raise.
    """

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._turn: Future[None] | None = None
        self.is_lost = False
        self._jobs: deque[Callable[[], object]] = deque()
        self._lock = threading.Lock()
        self._running = False

    def submit(self, job: Callable[[], object]) -> None:
        """Queues `job`; returns at once. Raises RuntimeError when the pool was shut down."""
        with self._lock:
            self._jobs.append(job)
            if self._running:
                return
            self._running = True
        self._turn = self._pool.submit(self._run)

    def _run(self) -> None:
        for _ in range(_JOBS_A_TURN):
            self._jobs.popleft()()
            with self._lock:
                if not self._jobs:
                    self._running = False
                    return
        self._turn = self._pool.submit(self._run)

    def lose(self, threads: StoreThreads) -> StoreUnavailable:
        """Takes the thread for lost; the jobs that are left run when it comes back."""
        self.is_lost = True
        assert self._turn is not None
        return threads.lose(self._turn)


def _forget(waiting: "asyncio.Future[Any]") -> None:
    if not waiting.cancelled():
        waiting.exception()  # Nobody waits any more; the loop need not report it.


_threads: "WeakKeyDictionary[Driver, StoreThreads]" = WeakKeyDictionary()
_making = threading.Lock()


def threads_of(driver: Driver) -> StoreThreads:
    """The threads of the driver's store; they live as long as the driver does."""
    with _making:
        found = _threads.get(driver)
        if found is None:
            found = _threads[driver] = StoreThreads()
        return found
