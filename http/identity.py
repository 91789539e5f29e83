"""Who asks: the ways of telling that an installation can choose from."""

from aiohttp import web

from calotype.commands.policy import Actor, with_implied
from calotype.http.conversation import Unauthenticated


def everybody_is(user: str, project: str) -> Actor:
    """No authentication: every request is this user of this project, an administrator."""
    return Actor(user, project, with_implied({"admin"}))


def by_trusted_headers(request: web.Request) -> Actor:
    """X-User-Id, X-Project-Id and X-Roles as a proxy in front of us has set them.

    Only for a listener that nobody but that proxy can reach. Roles are a comma list in any
    case, with the implications that Keystone gives them. Raises Unauthenticated without a user.
    """
    headers = request.headers
    user = headers.get("X-User-Id", "").strip()
    if not user:
        raise Unauthenticated("This server could not verify that you are authorized.")
    roles = {role.strip().lower() for role in headers.get("X-Roles", "").split(",")}
    project = headers.get("X-Project-Id", "").strip() or None
    return Actor(user, project, with_implied(roles - {""}))
