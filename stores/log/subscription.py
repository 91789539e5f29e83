"""Following the log: every event once, in order, from any position, for ever."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

from eventsourcing.persistence import ApplicationRecorder, Notification, Subscription

from calotype.stores.log.errors import LogUnavailable

PAGE = 500
RECONNECT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 1.0
"""Even if no wake-up comes, a subscription looks again after this time."""


class CommitWatch(Protocol):
    """How a subscription learns that there is something new to read."""

    def mark(self) -> Any:
        """A mark of now; taken before reading, so that what comes in between is not missed."""

    def wait(self, mark: Any, seconds: float) -> None:
        """Returns when something was committed since `mark`, or after `seconds`."""

    def wake(self) -> None:
        """Ends a wait early, from another thread."""

    def close(self) -> None:
        """Gives connections back."""


class LogSubscription(Subscription[ApplicationRecorder]):
    """Iterates over the events after a position, and waits for more at the end.

    Marks first and reads afterwards: an event that is committed in between ends the wait at once.
    """

    def __init__(
        self,
        recorder: ApplicationRecorder,
        gt: int | None,
        topics: Sequence[str],
        watch: CommitWatch,
    ) -> None:
        super().__init__(recorder, gt, topics)
        self._watch = watch
        self._page: list[Notification] = []

    def stop(self) -> None:
        """Ends the iteration; a wait under way ends too."""
        super().stop()
        self._watch.wake()

    def __exit__(self, *args: object, **kwargs: Any) -> None:
        super().__exit__(*args, **kwargs)
        self._watch.close()

    def __next__(self) -> Notification:
        while not self._has_been_stopped:
            if self._page:
                notification = self._page.pop(0)
                self._last_notification_id = notification.id
                return notification
            try:
                self._fill_page()
            except LogUnavailable:
                time.sleep(RECONNECT_SECONDS)  # What was read last is known: nothing gets lost.
        raise StopIteration

    def _fill_page(self) -> None:
        mark = self._watch.mark()
        self._page = list(
            self._recorder.select_notifications(
                self._last_notification_id,
                PAGE,
                topics=self._topics,
                inclusive_of_start=False,
            )
        )
        if not self._page and not self._has_been_stopped:
            self._watch.wait(mark, LONGEST_WAIT_SECONDS)
