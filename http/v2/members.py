"""The members resource: whom a shared image is offered to."""

from aiohttp import web

from calotype.commands.errors import Forbidden, NotFound
from calotype.commands.images import members
from calotype.commands.policy.policy import allows, require
from calotype.http.middleware import (
    Call,
    json_answer,
)
from calotype.http.parameters import json_object
from calotype.projections.images.queries import ImageRow
from calotype.projections.images.rows import member_document


async def index(call: Call) -> web.Response:
    """GET /v2/images/{image_id}/members: all for the owner, else only one's own row."""
    row, visible = await _visible_members(call)
    members.require_member_rule(call.actor, "get_members", row)
    shown = visible.values() if allows(call.actor, "get_member", row) else ()
    documents = ",".join(shown)
    return json_answer(f'{{"members":[{documents}],"schema":"/v2/schemas/members"}}'.encode())


async def show(call: Call) -> web.Response:
    """GET /v2/images/{image_id}/members/{member}: 404 for all that the caller may not know."""
    member = call.request.match_info["member"]
    missing = NotFound(f"{member} not found in the member list of the image")
    row, visible = await _visible_members(call)
    try:
        members.require_member_rule(call.actor, "get_member", row)
    except Forbidden:
        raise missing from None
    if member not in visible:
        raise missing
    return json_answer(visible[member].encode())


async def add(call: Call) -> web.Response:
    """POST /v2/images/{image_id}/members (200, as Glance answers)."""
    body = await json_object(call)
    image, member = await members.add_member(
        call.api.context, call.actor, call.cause, call.image_id, body
    )
    return json_answer(member_document(image, member))


async def set_status(call: Call) -> web.Response:
    """PUT /v2/images/{image_id}/members/{member}: the invited project's answer."""
    body, member = await json_object(call), call.request.match_info["member"]
    image = await members.set_member_status(
        call.api.context, call.actor, call.cause, call.image_id, member, body
    )
    return json_answer(member_document(image, member))


async def remove(call: Call) -> None:
    """DELETE /v2/images/{image_id}/members/{member} (204)."""
    member = call.request.match_info["member"]
    await members.remove_member(call.api.context, call.actor, call.cause, call.image_id, member)


async def _visible_members(call: Call) -> tuple[ImageRow, dict[str, str]]:
    """The image, and the document of each of its members that rules may let the caller see."""
    actor, image_id = call.actor, call.image_id
    row = await call.api.queries.image(image_id, actor.project)
    require(actor, "get_image", row)
    assert row is not None
    known = dict(await call.api.queries.members(image_id))
    if not actor.is_admin and actor.project != row.owner:
        known = {member: known[member] for member in known if member == actor.project}
    return row, known
