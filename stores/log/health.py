"""Whether writing to the log works, known from the writes themselves."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from calotype.stores.log.errors import LogUnavailable


class WriteHealth:
    """Notes when writes begin, succeed and fail, from any thread.

    A serving process writes all the time, if only its leases: so no write of its own is needed to
    learn that the database takes writes again.
    """

    def __init__(self, late_seconds: float) -> None:
        self._late_seconds = late_seconds
        self._lock = threading.Lock()
        self._running: dict[object, float] = {}
        self._failure: tuple[float, str] | None = None

    @contextmanager
    def writing(self, since: float | None = None) -> Iterator[None]:
        """Around one write that began, or has waited, `since` then (monotonic clock)."""
        token = object()
        started = time.monotonic()
        with self._lock:
            self._running[token] = started if since is None else since
        try:
            yield
        except LogUnavailable as error:
            self.failed(str(error))
            raise
        else:
            self._succeeded(started)
        finally:
            with self._lock:
                del self._running[token]

    def failed(self, reason: str) -> None:
        """Notes a write that failed because of the database."""
        with self._lock:
            self._failure = (time.monotonic(), reason)

    def trouble(self, waiting_since: float | None = None) -> str | None:
        """Why writes do not get through now, or None; `waiting_since` is of those not begun."""
        now = time.monotonic()
        with self._lock:
            begun = [*self._running.values(), *([] if waiting_since is None else [waiting_since])]
            failure = self._failure
        oldest = now - min(begun, default=now)
        if oldest >= self._late_seconds:
            return f"a change has waited for {oldest:.0f} seconds"
        return None if failure is None else failure[1]

    def _succeeded(self, started: float) -> None:
        with self._lock:
            # What failed after this write began says more than its success.
            if self._failure is not None and self._failure[0] < started:
                self._failure = None
