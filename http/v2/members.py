"""The members resource: whom a shared image is offered to."""

import orjson
from aiohttp import web

from calotype.commands.errors import Forbidden, NotFound
from calotype.commands.images import members
from calotype.commands.images.image import image_uuid
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import allows, require
from calotype.http.middleware import (
    API,
    Api,
    actor_of,
    cause_of_request,
    json_answer,
    json_object,
    refuse_body,
)
from calotype.projections.images.queries import ImageRow
from calotype.projections.images.rows import member_document


async def index(request: web.Request) -> web.Response:
    """GET /v2/images/{image_id}/members: all for the owner, else only one's own row."""
    refuse_body(request)
    api, actor = request.app[API], actor_of(request)
    row, visible = await _visible_members(api, actor, request.match_info["image_id"])
    members.require_member_rule(actor, "get_members", row)
    shown = visible.values() if allows(actor, "get_member", row) else ()
    documents = ",".join(shown)
    return json_answer(f'{{"members":[{documents}],"schema":"/v2/schemas/members"}}'.encode())


async def show(request: web.Request) -> web.Response:
    """GET /v2/images/{image_id}/members/{member}: 404 for all that the caller may not know."""
    refuse_body(request)
    api, actor = request.app[API], actor_of(request)
    names = request.match_info
    missing = NotFound(f"{names['member']} not found in the member list of the image")
    row, visible = await _visible_members(api, actor, names["image_id"])
    try:
        members.require_member_rule(actor, "get_member", row)
    except Forbidden:
        raise missing from None
    if names["member"] not in visible:
        raise missing
    return json_answer(visible[names["member"]].encode())


async def add(request: web.Request) -> web.Response:
    """POST /v2/images/{image_id}/members (200, as Glance answers)."""
    api, actor = request.app[API], actor_of(request)
    body = await json_object(request)
    cause = cause_of_request(request, actor)
    image_id = request.match_info["image_id"]
    image, name = await members.add_member(api.context, actor, cause, image_id, body)
    return json_answer(orjson.dumps(member_document(image, name)))


async def set_status(request: web.Request) -> web.Response:
    """PUT /v2/images/{image_id}/members/{member}: the invited project's answer."""
    api, actor = request.app[API], actor_of(request)
    body = await json_object(request)
    cause = cause_of_request(request, actor)
    names = request.match_info
    image = await members.set_member_status(
        api.context, actor, cause, names["image_id"], names["member"], body
    )
    return json_answer(orjson.dumps(member_document(image, names["member"])))


async def remove(request: web.Request) -> web.Response:
    """DELETE /v2/images/{image_id}/members/{member} (204)."""
    refuse_body(request)
    api, actor = request.app[API], actor_of(request)
    cause = cause_of_request(request, actor)
    names = request.match_info
    await members.remove_member(api.context, actor, cause, names["image_id"], names["member"])
    return web.Response(status=204)


async def _visible_members(
    api: Api, actor: Actor, image_id: str
) -> tuple[ImageRow, dict[str, str]]:
    """The image, and the document of each of its members that rules may let the actor see."""
    aggregate_id = image_uuid(image_id)
    row = await api.queries.image(aggregate_id, actor.project)
    require(actor, "get_image", row)
    assert row is not None
    known = dict(await api.queries.members(aggregate_id))
    if not actor.is_admin and actor.project != row.owner:
        known = {member: known[member] for member in known if member == actor.project}
    return row, known
