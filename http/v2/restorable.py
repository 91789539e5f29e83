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
    Call,
    json_answer,
)
from calotype.http.parameters import fields, page_limit, parameters
from calotype.http.paths import next_link
from calotype.http.v2.images import document_of
from calotype.projections.images.restorable import Row, Wanted, restorable_page, restorable_total
from calotype.projections.past.as_of import rfc3339

_MARKER = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)_([0-9a-f-]{36})", re.ASCII)


async def index(call: Call) -> web.Response:
    """GET /log/v1/restorable: what the caller may restore, the latest deletion first.

    The first page also says how many there are, and how many bytes they hold.
    """
    given = parameters(
        call, "owner", "deleted_by", "deleted_after", "deleted_before", "limit", "marker"
    )
    now = datetime.now(UTC)
    wanted = _wanted(given, call.actor, clock_text(now))
    limit = page_limit(given, max(call.api.default_limit, 1), call.api.max_limit)
    after = _marker(given["marker"]) if "marker" in given else None
    recorder = call.api.context.log.recorder
    rows = await restorable_page(recorder, wanted, after, limit + 1)
    body: dict[str, Any] = {"images": [_shown(row, now) for row in rows[:limit]]}
    if after is None:
        images, held_bytes = await restorable_total(recorder, wanted)
        body["total"] = {"images": images, "held_bytes": held_bytes}
    if len(rows) > limit:
        last = rows[limit - 1]
        marker = f"{last.deleted_at}_{last.id}"
        body["next"] = next_link(call.request.path, given, limit, marker=marker)
    return json_answer(body)


async def restore(call: Call) -> web.Response:
    """POST /log/v1/images/{image_id}/restore: takes the deletion back; the image as it is again."""
    image = await deletion.restore_image(call.api.context, call.actor, call.cause, call.image_id)
    return json_answer(document_of(image, call))


async def purge(call: Call) -> None:
    """POST /log/v1/images/{image_id}/purge with a `reason`: what was kept goes now (204)."""
    reason = (await fields(call, "reason")).get("reason")
    await deletion.purge_image(call.api.context, call.actor, call.cause, call.image_id, reason)


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
