"""Who calls: what finds that out, and the two ways that need nobody's password or token."""

from collections.abc import Awaitable
from typing import Protocol

from aiohttp import web

from calotype.commands.errors import Invalid
from calotype.commands.policy.actor import Actor, with_implied
from calotype.commands.policy.policy import DEFAULT_POLICY
from calotype.http.errors import Unauthenticated

LONGEST_ID = 255
"""Characters of a user's or a project's id, as an image's owner has."""


class Identity(Protocol):
    """Finds out who calls."""

    def identify(self, request: web.Request) -> Actor | Awaitable[Actor]:
        """The caller, at once where that is possible. Raises Unauthenticated."""

    async def close(self) -> None:
        """Lets go of connections and threads, where there are any."""
        return


class Everybody(Identity):
    """No authentication: every request is this user of this project, an administrator."""

    def __init__(self, user: str, project: str) -> None:
        self._actor = Actor(user, project, with_implied({"admin"}), policy=DEFAULT_POLICY)

    def identify(self, request: web.Request) -> Actor:
        return self._actor


class TrustedHeaders(Identity):
    """X-User-Id, X-Project-Id and X-Roles as a proxy in front of us has set them.

    Only for a listener that nobody but that proxy can reach. Roles are a comma list in any
    case, with the implications that Keystone gives them.
    """

    def identify(self, request: web.Request) -> Actor:
        """Raises Unauthenticated without a user, and Invalid for what no such proxy sets."""
        user = _only(request, "X-User-Id")
        if not user:
            raise Unauthenticated("This server could not verify that you are authorized.")
        roles = {role.strip().lower() for role in _only(request, "X-Roles", 4096).split(",")}
        project = _only(request, "X-Project-Id") or None
        return Actor(user, project, with_implied(roles - {""}), policy=DEFAULT_POLICY)


def _only(request: web.Request, name: str, longest: int = LONGEST_ID) -> str:
    """The header's one value. Raises Invalid for several: a client may have added one."""
    values = request.headers.getall(name, [""])
    if len(values) > 1:
        raise Invalid(f"The header {name} is given {len(values)} times.")
    text = values[0].strip()
    if len(text) > longest:
        raise Invalid(f"The header {name} has over {longest} characters.")
    if not text.isprintable():  # Bytes that are not UTF-8 are not either.
        raise Invalid(f"The header {name} is not printable UTF-8.")
    return text
