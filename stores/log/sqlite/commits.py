"""Noticing commits to a SQLite file: at once in this process, by polling in others."""

import threading
import time
from typing import Any

from calotype.stores.log.statements import Fetch

POLL_SECONDS = 0.02


class PollingWatch:
    """See CommitWatch. `commits` is notified of every commit of this process."""

    def __init__(self, fetch: Fetch, commits: threading.Condition) -> None:
        self._fetch = fetch
        self._commits = commits
        self._woken = False

    def mark(self) -> Any:
        """What has been committed up to now, as far as this thread's connection knows."""
        return self._fetch("PRAGMA data_version")[0][0]

    def wait(self, mark: Any, seconds: float) -> None:
        """Returns when there is more than at `mark`, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.mark() == mark and time.monotonic() < deadline:
            with self._commits:
                if self._woken:
                    return
                self._commits.wait(POLL_SECONDS)

    def wake(self) -> None:
        """Ends a wait early."""
        with self._commits:
            self._woken = True
            self._commits.notify_all()

    def close(self) -> None:
        """Nothing of its own to give back."""
