"""Named consumers of the feed: /log/v1/consumers, their work, and their parked events."""

from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from calotype.commands.errors import Invalid, NotFound
from calotype.commands.policy.protections import Readable, readable_by
from calotype.http.middleware import (
    API,
    Api,
    actor_of,
    json_answer,
    json_object,
    refuse_body,
    seconds_left,
)
from calotype.projections.consumers.account import Consumer
from calotype.projections.consumers.claims import Answer, AnswerKind
from calotype.projections.consumers.consumers import OWN_MARK, Delivery
from calotype.projections.consumers.requests import (
    BEGINNING,
    LONGEST_CLAIM_SECONDS,
    LONGEST_RETRY_SECONDS,
    LONGEST_WAIT_SECONDS,
    MAX_LIMIT,
    MODIFY,
    READ,
    USE,
    checked_fields,
    checked_member,
    checked_name,
    checked_number,
    checked_position,
    checked_seconds,
    checked_subscription,
    consumer_feed,
)
from calotype.projections.consumers.status import (
    described,
    described_now,
    described_parked,
    moment_text,
)
from calotype.projections.feed.cloudevents import readable_event

ACK_SECONDS = 60.0
DEFAULT_LIMIT = 100
STATUS = {"expired": 410, "settled": 409}
"""Of single answers; all others are 200."""

_WISHES = ("types", "image", "on_parked", "max_attempts")


async def index(request: web.Request) -> web.Response:
    """GET /log/v1/consumers: the consumers of the caller's feed, or of `project`."""
    refuse_body(request)
    api = request.app[API]
    found = await api.consumers.of_feed(_feed(request, READ))
    positions = await api.feed.positions()
    shown = [described(positions, one) for one in found if OWN_MARK not in one.name]
    return _json({"consumers": shown})


async def put(request: web.Request) -> web.Response:
    """PUT /log/v1/consumers/{name}: makes it (201), or changes what it wants (200)."""
    project, name = _feed(request, MODIFY), checked_name(request.match_info["name"])
    api, given = request.app[API], await _body(request, (*_WISHES, "start"))
    subscription = checked_subscription(given)
    start = await checked_position(api.feed, given.get("start", BEGINNING), "start")
    user = actor_of(request).user
    consumer, new = await api.consumers.put(
        project, name, subscription, start=start, created_by=user
    )
    return await _shown(api, consumer, 201 if new else 200)


async def show(request: web.Request) -> web.Response:
    """GET /log/v1/consumers/{name}: what it wants, how far it is, and who works for it."""
    refuse_body(request)
    project, name = _feed(request, READ), checked_name(request.match_info["name"])
    api = request.app[API]
    return await _shown(api, await api.consumers.get(project, name))


async def delete(request: web.Request) -> web.Response:
    """DELETE /log/v1/consumers/{name}: it, its place and its parked events are gone (204)."""
    refuse_body(request)
    project, name = _feed(request, MODIFY), checked_name(request.match_info["name"])
    await request.app[API].consumers.delete(project, name)
    return web.Response(status=204)


async def seek(request: web.Request) -> web.Response:
    """POST /log/v1/consumers/{name}/seek: goes on after this `position`."""
    project, name = _feed(request, MODIFY), checked_name(request.match_info["name"])
    api, given = request.app[API], await _body(request, ("position",))
    position = await checked_position(api.feed, given.get("position"), "position")
    return await _shown(api, await api.consumers.seek(project, name, position))


async def fetch(request: web.Request) -> web.Response:
    """POST /log/v1/consumers/{name}/fetch: events to work on, each with the token to answer."""
    project, name = _feed(request, USE), checked_name(request.match_info["name"])
    given = await _body(request, ("member", "limit", "ack_seconds", "wait"))
    deliveries = await request.app[API].consumers.fetch(
        project,
        name,
        member=checked_member(given.get("member", "default")),
        limit=checked_number(given, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT),
        ack_seconds=_ack_seconds(given),
        # No longer than until the token ends, as all that tells of what is still to happen.
        wait_seconds=min(
            checked_seconds(given, "wait", 0.0, 0, LONGEST_WAIT_SECONDS) or 0.0,
            seconds_left(actor_of(request)),
        ),
        gone=lambda: request.transport is None,
    )
    readable = readable_by(actor_of(request))
    return _json({"deliveries": [_delivered(one, readable) for one in deliveries]})


async def ack(request: web.Request) -> web.Response:
    """POST /log/v1/consumers/{name}/ack: says what became of deliveries; a result for each.

    `tokens` are done, `failed` are to be tried again, and `released` were not looked at.
    """
    project, name = _feed(request, USE), checked_name(request.match_info["name"])
    given = await _body(request, ("tokens", "failed", "released"))
    wanted: list[tuple[str, str, AnswerKind, dict[str, Any]]] = []
    kinds: tuple[tuple[str, AnswerKind], ...] = (
        ("tokens", "acknowledge"),
        ("released", "release"),
    )
    for field, kind in kinds:
        wanted += [(place, token, kind, {}) for place, token in _listed(given, field)]
    for place, failure in _listed(given, "failed", dict):
        wanted.append(_failure(place, failure))
    return await _answered(request, project, name, wanted)


async def extend(request: web.Request) -> web.Response:
    """POST /log/v1/consumers/{name}/extend: claims hold for `ack_seconds` from now."""
    project, name = _feed(request, USE), checked_name(request.match_info["name"])
    given = await _body(request, ("tokens", "ack_seconds"))
    details = {"seconds": _ack_seconds(given)}
    tokens = _listed(given, "tokens")
    extended: AnswerKind = "extend"
    wanted = [(place, token, extended, details) for place, token in tokens]
    return await _answered(request, project, name, wanted)


