"""Which processes are gone for good, as far as can be known without asking them.

That a process has no lease now says little: the database may have been away, the clock may have
jumped, the whole machine may have slept. So a process counts as gone only when it had no lease at
any look during one whole lease length, by the looker's own monotonic clock, and the looker itself
was punctual meanwhile: after a look that comes late all waiting begins again. So it does after a
look that misses the lease of the looker itself, because then the log takes no writes and nobody can
renew anything. A process that was merely held up renews its lease as soon as it goes on, which the
next look sees.

It follows that when a process counts as gone, its own clock has told it before then that its lease
cannot be sure any more: its last renewal came before the first look that missed it.
"""

import time
from collections.abc import Callable, Set


class Presence:
    """What one process, the `looker`, has seen of the leases of all, its own among them."""

    def __init__(
        self, lease_seconds: float, looker: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lease_seconds = lease_seconds
        self._looker = looker
        self._late_seconds = lease_seconds * 2 / 3
        self._clock = clock
        self._looked_at: float | None = None
        self._watching_since = 0.0
        self._living: Set[str] = frozenset()
        self._missed_since: dict[str, float] = {}

    def note(self, living: Set[str], asked_at: float) -> None:
        """Takes in one look: who had a lease, asked for at `asked_at` by the same clock."""
        now = self._clock()
        is_late = self._looked_at is None or now - self._looked_at > self._late_seconds
        if is_late or self._looker not in living:
            self._watching_since = now
            self._missed_since.clear()
        else:
            self._missed_since.update(dict.fromkeys(self._living - living, now))
        for holder in living:
            self._missed_since.pop(holder, None)
        self._living, self._looked_at = living, asked_at

    def is_gone(self, holder: str) -> bool:
        """Whether that process cannot hold its lease any more, nor believe that it does."""
        if self._looked_at is None or holder in self._living:
            return False
        if self._clock() - self._looked_at > self._late_seconds:
            return False  # What was seen is too old to act on.
        missed_since = self._missed_since.get(holder, self._watching_since)
        return self._looked_at - missed_since >= self._lease_seconds
