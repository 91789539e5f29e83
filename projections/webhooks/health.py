"""How an endpoint fares: when it may be called, how many at once, and when it is given up."""

import random
from dataclasses import dataclass, replace

from calotype.projections.webhooks.attempt import Result
from calotype.projections.webhooks.endpoints import (
    BY_ENDPOINT,
    BY_FAILURES,
    DeliveryStatus,
    Endpoint,
)

FORGIVEN = 2
"""Failures in a row that may be the message's fault; after more of them the endpoint is probed."""
LONGEST_PROBE_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
"""Longer than this no endpoint can put us off."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long failed deliveries are tried again."""

    first_retry_seconds: float
    longest_retry_seconds: float
    disable_after_seconds: float
    """An endpoint that has only failed for so long gets nothing more; 0: it is never given up."""

    def pause_seconds(self, attempt: int, longest_seconds: float) -> float:
        """How long to wait after so many attempts: twice as long each time, a part by chance.

        By chance, because endpoints that broke at one moment should not be called at one.
        """
        seconds = min(longest_seconds, self.first_retry_seconds * 2.0 ** min(attempt - 1, 60))
        return seconds * random.uniform(0.75, 1.0)


class Health:
    """Follows one endpoint from what it answers; `fares` is what should be stored of it.

    Attempts that were made at the same time count as one: a server that is down fails all of
    them, and has failed once.
    """

    def __init__(self, endpoint: Endpoint, patience: Patience) -> None:
        self._patience = patience
        self._counted_at = endpoint.failed_at or 0.0
        self.fares = DeliveryStatus(
            failures=endpoint.failures,
            failing_since=endpoint.failing_since,
            failed_at=endpoint.failed_at,
            last_error=endpoint.last_error,
            next_try_at=endpoint.next_try_at,
            disabled=endpoint.disabled,
        )

    @property
    def probing(self) -> bool:
        """Whether the endpoint seems to be down: then it gets one message at a time."""
        return self.fares.failures > FORGIVEN

    def wait_seconds(self, now: float) -> float:
        """How long nothing may be sent."""
        return max(0.0, (self.fares.next_try_at or 0.0) - now)

    def retry_seconds(self, result: Result, attempt: int) -> float:
        """How long the message waits for its next attempt."""
        patience = self._patience
        seconds = patience.pause_seconds(attempt, patience.longest_retry_seconds)
        return max(seconds, _asked_for(result))

    def note(self, result: Result, started: float, now: float) -> None:
        """Takes in what an attempt that began at `started` came to."""
        if result.delivered:
            if not self.fares.disabled:
                self.fares = DeliveryStatus()
            return
        before = self.fares
        failures, since = before.failures, before.failing_since
        if since is None or self._was_quiet(now):
            failures, since = 0, now
        if started >= self._counted_at:
            failures += 1
            self._counted_at = now
        self.fares = replace(
            before,
            failures=failures,
            failing_since=since,
            failed_at=now,
            last_error=result.error,
            next_try_at=self._next_try_at(result, failures, now),
            disabled=before.disabled or self._given_up(result, since, now),
        )

    def stuck(self, error: str, now: float) -> None:
        """Notes that nothing can be sent, for a reason of our own."""
        self.fares = replace(
            self.fares,
            failing_since=self.fares.failing_since or now,
            last_error=error,
            next_try_at=now + LONGEST_PROBE_SECONDS,
        )

    def _was_quiet(self, now: float) -> bool:
        """Whether nothing was tried for so long that the earlier failures say nothing."""
        quiet_seconds = 2 * self._patience.longest_retry_seconds + LONGEST_RETRY_AFTER_SECONDS
        return now - (self.fares.failed_at or now) > quiet_seconds

    def _next_try_at(self, result: Result, failures: int, now: float) -> float | None:
        seconds = _asked_for(result)
        if failures > FORGIVEN:
            probe = self._patience.pause_seconds(failures - FORGIVEN, LONGEST_PROBE_SECONDS)
            seconds = max(seconds, probe)
        return now + seconds if seconds else None

    def _given_up(self, result: Result, since: float, now: float) -> str:
        if result.gone:
            return BY_ENDPOINT
        limit_seconds = self._patience.disable_after_seconds
        return BY_FAILURES if 0 < limit_seconds <= now - since else ""


def _asked_for(result: Result) -> float:
    return min(result.retry_after_seconds or 0.0, LONGEST_RETRY_AFTER_SECONDS)
