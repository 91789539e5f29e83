"""Webhooks: /log/v1/webhooks, who may manage whose, and what bodies and answers hold."""

from typing import Any

import orjson
from aiohttp import web

from calotype.commands.errors import Invalid
from calotype.commands.policy.policy import may
from calotype.commands.policy.protections import readable_by
from calotype.http.middleware import API, actor_of, json_answer, json_object, refuse_body
from calotype.http.paths import link
from calotype.projections.webhooks.service import (
    ALL,
    CHANGE,
    READ,
    Wanted,
    Webhooks,
    owner_of,
    shown,
)

PATH = "/log/v1/webhooks"
DEFAULT_OVERLAP_SECONDS = 86400.0
DEFAULT_LIMIT, MAX_LIMIT = 100, 1000


async def index(request: web.Request) -> web.Response:
    """GET /log/v1/webhooks: those of the caller's project; for administrators those of all."""
    refuse_body(request)
    given = _parameters(request, ("project",))
    project = _owner(request, READ, given)
    everybody = may(actor_of(request), ALL) and "project" not in given
    found = await _webhooks(request).all_of(None if everybody else project)
    return _answer({"webhooks": [shown(one) for one in found]})


async def show(request: web.Request) -> web.Response:
    """GET /log/v1/webhooks/{name}: where it leads and how it fares; never its secret."""
    refuse_body(request)
    project = _owner(request, READ, _parameters(request, ("project",)))
    webhooks = _webhooks(request)
    endpoint = await webhooks.get(project, request.match_info["name"])
    return _answer(await webhooks.described(endpoint))


async def put(request: web.Request) -> web.Response:
    """PUT /log/v1/webhooks/{name}: makes it (201, with its secret) or changes it (200)."""
    project = _owner(request, CHANGE, _parameters(request, ("project",)))
    wanted = _wanted(await json_object(request))
    endpoint, secret = await _webhooks(request).put(project, request.match_info["name"], wanted)
    if secret is None:
        return _answer(shown(endpoint))
    return _answer({**shown(endpoint), "secret": secret}, 201)


async def delete(request: web.Request) -> web.Response:
    """DELETE /log/v1/webhooks/{name}: what is not delivered yet never will be (204)."""
    refuse_body(request)
    project = _owner(request, CHANGE, _parameters(request, ("project",)))
    await _webhooks(request).delete(project, request.match_info["name"])
    return web.Response(status=204)


async def rotate(request: web.Request) -> web.Response:
    """POST .../rotate: a new secret; the former signs beside it for `overlap_seconds`."""
    project = _owner(request, CHANGE, _parameters(request, ("project",)))
    body = await json_object(request) if request.body_exists else {}
    _refuse_unknown(body, ("overlap_seconds",))
    overlap_seconds = body.get("overlap_seconds", DEFAULT_OVERLAP_SECONDS)
    if isinstance(overlap_seconds, bool) or not isinstance(overlap_seconds, (int, float)):
        raise Invalid("'overlap_seconds' must be a number.", "overlap_seconds")
    secret = await _webhooks(request).rotate(
        project, request.match_info["name"], float(overlap_seconds)
    )
    return _answer({"secret": secret})


async def test(request: web.Request) -> web.Response:
    """POST .../test: sends a message of the type calotype.test now, and tells what came of it."""
    refuse_body(request)
    project = _owner(request, CHANGE, _parameters(request, ("project",)))
    tried = await _webhooks(request).test(project, request.match_info["name"])
    return _answer(
        {
            "delivered": tried.result.delivered,
            "status": tried.result.status,
            "error": tried.result.error or None,
            "message_id": tried.message_id,
            "seconds": round(tried.seconds, 3),
        }
    )


async def parked(request: web.Request) -> web.Response:
    """GET .../parked: messages that failed too often, in the order of the log."""
    refuse_body(request)
    given = _parameters(request, ("project", "after", "limit"))
    project = _owner(request, READ, given)
    webhooks, name = _webhooks(request), request.match_info["name"]
    after = await webhooks.position(given["after"], "after") if "after" in given else 0
    limit = _limit(given)
    readable = readable_by(actor_of(request))
    found = await webhooks.parked(project, name, after, limit + 1, readable)
    body: dict[str, Any] = {"parked": found[:limit]}
    if len(found) > limit:
        again = {**given, "limit": str(limit), "after": found[limit - 1]["position"]}
        body["next"] = link(request.path, again.items())
    return _answer(body)


async def redeliver(request: web.Request) -> web.Response:
    """POST .../parked/{position}/redeliver: sends it again soon (202); `all` sends all again."""
    refuse_body(request)
    project = _owner(request, CHANGE, _parameters(request, ("project",)))
    webhooks, text = _webhooks(request), request.match_info["position"]
    position = None if text == "all" else await webhooks.position(text, "position")
    count = await webhooks.redeliver(project, request.match_info["name"], position)
    return _answer({"redelivered": count}, 202)


def _webhooks(request: web.Request) -> Webhooks:
    return request.app[API].webhooks


def _owner(request: web.Request, rule: str, given: dict[str, str]) -> str:
    return owner_of(actor_of(request), rule, given.get("project"))


def _wanted(body: dict[str, object]) -> Wanted:
    _refuse_unknown(body, ("url", "types", "enabled", "start"))
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


def _refuse_unknown(body: dict[str, object], known: tuple[str, ...]) -> None:
    for name in body:
        if name not in known:
            shown_name = name.encode("utf-8", "replace").decode()[:40]
            raise Invalid(f"There is no field '{shown_name}'; use {', '.join(known)}.", shown_name)


def _parameters(request: web.Request, known: tuple[str, ...]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            name = name.encode("utf-8", "replace").decode()[:40]
            raise Invalid(f"There is no parameter '{name}' here; use {', '.join(known)}.", name)
        if name in given:
            raise Invalid(f"Parameter '{name}' is given twice.", name)
        if not value.isprintable():
            raise Invalid(f"Parameter '{name}' holds characters that no such value has.", name)
        given[name] = value
    return given


def _limit(given: dict[str, str]) -> int:
    text = given.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise Invalid("Parameter 'limit' must be a whole number from 1.", "limit")
    return min(int(text), MAX_LIMIT)


def _answer(body: dict[str, Any], status: int = 200) -> web.Response:
    answer = json_answer(orjson.dumps(body), status)
    answer.headers["Cache-Control"] = "no-store"
    return answer
