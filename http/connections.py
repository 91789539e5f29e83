"""Connections of clients: how many there may be, which are dead, and what the parser refuses."""

import asyncio
import re
import socket
from collections.abc import Awaitable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo

from calotype.http.errors import SERVER, error_answer

PEER_LOST_SECONDS = 60
"""A client that does not even acknowledge packets for so long is gone."""
IDLE_SECONDS = 75
"""How long a connection may be idle, and how long the head of a request may take."""
READ_BUFFER_BYTES = 1 << 15
"""How much of a request's body aiohttp holds before it stops reading from the client."""
_PROBE_AFTER_SECONDS, _PROBE_EVERY_SECONDS, _PROBES = 30, 10, 3
_SPOKEN = (HttpVersion10, HttpVersion11)
_REQUEST_LINE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^ \\]+ HTTP/1\.[01]$")
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: %b\r\nRetry-After: 2\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n" % SERVER.encode()
)

log = structlog.get_logger("calotype.http")


def watch_peers(listener: socket.socket) -> None:
    """Has the kernel find out which clients of this listener are gone; connections inherit it."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _PROBE_AFTER_SECONDS),
        ("TCP_KEEPINTVL", _PROBE_EVERY_SECONDS),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", PEER_LOST_SECONDS * 1000),
    ):
        if hasattr(socket, name):  # Not every system has all of them.
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Connection(RequestHandler):
    """One connection, whose refusals of what is no HTTP look like all others."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._messages:
            return
        for number, (message, _) in enumerate(self._messages):
            if isinstance(message, RawRequestMessage) and message.version not in _SPOKEN:
                # The parser takes versions that nobody here speaks, and would answer in them.
                error = BadStatusLine("", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
                self._messages[number] = (_ErrInfo(400, error, ""), EMPTY_PAYLOAD)
        if isinstance(self._messages[-1][0], _ErrInfo):
            # aiohttp queues the refusal of a malformed body behind the request that it belongs to,
            # and leaves that one to wait for the rest without end.
            bodies = [body for _, body in self._messages]
            if self._current_request is not None:
                bodies.append(self._current_request.content)
            for body in bodies:
                if not body.is_eof():
                    body.set_exception(RequestPayloadError("The body is malformed."))
                    body.feed_eof()  # There is no rest that aiohttp could wait for.

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):  # Before any handler was asked, in `100 Continue`.
            log.info("client vanished", peer=request.remote)
        elif status >= 500:
            log.error("request failed", peer=request.remote, exc_info=exc)
        else:
            log.info("not HTTP", peer=request.remote, kind=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("Part of an answer is sent already.")
        if isinstance(exc, BadHttpMethod) and _names_method(exc):
            status = 501
        response = error_answer(status, "", request.headers.get("Accept"))
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # Raised before any handler of ours was asked.
            resp = error_answer(resp.status, "", request.headers.get("Accept"))
        return await super().finish_response(request, resp, start_time)

    @property
    def idle_until(self) -> float | None:
        """When this connection will have been idle for too long; None: it is not idle."""
        waiting = self._waiter is not None and not self._waiter.done()
        return self._next_keepalive_close_time if waiting else None


def _names_method(error: BadHttpMethod) -> bool:
    """Whether the line that was refused is a request but for its unknown method."""
    # The parser quotes what it could not read as the representation of bytes.
    quoted = re.search(r"b'([^']*)'|b\"([^\"]*)\"", str(error))
    line = (quoted[1] or quoted[2] or "") if quoted else ""
    return _REQUEST_LINE.match(line) is not None


async def _refuse(request: web.BaseRequest, status: int) -> web.StreamResponse:
    return error_answer(status, "", request.headers.get("Accept"))


class Connections(web.Server):
    """All connections of a process; beyond `most` those that are idle longest are closed."""

    def __init__(self, server: web.Server, most: int) -> None:
        self._application = server.request_handler
        super().__init__(
            self._handle,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            loop=server._loop,
            **server._kwargs,
        )
        self._most = most

    def _handle(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        # aiohttp would quote what is expected, and fails at what is no text.
        if request.headers.get("Expect", "100-continue").lower() != "100-continue":
            return _refuse(request, 417)
        return self._application(request)

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) > self._most and not self._close_idle(handler):
            log.warning("too many connections", connections=len(self._connections))
            transport.write(_FULL)
            handler.force_close()

    def _close_idle(self, newest: RequestHandler) -> int:
        """Closes some of the connections that are idle longest; how many."""
        idle = [
            (until, number, connection)
            for number, connection in enumerate(self._connections)
            if connection is not newest
            and isinstance(connection, Connection)
            and (until := connection.idle_until) is not None
        ]
        # Several at once, so that a flood is not met with a search for each of its connections.
        idle.sort()
        closed = idle[: max(1, self._most // 32)]
        for _, _, connection in closed:
            connection.force_close()
        if closed:
            log.info("idle connections closed", closed=len(closed), most=self._most)
        return len(closed)


class Runner(web.AppRunner):
    """Runs the application on connections of ours, at most `most_connections`."""

    def __init__(self, app: web.Application, *, most_connections: int, **options: Any) -> None:
        super().__init__(
            app,
            **{
                "access_log": None,
                "read_bufsize": READ_BUFFER_BYTES,
                "keepalive_timeout": IDLE_SECONDS,
                # Bytes of images are stored as they come, and JSON comes as it is.
                "auto_decompress": False,
                **options,
            },
        )
        self._most = most_connections

    async def _make_server(self) -> web.Server:
        return Connections(await super()._make_server(), self._most)
