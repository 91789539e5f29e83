"""What was found out about secrets: remembered for a while, and found out once."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CachedToken(Generic[T]):
    """What a secret stands for; None: for nobody."""

    found: T | None
    until: float


class TokenCache(Generic[T]):
    """Remembers what secrets stand for, and never the secrets.

    What is found is kept `seconds`, that nobody was found `refused_seconds`, each for the last
    `entries` secrets at most: a flood of wrong ones does not push the right ones out.
    """

    def __init__(
        self,
        *,
        seconds: float,
        refused_seconds: float,
        entries: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._refused_seconds = refused_seconds
        self._entries = entries
        self._clock = clock
        self._digest_key = secrets.token_bytes(32)
        self._found: dict[bytes, CachedToken[T]] = {}
        self._refused: dict[bytes, CachedToken[T]] = {}
        self._asking: dict[bytes, asyncio.Task[T | None]] = {}

    def key(self, secret: bytes, kind: bytes = b"") -> bytes:
        """What a secret is remembered under; nobody can tell the secret from it.

        One secret may be judged in several ways, told apart by `kind` (16 bytes at most).
        """
        return blake2b(secret, key=self._digest_key, digest_size=32, person=kind).digest()

    def known(self, key: bytes) -> CachedToken[T] | None:
        """What is remembered, or None."""
        verdict = self._found.get(key) or self._refused.get(key)
        return verdict if verdict is not None and self._clock() < verdict.until else None

    async def find(self, key: bytes, ask: Callable[[], Awaitable[T | None]]) -> T | None:
        """What is remembered, or what `ask` finds: all who want to know share one asking.

        What it raises, all of them get, and nothing is remembered. A caller that gives up does
        not take the answer away from the others.
        """
        verdict = self.known(key)
        if verdict is not None:
            return verdict.found
        asking = self._asking.get(key)
        if asking is None:
            asking = asyncio.create_task(self._ask(key, ask))
            self._asking[key] = asking
            asking.add_done_callback(lambda task: self._settle(key, task))
        return await asyncio.shield(asking)

    async def _ask(self, key: bytes, ask: Callable[[], Awaitable[T | None]]) -> T | None:
        found = await ask()
        known, other, seconds = self._found, self._refused, self._seconds
        if found is None:
            known, other, seconds = other, known, self._refused_seconds
        other.pop(key, None)
        # Whoever is remembered longest is forgotten soonest, because all are kept equally long.
        known.pop(key, None)
        if seconds > 0:
            while len(known) >= self._entries:
                del known[next(iter(known))]
            known[key] = CachedToken(found, self._clock() + seconds)
        return found

    def _settle(self, key: bytes, task: "asyncio.Task[T | None]") -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # Looked at here, because all who waited may be gone.
