"""What Calotype asks of Keystone, in version 3 of its API, with credentials of its own."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import aiohttp
import structlog

from calotype.commands.errors import Unavailable

CONNECTIONS = 16
"""How many questions are asked at once; more wait."""
FIRST_PAUSE_SECONDS = 0.1
_RENEW_AFTER = 0.9
"""Our own token is renewed when this share of its life is over."""
_RENEW_PAUSE_SECONDS = 1.0
"""Keystone's clock of tokens and revocations has whole seconds: one that ends the tokens of a user
ends also those which the user gets within the same second."""

log = structlog.get_logger("calotype.keystone")


class KeystoneUnavailable(Unavailable):
    """Keystone cannot be asked now who the caller is (503)."""

    headers = {"Retry-After": "5"}

    def __init__(self) -> None:
        super().__init__("The identity service cannot be asked now; try again.")


class Keystone:
    """Speaks to the Keystone at `url` (which ends with /v3) without blocking the event loop.

    `auth` is the body that our own token is asked for with. Each attempt may take
    `timeout_seconds`, and `retries` more follow where none is answered. Proxies of the environment
    and redirects are not followed: tokens go to this address alone.
    """

    def __init__(
        self,
        url: str,
        auth: Mapping[str, Any],
        *,
        timeout_seconds: float = 10.0,
        retries: int = 2,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.url = url
        self._auth = auth
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._retries = retries
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._own_token = ""
        self._catalogue: list[dict[str, Any]] = []
        self._renewed_at = -_RENEW_PAUSE_SECONDS
        self._renew_at = 0.0
        self._renewing = asyncio.Lock()
        self._trouble = ""

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def validate(self, token: str, *, allow_expired: bool) -> dict[str, Any] | None:
        """What Keystone says of a token (without catalogue), or None when it is not valid.

        With `allow_expired`, tokens count for as long after their end as Keystone is set to allow.
        Raises KeystoneUnavailable when Keystone cannot say.
        """
        query = {"nocatalog": "1", **({"allow_expired": "1"} if allow_expired else {})}
        headers = {"X-Subject-Token": token, "OpenStack-Identity-Access-Rules": "1"}
        status, body = await self._ask_as_us("/auth/tokens", query, headers)
        if status == 404:
            return None
        if status != 200:
            raise self._unavailable(f"it answers {status} when asked about a token")
        return self._facts(body)

    async def catalogue(self) -> list[dict[str, Any]]:
        """The services of the cloud and their endpoints, as our own token has them."""
        await self._token()
        return self._catalogue

    def renew(self) -> None:
        """Gets a new token, and with it a new catalogue, before the next question."""
        self._own_token = ""

    async def listed(self, kind: str, **query: str) -> list[dict[str, Any]]:
        """What Keystone lists at `/kind` for this query. Raises KeystoneUnavailable."""
        status, body = await self._ask_as_us(f"/{kind}", query, {})
        listed = body.get(kind) if isinstance(body, dict) else None
        if status != 200 or not isinstance(listed, list):
            raise self._unavailable(f"it answers {status} when asked for {kind}")
        return listed

    async def _ask_as_us(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[int, Any]:
        """One question with our own token, of which a new one is made when it is refused.

        The new one may be refused too (see _RENEW_PAUSE_SECONDS), and then the next is not.
        """
        for _ in range(3):
            own = await self._token()
            asked = {**headers, "X-Auth-Token": own}
            status, _, body = await self._ask("GET", path, params=query, headers=asked)
            if status != 401:
                break
            if own == self._own_token:
                self._own_token = ""  # Revoked, or the keys were changed: a new one will do.
        return status, body

    async def _token(self) -> str:
        """Our own token."""
        async with self._renewing:
            if not self._own_token or time.monotonic() >= self._renew_at:
                await asyncio.sleep(self._renewed_at + _RENEW_PAUSE_SECONDS - time.monotonic())
                status, headers, body = await self._ask("POST", "/auth/tokens", json=self._auth)
                if status != 201:
                    raise self._unavailable(f"it answers {status} to the credentials of [keystone]")
                facts = self._facts(body)
                try:
                    lives = _seconds(facts["expires_at"]) - _seconds(facts["issued_at"])
                    self._own_token = headers["X-Subject-Token"]
                except (KeyError, TypeError, ValueError):
                    raise self._unavailable("it answers with something that is no token") from None
                self._catalogue = facts.get("catalog") or []
                self._renewed_at = time.monotonic()
                self._renew_at = self._renewed_at + lives * _RENEW_AFTER
            return self._own_token

    async def _ask(
        self, method: str, path: str, **options: Any
    ) -> tuple[int, Mapping[str, str], Any]:
        """One question: status, headers and JSON. Asks again where Keystone fails to answer."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self._tls or True)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        pause = FIRST_PAUSE_SECONDS
        trouble = ""
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(pause)
                pause *= 2
            try:
                async with self._session.request(
                    method, self.url + path, allow_redirects=False, **options
                ) as answer:
                    body = await answer.json(content_type=None) if answer.status < 300 else None
                    if answer.status < 500 and answer.status != 429:
                        self._well()
                        return answer.status, answer.headers, body
                    trouble = f"it answers {answer.status}"
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                trouble = self._told(error)
            except ValueError:
                trouble = "it answers with something that is not JSON"
        raise self._unavailable(trouble)

    def _told(self, error: Exception) -> str:
        """What went wrong, for the operator."""
        text = str(error) or f"no answer within {self._timeout.total} s"
        connected = not isinstance(error, (aiohttp.ClientConnectorError, TimeoutError))
        if self._tls is not None and connected:
            # TLS 1.3 refuses a client after the handshake: all that is seen of it is an end.
            text += "; it may want another certificate of ours (keystone.certfile)"
        return text

    def _facts(self, body: Any) -> dict[str, Any]:
        facts = body.get("token") if isinstance(body, dict) else None
        if not isinstance(facts, dict):
            raise self._unavailable("it answers with something that is no token")
        return facts

    def _unavailable(self, trouble: str) -> KeystoneUnavailable:
        # One line for each kind of trouble: a crowd of clients must not flood the log.
        if trouble != self._trouble:
            log.error("keystone cannot be asked", url=self.url, problem=trouble)
            self._trouble = trouble
        return KeystoneUnavailable()

    def _well(self) -> None:
        if self._trouble:
            log.info("keystone answers again", url=self.url)
            self._trouble = ""


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
