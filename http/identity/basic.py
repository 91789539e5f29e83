"""The caller by name and password (RFC 7617): for installations without a Keystone."""

import asyncio
import base64
import binascii
import os
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import bcrypt
import structlog
from aiohttp import web

from calotype.commands.errors import Unavailable
from calotype.commands.policy.actor import Actor
from calotype.http.errors import Unauthenticated
from calotype.http.identity.identity import Identity
from calotype.http.identity.token_cache import TokenCache

REFUSED_SECONDS = 5.0
"""How long a wrong password is refused without checking it again."""
CHECKS_AT_ONCE = max(1, (os.cpu_count() or 1) // 2)
"""How many passwords are checked at once. Each keeps a core busy, and those who are known already
need the others."""
CHECKS_WAITING = 32
"""How many more may wait for that; all above are told to come back."""
LONGEST_PASSWORD_BYTES = 72
"""What bcrypt looks at; the tools that write htpasswd files silently cut there too."""
CHALLENGE = {"WWW-Authenticate": 'Basic realm="calotype", charset="UTF-8"'}

log = structlog.get_logger("calotype.basic")


@dataclass(frozen=True, slots=True)
class Login:
    """A user: the bcrypt hash of the password, and who acts when it is right."""

    password_hash: bytes
    actor: Actor


class TooManyChecks(Unavailable):
    """More passwords wait to be checked than there is room for (503)."""

    headers = {"Retry-After": "2"}

    def __init__(self) -> None:
        super().__init__("Too many passwords are being checked now; try again.")


class Remembering(Protocol):
    """For how long and how many passwords are remembered; `[http_basic]` says it."""

    cache_seconds: float
    cache_entries: int


class BasicIdentity(Identity):
    """Finds the caller by `Authorization: Basic`, among the logins that were read last.

    A password is checked once, in a thread, however many requests bring it at the same time; then
    it is known by a keyed digest until it is forgotten or the logins change. A name that nobody has
    costs as much time as a wrong password.
    """

    def __init__(self, logins: Mapping[str, Login], remembering: Remembering) -> None:
        self._remembering = remembering
        self._threads = ThreadPoolExecutor(CHECKS_AT_ONCE, thread_name_prefix="password")
        self._under_way = 0
        self.use(logins)

    def use(self, logins: Mapping[str, Login]) -> None:
        """From now on these are the logins, and nothing of the former ones is remembered."""
        self._logins = dict(logins)
        self._names = sorted(logins)
        seconds = self._remembering.cache_seconds
        self._verdicts: TokenCache[Actor] = TokenCache(
            seconds=seconds,
            refused_seconds=min(REFUSED_SECONDS, seconds),
            entries=self._remembering.cache_entries,
        )

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def identify(self, request: web.Request) -> Actor | Awaitable[Actor]:
        """The actor at once where the password is known, else after checking it.

        Raises Unauthenticated and TooManyChecks.
        """
        name, password = _credentials(request.headers.get("Authorization", ""))
        key = self._verdicts.key(b"%b:%b" % (name, password))
        verdict = self._verdicts.known(key)
        if verdict is None:
            return self._check_first(key, name, password)
        return _certain(verdict.found)

    async def _check_first(self, key: bytes, name: bytes, password: bytes) -> Actor:
        # The logins of now: what these say must not be remembered among the verdicts of later ones.
        logins, names = self._logins, self._names
        return _certain(
            await self._verdicts.find(key, lambda: self._check(logins, names, name, password))
        )

    async def _check(
        self, logins: dict[str, Login], names: list[str], name: bytes, password: bytes
    ) -> Actor | None:
        if self._under_way >= CHECKS_AT_ONCE + CHECKS_WAITING:
            raise TooManyChecks
        login = logins.get(name.decode("utf-8", "replace"))
        # A stranger is measured by one of the hashes, always the same for one name: so time says
        # as little of who is known where the hashes cost differently much.
        measure = login or logins[names[_number(name) % len(names)]]
        self._under_way += 1
        try:
            right = await asyncio.get_running_loop().run_in_executor(
                self._threads,
                bcrypt.checkpw,
                password[:LONGEST_PASSWORD_BYTES],
                measure.password_hash,
            )
        finally:
            self._under_way -= 1
        if login is None or not right:
            # A name that nobody has may be a password at the wrong place.
            shown = name.decode() if login else "(unknown)"
            log.info("password refused", user=shown, waiting=self._under_way)
            return None
        return login.actor


def _credentials(header: str) -> tuple[bytes, bytes]:
    """Name and password of an Authorization header. Raises Unauthenticated for another one."""
    scheme, _, text = header.partition(" ")
    try:
        if scheme.lower() == "basic":
            pair = base64.b64decode(text.strip(), validate=True)
            name, colon, password = pair.partition(b":")
            if colon:
                return name, password
    except (binascii.Error, ValueError):
        pass
    raise _unauthenticated()


def _certain(actor: Actor | None) -> Actor:
    if actor is None:
        raise _unauthenticated()
    return actor


def _unauthenticated() -> Unauthenticated:
    return Unauthenticated(headers=CHALLENGE)


def _number(name: bytes) -> int:
    return int.from_bytes(blake2b(name, key=_NUMBER_KEY, digest_size=8).digest())


_NUMBER_KEY = os.urandom(16)
