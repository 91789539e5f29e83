"""Connections to PostgreSQL on which nobody waits for ever, and which errors mean that it is away.

A server that hangs looks alive to TCP. So each answer has a time, and what did not answer in time
is given up by closing the socket. It is never cancelled: a commit that waits for its standby and is
cancelled is done on this server alone, and reported as done.
"""

import time
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from calotype.stores.log.errors import LogUnavailable
from calotype.stores.log.options import LogOptions

_SETTINGS = {
    "application_name": "calotype",
    # Of several hosts the one that takes writes: reads must show what was just written.
    "target_session_attrs": "read-write",
    # A host that vanished without a word is noticed after half a minute instead of hours.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

_SILENT = "the database did not answer in time"

_TROUBLE_CLASSES = ("08", "40", "53", "55", "57", "58")
"""SQLSTATE classes that say nothing about what was asked: connection, deadlock, disk, shutdown."""

_READ_ONLY = "25006"
"""The server has become a standby: after a failover another one takes writes."""


SHARED_TRIES = 20
"""Others may take the session in between, so one look is not enough."""


class Silence(psycopg.OperationalError):
    """The server did not answer in time; its connection is closed."""


class Connection(psycopg.Connection[Any]):
    """A connection whose server answers, or is left.

    Until `until` (monotonic clock) where that is set: whatever was not answered by then is given
    up. Else a statement may run for hours, as long as the server answers others meanwhile.
    """

    database: "Database"
    until: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        while True:
            seconds = self.database.options.batch_seconds
            if self.until is not None:
                seconds = max(0.0, self.until - time.monotonic())
            try:
                return super().wait(gen, interval, seconds)
            except errors._WaitTimeout:
                if self.until is None and self.database.answers(self):
                    continue
            self.pgconn.finish()
            raise Silence(_SILENT)


class AsyncConnection(psycopg.AsyncConnection[Any]):
    """A connection that each statement is answered on in time, or that is closed."""

    database: "Database"
    answered_at: float = 0.0
    """When its server last answered, by the monotonic clock."""

    async def wait(
        self,
        gen: Any,
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's signature
    ) -> Any:
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(gen, interval, self.database.options.batch_seconds)
        except errors._WaitTimeout:
            self.pgconn.finish()
            raise Silence(_SILENT) from None


class Database:
    """Where a log is, and how to connect to it. Settings in the URL win over ours."""

    def __init__(self, url: str, options: LogOptions) -> None:
        """Raises ValueError, without the URL's text, when it cannot be understood."""
        self.options = options
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error:
            # The driver's own message repeats the URL, and with it the password.
            raise ValueError(
                "the log's URL cannot be read: use postgresql://user:password@host:5432/name"
                " with special characters percent-encoded"
            ) from None
        ours = {**_SETTINGS, "connect_timeout": options.connect_seconds}
        self._settings: dict[str, Any] = ours | given

    def connect(self) -> Connection:
        """A connection of the caller's own, in autocommit. Raises LogUnavailable."""
        try:
            connection = Connection.connect(
                **self._settings,
                autocommit=True,
                cursor_factory=psycopg.RawCursor,
                prepare_threshold=self._prepare_threshold,
            )
        except psycopg.Error as error:
            raise self.unavailable(error) from None
        connection.database = self
        return connection

    async def connect_async(self) -> AsyncConnection:
        """The same for the event loop. Raises psycopg.Error."""
        connection = await AsyncConnection.connect(
            **self._settings,
            autocommit=True,
            cursor_factory=psycopg.AsyncRawCursor,
            prepare_threshold=self._prepare_threshold,
        )
        connection.database = self
        connection.prepared_max = 300
        return connection

    def answers(self, doubtful: Connection) -> bool:
        """Whether the server of this connection, which is silent, answers on another one."""
        settings = self._settings | {
            "host": doubtful.info.host,
            "port": doubtful.info.port,
            "hostaddr": None,
            "target_session_attrs": "any",
        }
        with suppress(psycopg.Error), Connection.connect(**settings, autocommit=True) as other:
            other.database = self
            other.until = time.monotonic() + self.options.connect_seconds
            other.execute("SELECT 1")
            return True
        return False

    def shares_sessions(self) -> bool:
        """Whether a pooler gives each transaction another session (PgBouncer's transaction mode).

        True is proven: two connections that are open at once have met the same server process.
        """
        with self.connect() as one, self.connect() as other:
            one.prepare_threshold = other.prepare_threshold = None
            for _ in range(SHARED_TRIES):
                with one.transaction():
                    first = one.execute("SELECT pg_backend_pid()").fetchone()
                with other.transaction():
                    if other.execute("SELECT pg_backend_pid()").fetchone() == first:
                        return True
        return False

    def unavailable(self, error: BaseException) -> LogUnavailable:
        """The error for a database that is away, in one line and without the password."""
        if isinstance(error, LogUnavailable):
            return error
        text = " ".join(str(error).split())[:300] or type(error).__name__
        password = self._settings.get("password")
        return LogUnavailable(text.replace(password, "***") if password else text)

    @property
    def _prepare_threshold(self) -> int | None:
        return 1 if self.options.prepared_statements else None


def is_trouble(error: BaseException, connection: Any) -> bool:
    """Whether the database is the cause, and not what was asked of it.

    The class of exception does not tell: an index row that is too long is an OperationalError
    too, and comes back as often as it is tried.
    """
    if isinstance(error, LogUnavailable):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    if connection is None or connection.closed:
        return True
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate[:2] in _TROUBLE_CLASSES or error.sqlstate == _READ_ONLY
