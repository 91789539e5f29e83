"""Reads from PostgreSQL on the event loop: few connections, prepared statements, one retry.

The server ends a read that takes too long, and one whose client has vanished; a caller that is
cancelled cancels its read on the server.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors

from calotype.stores.log.errors import ReadTooLong
from calotype.stores.log.postgres.connecting import AsyncConnection, Database, Silence, is_trouble

CONNECTIONS = 8
"""How many reads of one process run at the same time."""
READ_SETTINGS = {
    "client_connection_check_interval": "1000",
    # A read uses one core, so that a few long ones leave the others to everybody else.
    "max_parallel_workers_per_gather": "0",
}
PAGE_SETTINGS = {
    **READ_SETTINGS,
    # A page is the beginning of an index. What the statistics say of the whole table, and of how
    # it lies on the disk, has often led to another index, and to much more that was read.
    "enable_bitmapscan": "off",
    "enable_seqscan": "off",
    "random_page_cost": "1.1",
}
# The server takes the settings that its version has.
_SET = (
    "SELECT set_config(s.name, v.value, $3) FROM pg_settings s "
    "JOIN unnest($1::text[], $2::text[]) AS v (name, value) USING (name)"
)


class AsyncReads:
    """Runs queries on idle connections, last used first, opening more when all are busy."""

    def __init__(
        self,
        database: Database,
        connections: int = CONNECTIONS,
        server_settings: Mapping[str, str] = READ_SETTINGS,
    ) -> None:
        self._database = database
        self._connections = connections
        self._seconds = database.options.longest_read_seconds
        timeout = str(max(1, round(self._seconds * 1000)))
        self._server_settings = {**server_settings, "statement_timeout": timeout}
        self._idle: WeakKeyDictionary[
            asyncio.AbstractEventLoop, asyncio.LifoQueue[AsyncConnection | None]
        ] = WeakKeyDictionary()
        self._open: set[AsyncConnection] = set()
        self._silent_at = -math.inf

    async def fetch(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """All rows. Raises LogUnavailable when the database cannot be reached, or is silent.

        Raises ReadTooLong where it answers, but not in time.
        """
        idle = self._queue()
        connection = await self._free(idle)
        try:
            for last_try in (False, True):
                try:
                    if connection is None or connection.closed:
                        connection = await self._connect()
                    rows = await self._run(connection, sql, values)
                    connection.answered_at = time.monotonic()
                    return rows
                except errors.QueryCanceled:
                    raise ReadTooLong(f"a read took longer than {self._seconds:g} s") from None
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
            async with asyncio.timeout(self._seconds):
                connection = await idle.get()
        except TimeoutError:
            text = f"all connections for such reads were busy for {self._seconds:g} s"
            raise ReadTooLong(text) from None
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
            for _ in range(self._connections):
                idle.put_nowait(None)
        return idle

    async def _connect(self) -> AsyncConnection:
        connection = await self._database.connect_async()
        self._open.add(connection)
        if self._has_session:
            await self._set(connection, for_transaction=False)
        return connection

    @property
    def _has_session(self) -> bool:
        """Whether what is set stays with the connection, and is nobody else's."""
        return self._database.options.prepared_statements

    async def _set(self, connection: AsyncConnection, *, for_transaction: bool) -> None:
        given = self._server_settings
        values = [list(given), list(given.values()), for_transaction]
        await connection.execute(_SET, values, prepare=False)

    async def _run(
        self, connection: AsyncConnection, sql: str, values: Sequence[Any]
    ) -> list[tuple[Any, ...]]:
        if self._has_session:
            cursor = await connection.execute(sql, values)
            return await cursor.fetchall() if cursor.description else []
        async with connection.transaction():
            await self._set(connection, for_transaction=True)
            cursor = await connection.execute(sql, values)
            return await cursor.fetchall() if cursor.description else []

    async def _drop(self, connection: AsyncConnection) -> None:
        self._open.discard(connection)
        with suppress(psycopg.Error):
            await connection.close()

    def close(self) -> None:
        """Closes every connection; from any thread, once no query runs any more."""
        for connection in self._open:
            connection.pgconn.finish()
        self._open.clear()
