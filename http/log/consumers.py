"""Named consumers of the feed: /log/v1/consumers, their work, and their parked events."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
from aiohttp import web

from calotype.commands.errors import Invalid, NotFound
from calotype.commands.policy.protections import Readable, readable_by
from calotype.http.middleware import Call, json_answer, seconds_left
from calotype.http.parameters import check_known, fields, page_limit, parameters, position_of
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

_json = partial(json_answer, caching="no-store")


async def index(call: Call) -> web.Response:
    """GET /log/v1/consumers: the consumers of the caller's feed, or of `project`."""
    found = await call.api.consumers.of_feed(_feed(call, READ))
    positions = await call.api.feed.positions()
    shown = [described(positions, one) for one in found if OWN_MARK not in one.name]
    return _json({"consumers": shown})


async def put(call: Call) -> web.Response:
    """PUT /log/v1/consumers/{name}: makes it (201), or changes its subscription (200)."""
    project, name = _named(call, MODIFY)
    given = await fields(call, "types", "image", "on_parked", "max_attempts", "start")
    subscription = checked_subscription(given)
    start = await checked_position(call.api.feed, given.get("start", BEGINNING), "start")
    consumer, new = await call.api.consumers.put(
        project, name, subscription, start=start, created_by=call.actor.user
    )
    return await _shown(call, consumer, 201 if new else 200)


async def show(call: Call) -> web.Response:
    """GET /log/v1/consumers/{name}: its subscription, how far it is, and who works for it."""
    return await _shown(call, await call.api.consumers.get(*_named(call, READ)))


async def delete(call: Call) -> None:
    """DELETE /log/v1/consumers/{name}: it, its place and its parked events are gone (204)."""
    await call.api.consumers.delete(*_named(call, MODIFY))


async def seek(call: Call) -> web.Response:
    """POST /log/v1/consumers/{name}/seek: continues after this `position`."""
    project, name = _named(call, MODIFY)
    given = await fields(call, "position")
    position = await checked_position(call.api.feed, given.get("position"), "position")
    return await _shown(call, await call.api.consumers.seek(project, name, position))


async def fetch(call: Call) -> web.Response:
    """POST /log/v1/consumers/{name}/fetch: events to work on, each with the token to answer."""
    project, name = _named(call, USE)
    given = await fields(call, "member", "limit", "ack_seconds", "wait")
    wait_seconds = checked_seconds(given, "wait", 0.0, 0, LONGEST_WAIT_SECONDS) or 0.0
    deliveries = await call.api.consumers.fetch(
        project,
        name,
        member=checked_member(given.get("member", "default")),
        limit=checked_number(given, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT),
        ack_seconds=_ack_seconds(given),
        # No call that waits for events lasts longer than the caller's token.
        wait_seconds=min(wait_seconds, seconds_left(call.actor)),
        gone=lambda: call.is_gone,
    )
    readable = readable_by(call.actor)
    return _json({"deliveries": [_delivered(one, readable) for one in deliveries]})


async def ack(call: Call) -> web.Response:
    """POST /log/v1/consumers/{name}/ack: says what became of deliveries; a result for each.

    `tokens` are done, `failed` are to be tried again, and `released` were not looked at.
    """
    project, name = _named(call, USE)
    given = await fields(call, "tokens", "failed", "released")
    wanted: list[_Wanted] = []
    wanted += [(place, token, "acknowledge", {}) for place, token in _listed(given, "tokens")]
    wanted += [(place, token, "release", {}) for place, token in _listed(given, "released")]
    wanted += [_failure(place, failure) for place, failure in _listed(given, "failed", dict)]
    return await _answered(call, project, name, wanted)


async def extend(call: Call) -> web.Response:
    """POST /log/v1/consumers/{name}/extend: claims hold for `ack_seconds` from now."""
    project, name = _named(call, USE)
    given = await fields(call, "tokens", "ack_seconds")
    details = {"seconds": _ack_seconds(given)}
    wanted: list[_Wanted] = []
    wanted += [(place, token, "extend", details) for place, token in _listed(given, "tokens")]
    return await _answered(call, project, name, wanted)


