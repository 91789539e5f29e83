"""One attempt to bring one message to its endpoint, and what came of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from calotype.commands.errors import Invalid
from calotype.projections.webhooks.connecting import open_session
from calotype.projections.webhooks.destinations import Destinations, RefusedAddress

MOST_REDIRECTS = 3
MOST_ANSWER_BYTES = 16 << 10
"""What is read of an answer, to use its connection again; with more to come it is closed."""
UNREACHABLE = "the host has no address that may be called"
"""Said of names that do not resolve and of those that must not be called alike: nobody learns
from us which names there are inside the operator's network."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an attempt."""

    error: str = ""
    """Why the message was not delivered, for the endpoint's owner; empty: it was."""
    status: int | None = None
    """The status of the last answer, if there was one."""
    retry_after_seconds: float | None = None
    """How long the endpoint wants to be left alone."""

    @property
    def delivered(self) -> bool:
        return not self.error

    @property
    def gone(self) -> bool:
        """The endpoint says that it is there no more and wants no more messages."""
        return self.status == 410


class Sender:
    """Sends messages through one session, within `timeout_seconds` each, redirects included."""

    def __init__(
        self, session: aiohttp.ClientSession, destinations: Destinations, timeout_seconds: float
    ) -> None:
        self._session = session
        self._destinations = destinations
        self._timeout_seconds = timeout_seconds

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Result:
        """Posts the body; never raises for what an endpoint does, or does not do."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._send(url, headers, body)
        except Invalid as error:
            return Result(error.explanation)
        except TimeoutError:
            return Result(f"no answer within {self._timeout_seconds:g} seconds")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Result(_told(error))

    async def _send(self, url: str, headers: Mapping[str, str], body: bytes) -> Result:
        for _ in range(MOST_REDIRECTS + 1):
            target = self._destinations.checked_url(url)
            async with self._session.post(
                target, data=body, headers=headers, allow_redirects=False
            ) as answer:
                await _drain(answer)
                if answer.status not in (307, 308):
                    return _result(answer)
                url = _next_url(target, answer.headers.get("Location", ""))
        return Result(f"more than {MOST_REDIRECTS} redirects")


class Outbound:
    """How messages leave this process.

    `timeout_seconds` is how long one attempt may take, redirects included; `cafile` a file with the
    authorities whose certificates are trusted, empty for those of the system. Raises OSError
    where that cannot be used.
    """

    def __init__(
        self, destinations: Destinations, timeout_seconds: float, cafile: str = ""
    ) -> None:
        self.destinations = destinations
        self._timeout_seconds = timeout_seconds
        # Made once: reading all the authorities of a system takes a while.
        self._context = ssl.create_default_context(cafile=cafile or None)

    @asynccontextmanager
    async def sender(self) -> AsyncIterator[Sender]:
        """A sender with connections of its own, which end with the context."""
        async with open_session(self.destinations, self._context, self._timeout_seconds) as session:
            yield Sender(session, self.destinations, self._timeout_seconds)


def _next_url(target: URL, location: str) -> str:
    """Where a redirect leads. Raises Invalid where it must not lead."""
    if not location:
        raise Invalid("a redirect without a Location")
    try:
        following = target.join(URL(location))
    except ValueError:
        raise Invalid("a redirect to what is not a URL") from None
    if target.scheme == "https" and following.scheme != "https":
        raise Invalid("a redirect from https to something else")
    return str(following)


async def _drain(answer: aiohttp.ClientResponse) -> None:
    left = MOST_ANSWER_BYTES
    while left > 0:
        chunk = await answer.content.read(left)
        if not chunk:
            return
        left -= len(chunk)
    answer.close()


def _result(answer: aiohttp.ClientResponse) -> Result:
    if 200 <= answer.status < 300:
        return Result(status=answer.status)
    retry_after = None
    if answer.status in (429, 503):
        retry_after = _seconds(answer.headers.get("Retry-After", ""))
    return Result(f"answered {answer.status}", answer.status, retry_after)


def _seconds(retry_after: str) -> float | None:
    """The header's value, which is a number of seconds or a date; None for nonsense."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _told(error: Exception) -> str:
    """An error in words for the endpoint's owner, without what the network inside looks like."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return UNREACHABLE
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "the certificate is not valid for this host, or not one that is trusted here"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "no TLS connection could be made"
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, RefusedAddress):
            return UNREACHABLE
        return "no connection could be made"
    if isinstance(error, aiohttp.ClientConnectionError):
        return "the connection broke before there was an answer"
    return "the answer was not one of HTTP"
