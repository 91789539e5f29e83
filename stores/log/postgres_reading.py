"""Reads from PostgreSQL on the event loop: few connections, prepared statements, one retry."""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import psycopg

from calotype.stores.log.log import LogUnavailable
from calotype.stores.log.postgres_connecting import AsyncConnection, Database, Silence, is_trouble

CONNECTIONS = 8
"""How many reads of one process run at the same time."""


class AsyncReads:
    """Runs queries on idle connections, last used first, opening more when all are busy."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._idle: WeakKeyDictionary[
            asyncio.AbstractEventLoop, asyncio.LifoQueue[AsyncConnection | None]
        ] = WeakKeyDictionary()
        self._open: set[AsyncConnection] = set()
        self._silent_at = -math.inf

    async def fetch(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """All rows. Raises LogUnavailable when the database cannot be reached, or is silent."""
        idle = self._queue()
        connection = await self._free(idle)
        try:
            for last_try in (False, True):
                try:
                    if connection is None or connection.closed:
                        connection = await self._connect()
                    cursor = await connection.execute(sql, values)
                    connection.answered_at = time.monotonic()
                    return await cursor.fetchall() if cursor.description else []
                except psycopg.Error as error:
                    if not is_trouble(error, connection):
                        raise
                    # An idle connection may have died long ago; a fresh one tells the truth.
                    died = connection is None or connection.closed
                    if isinstance(error, Silence):
                        self._silent_at, died = time.monotonic(), False
                    if connection is not None:
                        await self._drop(connection)
                        connection = None
                    if last_try or not died:
                        raise self._database.unavailable(error) from None
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

    async def _free(
        self, idle: "asyncio.LifoQueue[AsyncConnection | None]"
    ) -> AsyncConnection | None:
        """A place to run a query in, and its connection if that can be believed in."""
        try:
            async with asyncio.timeout(self._database.options.batch_seconds):
                connection = await idle.get()
        except TimeoutError:
            raise LogUnavailable("all connections for reading are busy") from None
        if connection is not None and connection.answered_at < self._silent_at:
            # It leads to where another one got no answer.
            self._open.discard(connection)
            connection.pgconn.finish()
            return None
        return connection

    def _queue(self) -> "asyncio.LifoQueue[AsyncConnection | None]":
        loop = asyncio.get_running_loop()
        idle = self._idle.get(loop)
        if idle is None:
            idle = self._idle[loop] = asyncio.LifoQueue()
            for _ in range(CONNECTIONS):
                idle.put_nowait(None)
        return idle

    async def _connect(self) -> AsyncConnection:
        connection = await self._database.connect_async()
        self._open.add(connection)
        return connection

    async def _drop(self, connection: AsyncConnection) -> None:
        self._open.discard(connection)
        with suppress(psycopg.Error):
            await connection.close()

    def close(self) -> None:
        """Closes every connection; from any thread, once no query runs any more."""
        for connection in self._open:
            connection.pgconn.finish()
        self._open.clear()
