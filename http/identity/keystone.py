"""The caller by Keystone: tokens of users, and of services that act on their behalf."""

import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import Protocol

from aiohttp import web

from calotype.commands.errors import Forbidden
from calotype.commands.policy.actor import Actor
from calotype.http.errors import Unauthenticated
from calotype.http.identity.identity import Identity
from calotype.http.identity.keystone_calls import Keystone, KeystoneUnavailable
from calotype.http.identity.token_cache import TokenCache
from calotype.http.identity.tokens import Token, token_of

REFUSED_SECONDS = 5.0
"""How long a token that is not valid is refused without asking again."""
LATE = b"late"
"""Tokens that count after their end are remembered apart from those that do not."""


class Rules(Protocol):
    """How tokens are judged; the settings of `[keystone]` say it."""

    service_token_roles: list[str]
    service_token_roles_required: bool
    service_type: str
    cache_seconds: float
    cache_entries: int


class KeystoneIdentity(Identity):
    """Finds the caller by `X-Auth-Token` and `X-Service-Token`, and believes no other header.

    A token is asked about once, however many requests bring it at the same time, and then not for
    `cache_seconds`; so long a revoked one may still be used. Its end is kept to the second.
    """

    def __init__(self, keystone: Keystone, rules: Rules, *, challenge_url: str) -> None:
        self._keystone = keystone
        self._rules = rules
        self._service_roles = frozenset(role.lower() for role in rules.service_token_roles)
        self._challenge = {"WWW-Authenticate": f'Keystone uri="{challenge_url}"'}
        self._verdicts: TokenCache[Token] = TokenCache(
            seconds=rules.cache_seconds,
            refused_seconds=min(REFUSED_SECONDS, rules.cache_seconds),
            entries=rules.cache_entries,
        )

    async def close(self) -> None:
        await self._keystone.close()

    def identify(self, request: web.Request) -> Actor | Awaitable[Actor]:
        """The actor at once where the token is known, else after asking.

        Raises Unauthenticated, Forbidden for a token that is for no project, and
        KeystoneUnavailable.
        """
        headers = request.headers
        token = (headers.get("X-Auth-Token") or headers.get("X-Storage-Token") or "").strip()
        service_token = headers.get("X-Service-Token", "").strip()
        if not _may_be_token(token):
            raise self._unauthenticated()
        if service_token:
            return self._for_service(request, token, service_token)
        key = self._verdicts.key(token.encode())
        verdict = self._verdicts.known(key)
        if verdict is None:
            return self._ask_first(request, key, token)
        return self._judged(request, self._lasting(verdict.found))

    async def _ask_first(self, request: web.Request, key: bytes, token: str) -> Actor:
        found = await self._verdicts.find(key, lambda: self._ask(token, allow_expired=False))
        return self._judged(request, self._lasting(found))

    async def _for_service(self, request: web.Request, token: str, service_token: str) -> Actor:
        """The user's token beside that of a service that continues what the user began.

        A service that has one of the roles may do so after the end of the user's token, and where
        the user's application credential could not be used.
        """
        if not _may_be_token(service_token):
            raise self._unauthenticated()
        service = self._lasting(await self._find(service_token, allow_expired=False)).actor
        trusted = not self._service_roles.isdisjoint(service.roles)
        if not trusted and self._rules.service_token_roles_required:
            raise self._unauthenticated()
        found = await self._find(token, allow_expired=trusted)
        if found is None or not trusted:
            found = self._lasting(found)
        actor = self._judged(request, found, everywhere=True)
        return replace(actor, service_roles=service.roles)

    async def _find(self, token: str, *, allow_expired: bool) -> Token | None:
        key = self._verdicts.key(token.encode(), LATE if allow_expired else b"")
        return await self._verdicts.find(key, lambda: self._ask(token, allow_expired=allow_expired))

    async def _ask(self, token: str, *, allow_expired: bool) -> Token | None:
        facts = await self._keystone.validate(token, allow_expired=allow_expired)
        try:
            return None if facts is None else token_of(facts)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise KeystoneUnavailable from None

    def _lasting(self, token: Token | None) -> Token:
        """The token, if there is one and its end is still to come. Raises Unauthenticated."""
        if token is None or token.actor.expires_at is None:
            raise self._unauthenticated()
        if time.time() >= token.actor.expires_at:
            raise self._unauthenticated()
        return token

    def _judged(self, request: web.Request, token: Token, *, everywhere: bool = False) -> Actor:
        """Who acts, if the token may be used for this request."""
        rules = token.access_rules
        if rules is not None and not everywhere:
            path = request.rel_url.path_safe
            service = self._rules.service_type
            if not any(rule.allows(service, request.method, path) for rule in rules):
                raise self._unauthenticated()
        if token.elsewhere:
            raise Forbidden(
                f"This token is for a {token.elsewhere}, and images belong to projects: "
                "ask for a token of a project."
            )
        return token.actor

    def _unauthenticated(self) -> Unauthenticated:
        return Unauthenticated(headers=self._challenge)


def _may_be_token(text: str) -> bool:
    """Whether it can be sent on as a header; no other text was ever a token."""
    return bool(text) and text.isascii() and text.isprintable()
