"""Webhooks: /log/v1/webhooks, who may manage whose, and the forms of bodies and answers."""

from functools import partial
from typing import Any

from aiohttp import web

from calotype.commands.errors import Invalid
from calotype.commands.policy.policy import may
from calotype.commands.policy.protections import readable_by
from calotype.http.middleware import Call, json_answer
from calotype.http.parameters import fields, page_limit, parameters, position_of
from calotype.http.paths import next_link
from calotype.projections.webhooks.service import (
    ALL,
    CHANGE,
    READ,
    Wanted,
    owner_of,
    shown,
)

PATH = "/log/v1/webhooks"
DEFAULT_OVERLAP_SECONDS = 86400.0

_answer = partial(json_answer, caching="no-store")


async def index(call: Call) -> web.Response:
    """GET /log/v1/webhooks: those of the caller's project; for administrators those of all."""
    given = parameters(call, "project")
    project = owner_of(call.actor, READ, given.get("project"))
    everybody = may(call.actor, ALL) and "project" not in given
    found = await call.api.webhooks.all_of(None if everybody else project)
    return _answer({"webhooks": [shown(one) for one in found]})


async def show(call: Call) -> web.Response:
    """GET /log/v1/webhooks/{name}: its URL and its delivery status, never its secret."""
    endpoint = await call.api.webhooks.get(*_named(call, READ))
    return _answer(await call.api.webhooks.described(endpoint))


async def put(call: Call) -> web.Response:
    """PUT /log/v1/webhooks/{name}: makes it (201, with its secret) or changes it (200)."""
    project, name = _named(call, CHANGE)
    wanted = _wanted(await fields(call, "url", "types", "enabled", "start"))
    endpoint, secret = await call.api.webhooks.put(project, name, wanted)
    if secret is None:
        return _answer(shown(endpoint))
    return _answer({**shown(endpoint), "secret": secret}, 201)


async def delete(call: Call) -> None:
    """DELETE /log/v1/webhooks/{name}: what is not delivered yet never will be (204)."""
    await call.api.webhooks.delete(*_named(call, CHANGE))


async def rotate(call: Call) -> web.Response:
    """POST .../rotate: a new secret; the former signs beside it for `overlap_seconds`."""
    project, name = _named(call, CHANGE)
    given = await fields(call, "overlap_seconds")
    overlap_seconds = given.get("overlap_seconds", DEFAULT_OVERLAP_SECONDS)
    if isinstance(overlap_seconds, bool) or not isinstance(overlap_seconds, (int, float)):
        raise Invalid("'overlap_seconds' must be a number.", "overlap_seconds")
    secret = await call.api.webhooks.rotate(project, name, float(overlap_seconds))
    return _answer({"secret": secret})


async def test(call: Call) -> web.Response:
    """POST .../test: sends a message of the type calotype.test now, and says what came of it."""
    tried = await call.api.webhooks.test(*_named(call, CHANGE))
    return _answer(
        {
            "delivered": tried.result.delivered,
            "status": tried.result.status,
            "error": tried.result.error or None,
            "message_id": tried.message_id,
            "seconds": round(tried.seconds, 3),
        }
    )


async def parked(call: Call) -> web.Response:
    """GET .../parked: messages that failed too often, in the order of the log."""
    given = parameters(call, "project", "after", "limit")
    project = owner_of(call.actor, READ, given.get("project"))
    after, limit = await position_of(call, given), page_limit(given)
    name, readable = call.request.match_info["name"], readable_by(call.actor)
    found = await call.api.webhooks.parked(project, name, after, limit + 1, readable)
    body: dict[str, Any] = {"parked": found[:limit]}
    if len(found) > limit:
        position = found[limit - 1]["position"]
        body["next"] = next_link(call.request.path, given, limit, after=position)
    return _answer(body)


async def redeliver(call: Call) -> web.Response:
    """POST .../parked/{position}/redeliver: sends it again soon (202); `all` sends all again."""
    project, name = _named(call, CHANGE)
    place = call.request.match_info
    position = None if place["position"] == "all" else await position_of(call, place, "position")
    count = await call.api.webhooks.redeliver(project, name, position)
    return _answer({"redelivered": count}, 202)


def _named(call: Call, rule: str) -> tuple[str, str]:
    """The project and the name of the webhook that a call is about. Raises Forbidden."""
    project = parameters(call, "project").get("project")
    return owner_of(call.actor, rule, project), call.request.match_info["name"]


def _wanted(body: dict[str, object]) -> Wanted:
    url, types = body.get("url"), body.get("types", [])
    enabled, start = body.get("enabled", True), body.get("start", "now")
    if not isinstance(url, str):
        raise Invalid("'url' is needed: where messages are sent, such as https://HOST/PATH.", "url")
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        raise Invalid("'types' must be a list of event types; empty for all.", "types")
    if not isinstance(enabled, bool):
        raise Invalid("'enabled' must be true or false.", "enabled")
    if not isinstance(start, str):
        raise Invalid("'start' must be 'now', 'beginning' or a position.", "start")
    return Wanted(url, tuple(types), enabled, start)
