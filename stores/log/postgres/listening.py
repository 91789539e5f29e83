"""Learning from PostgreSQL, by LISTEN, that something was committed anywhere."""

import threading
import time
from contextlib import suppress

import psycopg

from calotype.stores.log.postgres.connecting import Connection, Database

CHANNEL = "calotype_log"
NOTIFY = f"NOTIFY {CHANNEL}"
SLICE_SECONDS = 0.1
SILENT_SECONDS = 5.0
"""A server that tells nothing for so long is asked whether it is still there."""


class Listener:
    """A CommitWatch; see there. For one thread, except for `wake`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._heard_at = 0.0
        self._woken = threading.Event()

    def mark(self) -> None:
        """Listens from now on. Raises LogUnavailable."""
        if self._connection is None or self._connection.closed:
            connection = self._database.connect()
            self._ask(connection, f"LISTEN {CHANNEL}")
            self._connection = connection
        elif time.monotonic() - self._heard_at > SILENT_SECONDS:
            # One that hangs, or was replaced without a word, would leave us deaf for good.
            self._ask(self._connection, "SELECT 1")

    def _ask(self, connection: Connection, sql: str) -> None:
        connection.until = time.monotonic() + self._database.options.connect_seconds
        try:
            connection.execute(sql)
        except psycopg.Error as error:
            connection.close()
            raise self._database.unavailable(error) from None
        self._heard_at = time.monotonic()

    def wait(self, mark: None, seconds: float) -> None:
        """Returns on a notification, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._woken.is_set():
            try:
                assert self._connection is not None
                if list(self._connection.notifies(timeout=SLICE_SECONDS, stop_after=1)):
                    self._heard_at = time.monotonic()
                    return
            except psycopg.Error:
                self.close()
                return

    def wake(self) -> None:
        """Ends a wait early."""
        self._woken.set()

    def close(self) -> None:
        """Closes the listening connection."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
