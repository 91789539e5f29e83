"""Connections of webhooks: only to addresses that may be called, and in nobody else's way."""

import asyncio
import socket
import ssl
import threading
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from calotype.projections.webhooks.destinations import Destinations

LOOKUPS_AT_ONCE = 32
REMEMBERED_SECONDS = 10
"""How long an answer of the DNS is used again; each connection is checked all the same."""
IDLE_SECONDS = 15.0


def open_session(
    destinations: Destinations, context: ssl.SSLContext, timeout_seconds: float
) -> aiohttp.ClientSession:
    """A session that connects only to what may be called, and brings nothing of its own along.

    No proxy and no password from the environment, no cookies from one endpoint to another, and
    no unpacking of what an endpoint sends.
    """
    connector = aiohttp.TCPConnector(
        limit=0,  # How many there are at once is the deliverer's affair.
        resolver=PatientResolver(),
        socket_factory=destinations.socket_for,
        ttl_dns_cache=REMEMBERED_SECONDS,
        keepalive_timeout=IDLE_SECONDS,
        ssl=context,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        auto_decompress=False,
        trust_env=False,
        headers={"User-Agent": "Calotype"},
        skip_auto_headers=("Accept-Encoding",),
    )


class PatientResolver(AbstractResolver):
    """Asks the system's resolver in threads of its own.

    A nameserver that does not answer holds a thread for many seconds. The threads that the
    service reads its database with must not wait for it, nor may the end of the process.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(LOOKUPS_AT_ONCE)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name. Raises OSError for one that has none."""
        async with self._places:
            loop = asyncio.get_running_loop()
            found: asyncio.Future[list[Any]] = loop.create_future()
            threading.Thread(
                target=_look_up, args=(loop, found, host, port, family), daemon=True
            ).start()
            infos = await found
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in infos
        ]

    async def close(self) -> None:
        """Nothing waits for lookups that are still under way."""


def _look_up(
    loop: asyncio.AbstractEventLoop,
    found: "asyncio.Future[list[Any]]",
    host: str,
    port: int,
    family: socket.AddressFamily,
) -> None:
    infos: list[Any] = []
    failure: OSError | None = None
    try:
        infos = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
        )
    except OSError as error:
        failure = error
    except UnicodeError as error:
        failure = OSError(str(error))
    with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
        loop.call_soon_threadsafe(_settle, found, infos, failure)


def _settle(found: "asyncio.Future[list[Any]]", infos: list[Any], failure: OSError | None) -> None:
    if found.done():
        return
    if failure is not None:
        found.set_exception(failure)
    else:
        found.set_result(infos)