async def parked(call: Call) -> web.Response:
    """GET /log/v1/consumers/{name}/parked: the events that failed too often, and why."""
    given = parameters(call, "project", "after", "limit")
    project, name = _feed(call, READ, given), checked_name(call.request.match_info["name"])
    after, limit = await position_of(call, given), page_limit(given, DEFAULT_LIMIT)
    found = await call.api.consumers.parked(project, name, after=after, limit=limit)
    positions, readable = await call.api.feed.positions(), readable_by(call.actor)
    return _json({"parked": [described_parked(positions, one, readable) for one in found]})


async def redeliver(call: Call) -> None:
    """POST /log/v1/consumers/{name}/parked/{position}/redeliver: it is handed out again (204)."""
    project, name = _named(call, MODIFY)
    position = await position_of(call, call.request.match_info, "position")
    _require_some(await call.api.consumers.redeliver(project, name, [position]))


async def discard(call: Call) -> None:
    """POST /log/v1/consumers/{name}/parked/{position}/discard: it is given up (204)."""
    project, name = _named(call, MODIFY)
    position = await position_of(call, call.request.match_info, "position")
    _require_some(await call.api.consumers.discard(project, name, [position]))


# ---- requests ----

_Wanted = tuple[str, Any, AnswerKind, dict[str, Any]]
"""One answer to a delivery: what to call it in an error, its token, and what became of it."""


def _feed(call: Call, rule: str, given: Mapping[str, str] | None = None) -> str | None:
    """Whose consumers are meant. Raises Invalid and Forbidden."""
    project = (parameters(call, "project") if given is None else given).get("project")
    if project is not None and not 0 < len(project) <= 255:
        raise Invalid("'project' must be the id of a project.", "project")
    return consumer_feed(call.actor, rule, project)


def _named(call: Call, rule: str) -> tuple[str | None, str]:
    """The feed and the name of the consumer that a call is about. Raises Invalid and Forbidden."""
    return _feed(call, rule), checked_name(call.request.match_info["name"])


def _ack_seconds(given: dict[str, object]) -> float:
    seconds = checked_seconds(given, "ack_seconds", ACK_SECONDS, 1, LONGEST_CLAIM_SECONDS)
    assert seconds is not None
    return seconds


def _failure(place: str, given: dict[str, object]) -> _Wanted:
    token, error, retry = (f"{place}.{name}" for name in ("token", "error", "retry_after_seconds"))
    placed = {f"{place}.{name}": value for name, value in given.items()}
    check_known("field", placed, (token, error, retry))
    if not isinstance(placed.get(error, ""), str):
        raise Invalid(f"'{error}' must be text.", error)
    seconds = checked_seconds(placed, retry, None, 0, LONGEST_RETRY_SECONDS)
    return token, placed.get(token), "fail", {"error": placed.get(error, ""), "seconds": seconds}


def _listed(given: dict[str, object], field: str, kind: type = str) -> list[tuple[str, Any]]:
    """The elements of a list with what to call each in an error."""
    items = given.get(field, [])
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        what = "objects with a 'token'" if kind is dict else "tokens"
        raise Invalid(f"'{field}' must be a list of {what}.", field)
    return [(f"{field}[{number}]", item) for number, item in enumerate(items)]


# ---- answers ----


async def _answered(
    call: Call, project: str | None, name: str, wanted: list[_Wanted]
) -> web.Response:
    """Hands all answers over at once; nothing is done when one of them makes no sense."""
    api = call.api
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


async def _shown(call: Call, consumer: Consumer, status: int = 200) -> web.Response:
    return _json(await described_now(call.api.consumers, consumer), status)


def _delivered(one: Delivery, readable: Readable | None) -> dict[str, Any]:
    return {
        "token": one.token,
        "attempt": one.attempt,
        "deadline": moment_text(one.deadline),
        "event": orjson.Fragment(readable_event(one.event, readable)),
    }


def _require_some(positions: list[int]) -> None:
    if not positions:
        raise NotFound("There is no parked event at that position.", "position")
