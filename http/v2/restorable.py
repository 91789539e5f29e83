"""What was deleted and can be had back: the list, and the actions restore and purge."""

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from aiohttp import web

from calotype.commands.errors import Forbidden, Invalid
from calotype.commands.images import deletion
from calotype.commands.images.events import clock_text
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import require_call
from calotype.http.middleware import (
    API,
    actor_of,
    cause_of_request,
    json_answer,
    json_object,
    refuse_body,
)
from calotype.http.paths import link
from calotype.http.v2.images import document_of
from calotype.projections.images.restorable import Row, Wanted, restorable_page, restorable_total
from calotype.projections.past.as_of import rfc3339

PATH = "/log/v1/restorable"
_KNOWN = ("owner", "deleted_by", "deleted_after", "deleted_before", "limit", "marker")
_MARKER = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)_([0-9a-f-]{36})", re.ASCII)


async def index(request: web.Request) -> web.Response:
    """GET /log/v1/restorable: what the caller may restore, the latest deletion first.

    The first page also says how many there are, and how many bytes they hold.
    """
    refuse_body(request)
    api, actor = request.app[API], actor_of(request)
    given = _parameters(request)
    now = datetime.now(UTC)
    wanted = _wanted(given, actor, clock_text(now))
    limit = _limit(given, max(api.default_limit, 1), api.max_limit)
    after = _marker(given["marker"]) if "marker" in given else None
    recorder = api.context.log.recorder
    rows = await restorable_page(recorder, wanted, after, limit + 1)
    body: dict[str, Any] = {"images": [_shown(row, now) for row in rows[:limit]]}
    if after is None:
        images, held_bytes = await restorable_total(recorder, wanted)
        body["total"] = {"images": images, "held_bytes": held_bytes}
    if len(rows) > limit:
        last = rows[limit - 1]
        again = {**given, "limit": str(limit), "marker": f"{last.deleted_at}_{last.id}"}
        body["next"] = link(PATH, again.items())
    return json_answer(orjson.dumps(body))


async def restore(request: web.Request) -> web.Response:
    """POST /log/v1/images/{image_id}/restore: takes the deletion back; the image as it is again."""
    refuse_body(request)
    api, actor = request.app[API], actor_of(request)
    cause = cause_of_request(request, actor)
    image_id = request.match_info["image_id"]
    image = await deletion.restore_image(api.context, actor, cause, image_id)
    return json_answer(document_of(image, api, actor))


async def purge(request: web.Request) -> web.Response:
    """POST /log/v1/images/{image_id}/purge with a `reason`: what was kept goes now (204)."""
    api, actor = request.app[API], actor_of(request)
    body = await json_object(request)
    if body.keys() != {"reason"}:
        raise Invalid("The body must be an object with a 'reason' and nothing else.", "reason")
    cause = cause_of_request(request, actor)
    image_id = request.match_info["image_id"]
    await deletion.purge_image(api.context, actor, cause, image_id, body["reason"])
    return web.Response(status=204)


def _wanted(given: dict[str, str], actor: Actor, now: str) -> Wanted:
    owner = given.get("owner")
    if not actor.is_admin:
        require_call(actor, "restore_image")
        if actor.project is None:
            raise Forbidden("Only administrators list what was deleted without a project.")
        if owner not in (None, actor.project):
            raise Forbidden("Only administrators list what other projects have deleted.")
        owner = actor.project
    return Wanted(
        now=now,
        owner=owner,
        deleted_by=given.get("deleted_by"),
        deleted_after=_time(given, "deleted_after"),
        deleted_before=_time(given, "deleted_before"),
    )


def _shown(row: Row, now: datetime) -> dict[str, Any]:
    left = datetime.fromisoformat(row.retained_until) - now
    document: dict[str, Any] = orjson.loads(row.document)
    return {**document, "seconds_left": max(0, int(left.total_seconds()))}


def _time(given: dict[str, str], name: str) -> str | None:
    if name not in given:
        return None
    try:
        return clock_text(rfc3339(given[name]))
    except ValueError:
        raise Invalid(
            f"Parameter '{name}' must be an RFC 3339 time such as 2026-01-31T12:00:00Z.", name
        ) from None


def _marker(text: str) -> tuple[str, UUID]:
    match = _MARKER.fullmatch(text)
    try:
        if match:
            return match[1], UUID(match[2])
    except ValueError:
        pass
    raise Invalid("Parameter 'marker' is not one that a link of this list gave.", "marker")


def _limit(given: dict[str, str], default: int, most: int) -> int:
    text = given.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise Invalid("Parameter 'limit' must be a whole number from 1.", "limit")
    return min(int(text), most)


def _parameters(request: web.Request) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in _KNOWN:
            name = name.encode("utf-8", "replace").decode()[:40]
            raise Invalid(f"There is no parameter '{name}' here; use {', '.join(_KNOWN)}.", name)
        if name in given:
            raise Invalid(f"Parameter '{name}' is given twice.", name)
        if "\x00" in value or not value.isprintable():
            raise Invalid(f"Parameter '{name}' holds characters that no such value has.", name)
        given[name] = value
    return given
