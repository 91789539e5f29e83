"""Connections to a SQLite file: one for each thread, gone with its thread."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakSet

from calotype.stores.log.recorder import LogUnavailable

BUSY_SECONDS = 30.0
"""How long a writer waits for the writers of other processes."""


class _Connection(sqlite3.Connection):
    """One that can be referred to weakly, so that only its thread keeps it open."""


class ThreadConnections:
    """Gives each thread its connection, and closes those that are left at the end."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._local = threading.local()
        self._open: WeakSet[_Connection] = WeakSet()
        self._open_lock = threading.Lock()

    def mine(self) -> sqlite3.Connection:
        """This thread's connection. Raises LogUnavailable when the file cannot be opened."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        return connection

    def _connect(self) -> sqlite3.Connection:
        try:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self._path,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=512,
                factory=_Connection,
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA cache_size=-16384")
            connection.execute("PRAGMA mmap_size=67108864")
        except (sqlite3.Error, OSError) as error:
            raise LogUnavailable(f"cannot open {self._path}: {error}") from None
        with self._open_lock:
            self._open.add(connection)
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Holds the file's write lock until the end. Raises LogUnavailable if it stays taken."""
        connection = self.mine()
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise LogUnavailable(f"cannot write to {self._path}: {error}") from None
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Closes all connections, those of other threads too."""
        with self._open_lock:
            for connection in list(self._open):
                with suppress(sqlite3.Error):
                    connection.close()
            self._open.clear()
