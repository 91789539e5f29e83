"""Connections to a SQLite file: one for each thread, gone with its thread."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID
from weakref import WeakSet

from calotype.stores.log.errors import LogUnavailable, ReadTooLong
from calotype.stores.log.sqlite.reserve import is_full
from calotype.stores.log.statements import Fetch, numbered

_STEPS_BETWEEN_LOOKS = 10_000
"""Steps of SQLite's machine, less than a millisecond, after which a read asks for its deadline."""

_CONNECTING = threading.Lock()

sqlite3.register_adapter(UUID, str)  # Ids are text in SQLite.


class ThreadConnection:
    """A thread's connection. It closes with its thread, and never while it is in use.

    Closing it under a running statement would crash the process, not raise.
    """

    def __init__(
        self,
        path: str,
        cache_kilobytes: int = 4096,
        durable: bool = True,
        busy_seconds: float = 30.0,
    ) -> None:
        """`busy_seconds`: how long it waits for the writers of other processes."""
        self.using = threading.RLock()
        self.connection = sqlite3.connect(
            path,
            timeout=busy_seconds,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=512,
        )
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        self.connection.execute(f"PRAGMA cache_size=-{cache_kilobytes}")

    def __del__(self) -> None:
        # The connection is part of a cycle with its cache of statements: it would wait for the
        # garbage collector with its file open.
        if hasattr(self, "connection"):
            self.close()

    def close(self) -> None:
        """Waits until the statement that runs is done, and closes."""
        with self.using, suppress(sqlite3.Error):
            self.connection.close()


def make_private(path: str) -> None:
    """Makes the file, and those that SQLite keeps beside it, the service's own.

    SQLite gives the other files the permissions of the first. Who let a group read them, for
    backups, say, keeps that; files that all may read, as they were made once, are closed.

    A file that is there is never opened: closing it would drop the locks that SQLite holds on it
    in this process. So nobody may be connecting meanwhile, either.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError, PermissionError):
            if os.stat(name).st_mode & 0o007:
                os.chmod(name, 0o600)


def fetch_on(connection: sqlite3.Connection) -> Fetch:
    """Runs statements with `:name` parameters on this connection."""

    def fetch(sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return connection.execute(sql, parameters or {}).fetchall()

    return fetch


def _rows(
    connection: sqlite3.Connection, sql: str, values: Mapping[str, Any]
) -> list[tuple[Any, ...]]:
    # By number: for each parameter with a name Python's lock is given up and taken again, which
    # keeps the event loop waiting where a list has a hundred.
    text, names = numbered(sql, "?")
    return connection.execute(text, [values[name] for name in names]).fetchall()


class Deadline:
    """When a read has to end: after some time, or once nobody waits for it any more."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._forsaken = False

    def forsake(self) -> None:
        """Nobody waits for the answer; from any thread."""
        self._forsaken = True

    def is_over(self) -> bool:
        return self._forsaken or time.monotonic() > self._end


class ThreadConnections:
    """Gives each thread its connection, and closes those that are left at the end."""

    def __init__(
        self,
        path: str,
        cache_kilobytes: int = 4096,
        durable: bool = True,
        busy_seconds: float = 30.0,
        *,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        """What is committed survives a power loss, unless it need not be `durable`.

        `make_room` gives back some of a full disk, and says whether it could.
        """
        self.path = path
        self._name = Path(path).name
        self._make_room = make_room
        self._options = (cache_kilobytes, durable, busy_seconds)
        self._local = threading.local()
        self._open: WeakSet[ThreadConnection] = WeakSet()
        self._open_lock = threading.Lock()
        self._closed = False

    def _mine(self) -> ThreadConnection:
        """This thread's connection. Raises LogUnavailable when the file cannot be opened."""
        mine: ThreadConnection | None = getattr(self._local, "mine", None)
        if mine is None:
            try:
                Path(self.path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with _CONNECTING:
                    make_private(self.path)
                    mine = self._new()
            except (sqlite3.Error, OSError) as error:
                raise LogUnavailable(f"cannot open {self._name}: {error}") from None
            with self._open_lock:
                if self._closed:
                    raise LogUnavailable(f"the event log {self._name} is closed")
                self._open.add(mine)
            self._local.mine = mine
        return mine

    def _new(self) -> ThreadConnection:
        while True:
            try:
                return ThreadConnection(self.path, *self._options)
            except sqlite3.Error as error:
                # Even reading needs a little room beside the file.
                if not is_full(error) or not self._make_room():
                    raise

    def select(self, sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """All rows. Raises LogUnavailable when they cannot be read."""
        mine = self._mine()
        try:
            with mine.using:
                return _rows(mine.connection, sql, values)
        except sqlite3.Error as error:
            raise LogUnavailable(f"cannot read {self._name}: {error}") from None

    def select_until(
        self, deadline: Deadline, sql: str, values: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """The same, unless the deadline comes first: then it raises ReadTooLong."""
        too_long = ReadTooLong(f"a read took longer than {deadline.seconds:g} s")
        if deadline.is_over():
            raise too_long
        mine = self._mine()
        try:
            with mine.using:
                mine.connection.set_progress_handler(deadline.is_over, _STEPS_BETWEEN_LOOKS)
                try:
                    return _rows(mine.connection, sql, values)
                finally:
                    mine.connection.set_progress_handler(None, 0)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise too_long from None
            raise LogUnavailable(f"cannot read {self._name}: {error}") from None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Holds the file's write lock until the end. Raises LogUnavailable if it stays taken."""
        mine = self._mine()
        connection = mine.connection
        with mine.using:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise LogUnavailable(f"cannot write to {self._name}: {error}") from None
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[Fetch]:
        """Reads on a connection of their own, all of the file as it was at the first of them."""
        try:
            own = ThreadConnection(self.path)
            try:
                own.connection.execute("BEGIN")
                yield fetch_on(own.connection)
            finally:
                own.close()
        except sqlite3.Error as error:
            raise LogUnavailable(f"cannot read {self._name}: {error}") from None

    def close(self) -> None:
        """Closes all connections, those of other threads too once they are done."""
        with self._open_lock:
            self._closed = True
            still_open = list(self._open)
            self._open.clear()
        for one in still_open:
            one.close()
