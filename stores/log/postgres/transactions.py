"""Transactions beside the log on PostgreSQL: of one name one at a time, whoever runs them.

They have connections of their own, and never touch the lock that appends are serialised by: a
slow one holds up its own name and nothing else.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg

from calotype.stores.log.postgres.connecting import Connection, Database, Silence, is_trouble
from calotype.stores.log.recorder import Result
from calotype.stores.log.statements import Fetch, bound

CONNECTIONS = 4
"""How many transactions of one process run at the same time."""
WAIT_SECONDS = 10
"""How long a transaction waits for its name."""
IDLE_SECONDS = 30
"""A transaction whose process says nothing for so long is ended: the process hangs."""

# The level is said, because a snapshot taken before the lock would show an older state.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_LIMITS = (
    "SELECT set_config('lock_timeout', '{}s', true), "
    "set_config('idle_in_transaction_session_timeout', '{}s', true)"
)
# The form with two keys never meets the locks with one, which the log and the schema use.
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('calotype transaction'), hashtext($1))"


class NamedTransactions:
    """Runs functions in transactions, in threads; connects when needed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._idle: deque[Connection] = deque()
        self.threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="log-transaction")

    def run(self, name: str, work: Callable[[Fetch], Result]) -> Result:
        """Runs `work` once, in this thread. Raises what it raises, or LogUnavailable."""
        connection = self._begun(name)
        try:
            result = work(fetch_on(connection))
            connection.execute("COMMIT")
        except BaseException as error:
            with suppress(psycopg.Error):
                connection.rollback()
            if is_trouble(error, connection):
                raise self._database.unavailable(error) from None
            raise
        finally:
            if not connection.closed:
                self._idle.append(connection)
        return result

    def close(self) -> None:
        """Waits for what runs, and closes the connections."""
        self.threads.shutdown()
        self._close_idle()

    def _close_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _begun(self, name: str) -> Connection:
        """A connection inside a transaction that has the name for itself."""
        while True:
            idle = self._idle.pop() if self._idle else None
            connection = idle or self._database.connect()
            connection.until = time.monotonic() + self._database.options.batch_seconds
            try:
                with connection.pipeline():
                    connection.execute(_BEGIN)
                    connection.execute(_LIMITS.format(WAIT_SECONDS, IDLE_SECONDS))
                connection.until += WAIT_SECONDS
                connection.execute(_LOCK, [name])
                return connection
            except psycopg.Error as error:
                # A connection that idled may have died long ago; a fresh one tells the truth.
                died = connection.closed
                with suppress(psycopg.Error):
                    connection.close()
                if isinstance(error, Silence):
                    self._close_idle()  # They lead to the same server.
                    died = False
                if idle is None or not died:
                    raise self._database.unavailable(error) from None


def fetch_on(connection: psycopg.Connection[Any]) -> Fetch:
    """Runs statements with `:name` parameters on this connection."""

    def fetch(sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        cursor = connection.execute(*bound(sql, parameters))
        return cursor.fetchall() if cursor.description else []

    return fetch