async def parked(request: web.Request) -> web.Response:
    """GET /log/v1/consumers/{name}/parked: the events that failed too often, and why."""
    refuse_body(request)
    project = _feed(request, READ, ("project", "after", "limit"))
    name = checked_name(request.match_info["name"])
    api, query = request.app[API], request.query
    after = await api.feed.decode(query["after"], "after") if "after" in query else 0
    text = query.get("limit", str(DEFAULT_LIMIT))
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    limit = checked_number({"limit": number}, "limit", 0, 1, MAX_LIMIT)
    found = await api.consumers.parked(project, name, after=after, limit=limit)
    positions = await api.feed.positions()
    readable = readable_by(actor_of(request))
    return _json({"parked": [described_parked(positions, one, readable) for one in found]})


async def redeliver(request: web.Request) -> web.Response:
    """POST /log/v1/consumers/{name}/parked/{position}/redeliver: it is handed out again (204)."""
    refuse_body(request)
    project, name, position = await _parked_place(request)
    return _done(await request.app[API].consumers.redeliver(project, name, [position]))


async def discard(request: web.Request) -> web.Response:
    """POST /log/v1/consumers/{name}/parked/{position}/discard: it is given up (204)."""
    refuse_body(request)
    project, name, position = await _parked_place(request)
    return _done(await request.app[API].consumers.discard(project, name, [position]))


# ---- what is asked ----


def _feed(request: web.Request, rule: str, known: Sequence[str] = ("project",)) -> str | None:
    """Whose consumers are meant. Raises Invalid for a query string with others than `known`."""
    given: dict[str, str] = {}
    for name, value in request.query.items():
        checked_fields({name: value}, known)
        if name in given:
            raise Invalid(f"Parameter '{name}' is given twice.", name)
        given[name] = value
    project = given.get("project")
    if project is not None and not (project.isprintable() and 0 < len(project) <= 255):
        raise Invalid("'project' must be the id of a project.", "project")
    return consumer_feed(actor_of(request), rule, project)


async def _body(request: web.Request, known: Sequence[str]) -> dict[str, object]:
    """The fields of the body; none of them where there is no body."""
    given = await json_object(request) if request.body_exists else {}
    checked_fields(given, known)
    return given


def _ack_seconds(given: dict[str, object]) -> float:
    seconds = checked_seconds(given, "ack_seconds", ACK_SECONDS, 1, LONGEST_CLAIM_SECONDS)
    assert seconds is not None
    return seconds


def _failure(place: str, given: dict[str, object]) -> tuple[str, Any, AnswerKind, dict[str, Any]]:
    token, error, retry = (f"{place}.{name}" for name in ("token", "error", "retry_after_seconds"))
    told = {f"{place}.{name}": value for name, value in given.items()}
    checked_fields(told, (token, error, retry))
    if not isinstance(told.get(error, ""), str):
        raise Invalid(f"'{error}' must be text.", error)
    seconds = checked_seconds(told, retry, None, 0, LONGEST_RETRY_SECONDS)
    return token, told.get(token), "fail", {"error": told.get(error, ""), "seconds": seconds}


def _listed(given: dict[str, object], field: str, kind: type = str) -> list[tuple[str, Any]]:
    """The elements of a list with what to call each in an error."""
    items = given.get(field, [])
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        what = "objects with a 'token'" if kind is dict else "tokens"
        raise Invalid(f"'{field}' must be a list of {what}.", field)
    return [(f"{field}[{number}]", item) for number, item in enumerate(items)]


async def _parked_place(request: web.Request) -> tuple[str | None, str, int]:
    project, name = _feed(request, MODIFY), checked_name(request.match_info["name"])
    position = await request.app[API].feed.decode(request.match_info["position"], "position")
    return project, name, position


# ---- what is told ----


async def _answered(
    request: web.Request,
    project: str | None,
    name: str,
    wanted: list[tuple[str, Any, AnswerKind, dict[str, Any]]],
) -> web.Response:
    """Hands all answers over at once; nothing is done when one of them makes no sense."""
    api = request.app[API]
    if not 1 <= len(wanted) <= MAX_LIMIT:
        raise Invalid(f"Between 1 and {MAX_LIMIT} tokens are answered at once.", "tokens")
    answers: dict[int, Answer] = {}
    for place, token, kind, details in wanted:
        if not isinstance(token, str):
            raise Invalid(f"'{place}' must be a token.", place)
        position, nonce = await api.consumers.token_parts(token, place)
        if position in answers:
            raise Invalid(f"'{place}' is of a delivery that is answered here already.", place)
        answers[position] = Answer(position, nonce, kind, **details)
    outcomes = await api.consumers.answer(project, name, list(answers.values()))
    results = [
        {"token": token, "result": outcome, "status": STATUS.get(outcome, 200)}
        for (_, token, _, _), outcome in zip(wanted, outcomes, strict=True)
    ]
    return _json({"results": results})


async def _shown(api: Api, consumer: Consumer, status: int = 200) -> web.Response:
    return _json(await described_now(api.consumers, consumer), status)


def _delivered(one: Delivery, readable: Readable | None) -> dict[str, Any]:
    return {
        "token": one.token,
        "attempt": one.attempt,
        "deadline": moment_text(one.deadline),
        "event": orjson.Fragment(readable_event(one.event, readable)),
    }


def _done(positions: list[int]) -> web.Response:
    if not positions:
        raise NotFound("There is no parked event at that position.", "position")
    return web.Response(status=204)


def _json(content: object, status: int = 200) -> web.Response:
    response = json_answer(orjson.dumps(content), status)
    response.headers["Cache-Control"] = "no-store"
    return response
