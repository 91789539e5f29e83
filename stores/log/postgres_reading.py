"""Reads from PostgreSQL on the event loop: few connections, prepared statements, one retry."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import psycopg

from calotype.stores.log.postgres_connecting import connection_settings, is_trouble, unavailable

CONNECTIONS = 8
"""How many reads of one process run at the same time."""

Connection = psycopg.AsyncConnection[Any]


class AsyncReads:
    """Runs queries on idle connections, last used first, opening more when all are busy."""

    def __init__(self, url: str) -> None:
        self._settings = connection_settings(url)
        self._idle: WeakKeyDictionary[
            asyncio.AbstractEventLoop, asyncio.LifoQueue[Connection | None]
        ] = WeakKeyDictionary()
        self._open: set[Connection] = set()

    async def fetch(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """All rows. Raises LogUnavailable when the database cannot be reached."""
        idle = self._queue()
        connection = await idle.get()
        try:
            for last_try in (False, True):
                try:
                    if connection is None or connection.closed:
                        connection = await self._connect()
                    cursor = await connection.execute(sql, values)
                    return await cursor.fetchall() if cursor.description else []
                except psycopg.Error as error:
                    if not is_trouble(error, connection):
                        raise
                    # An idle connection may have died long ago; a fresh one tells the truth.
                    died = connection is None or connection.closed
                    if connection is not None:
                        await self._drop(connection)
                        connection = None
                    if last_try or not died:
                        raise unavailable(error, self._settings) from None
            raise AssertionError
        except asyncio.CancelledError:
            # The answer may still come: this connection cannot be used for another question.
            if connection is not None:
                self._open.discard(connection)
                connection.pgconn.finish()
                connection = None
            raise
        finally:
            idle.put_nowait(connection)

    def _queue(self) -> "asyncio.LifoQueue[Connection | None]":
        loop = asyncio.get_running_loop()
        idle = self._idle.get(loop)
        if idle is None:
            idle = self._idle[loop] = asyncio.LifoQueue()
            for _ in range(CONNECTIONS):
                idle.put_nowait(None)
        return idle

    async def _connect(self) -> Connection:
        connection = await psycopg.AsyncConnection.connect(
            **self._settings,
            autocommit=True,
            cursor_factory=psycopg.AsyncRawCursor,
            prepare_threshold=1,
        )
        connection.prepared_max = 300
        self._open.add(connection)
        return connection

    async def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        with suppress(psycopg.Error):
            await connection.close()

    def close(self) -> None:
        """Closes every connection; from any thread, once no query runs any more."""
        for connection in self._open:
            connection.pgconn.finish()
        self._open.clear()
