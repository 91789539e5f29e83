"""Serial work on shared threads."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

_JOBS_A_TURN = 8
"""After so many jobs a strand queues up behind the others, so that none keeps a thread."""


class Strand:
    """Runs its jobs one after the other, on a pool that many strands share.

    It holds a thread only while it has jobs, so thousands of strands that wait for a slow client
    cost nothing. A job must not raise.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._jobs: deque[Callable[[], object]] = deque()
        self._lock = Lock()
        self._running = False

    def submit(self, job: Callable[[], object]) -> None:
        """Queues `job`; returns at once. Raises RuntimeError when the pool was shut down."""
        with self._lock:
            self._jobs.append(job)
            if self._running:
                return
            self._running = True
        self._pool.submit(self._run)

    def _run(self) -> None:
        for _ in range(_JOBS_A_TURN):
            self._jobs.popleft()()
            with self._lock:
                if not self._jobs:
                    self._running = False
                    return
        self._pool.submit(self._run)
