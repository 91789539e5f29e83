"""The past: the history of an image, and images as they were at a moment."""

from typing import Any
from uuid import UUID

import orjson
from aiohttp import web

from calotype.commands.errors import Forbidden, Invalid, NotFound
from calotype.commands.policy.actor import Actor, refused
from calotype.commands.policy.policy import allows, as_auditor, require_call
from calotype.commands.policy.protections import readable_by
from calotype.http.middleware import Call, json_answer
from calotype.http.parameters import page_limit, parameters
from calotype.http.paths import next_link
from calotype.http.v2.filters import page_links
from calotype.http.v2.images import (
    list_answer,
    list_parameters,
    list_query,
    shown,
    shown_page,
)
from calotype.projections.images.listing import Moment
from calotype.projections.images.rows import readable_document
from calotype.projections.past.history import History, difference, history_of

LIST = "/log/v1/images"
POSITION_HEADER = "Calotype-Position"
"""Names the position that an answer is as of; ask with it again and get the same."""


async def history(call: Call) -> web.Response:
    """GET /log/v1/images/{image_id}/history: its changes, oldest first.

    For readers of the project that owns the image, or owned it last, administrators and auditors.
    """
    api, given = call.api, parameters(call, "after", "limit")
    positions = await api.moments.positions()
    limit = page_limit(given, max(api.default_limit, 1), api.max_limit)
    found = await history_of(
        api.context.log.recorder,
        call.image_id,
        after=positions.decode(given["after"], "after") if "after" in given else 0,
        limit=limit,
        readable=readable_by(call.actor),
    )
    found = _allowed(call.actor, found, call.image_id)
    changes = [change.shown(positions) for change in found.changes]
    body: dict[str, Any] = {"image_id": found.image.image_id, "changes": changes}
    if found.more:
        after = changes[-1]["position"]
        body["next"] = next_link(call.request.path, {}, limit, after=after)
    return json_answer(body)


async def index(call: Call) -> web.Response:
    """GET /log/v1/images?as_of=: one page of the list as it was, with the filters of /v2/images."""
    api = call.api
    # Auditors see all images, but of custom properties what their own roles let them read.
    actor, readable = as_auditor(call.actor), readable_by(call.actor)
    require_call(actor, "get_past_images")
    await api.long_queries.wait(call.request.raw_path)
    given = list_parameters(call)
    times = [value for name, value in given if name == "as_of"]
    if len(times) > 1:
        raise Invalid("Parameter 'as_of' is given twice.", "as_of")
    moment = await _moment(call, {"as_of": "".join(times)}, "as_of")
    rest = [pair for pair in given if pair[0] != "as_of"]
    query = list_query(api, rest)
    page = await api.queries.page(
        query, actor, moment, readable=readable, gone=lambda: call.is_gone
    )
    as_of = (await api.moments.positions()).encode(moment.position)
    # The links name the position, because a time of now would mean another moment later.
    links = page_links([*rest, ("as_of", as_of)], page.next_marker, LIST)
    answer = list_answer(shown_page(api, actor, page, readable), links, as_of=as_of)
    answer.headers[POSITION_HEADER] = as_of
    return answer


async def show(call: Call) -> web.Response:
    """GET /log/v1/images/{image_id}?as_of=: the image as it was."""
    moment = await _moment(call, parameters(call, "as_of"), "as_of")
    document = await _document_then(call, moment)
    if document is None:
        raise NotFound(f"No image found with ID {call.image_id} at that moment")
    answer = json_answer(document)
    positions = await call.api.moments.positions()
    answer.headers[POSITION_HEADER] = positions.encode(moment.position)
    return answer


async def diff(call: Call) -> web.Response:
    """GET /log/v1/images/{image_id}/diff?from=&to=: what turns the one state into the other."""
    given = parameters(call, "from", "to")
    positions = await call.api.moments.positions()
    body: dict[str, Any] = {"image_id": str(call.image_id)}
    documents = []
    for name in ("from", "to"):
        moment = await _moment(call, given, name)
        body[name] = positions.encode(moment.position)
        document = await _document_then(call, moment)
        documents.append(None if document is None else orjson.loads(document))
    if documents == [None, None]:
        raise NotFound(f"No image found with ID {call.image_id} at either moment")
    return json_answer({**body, "patch": difference(*documents)})


async def _document_then(call: Call, moment: Moment) -> bytes | None:
    actor = as_auditor(call.actor)
    row = await call.api.queries.image_then(call.image_id, actor, moment)
    if row is None:
        return None
    document = readable_document(row.document.encode(), readable_by(call.actor))
    return shown(call.api, actor, document, row.locations, row.status)


def _allowed(actor: Actor, found: History | None, image_id: UUID) -> History:
    if found is not None and actor.policy.holds("get_image_history", actor, found.image):
        return found
    if (
        found is None
        or found.image.status == "deleted"
        or not allows(actor, "get_image", found.image)
    ):
        raise NotFound(f"No image found with ID {image_id}")
    text = "Only the project that owns an image may read its history."
    raise refused(Forbidden(text), actor, "get_image_history")


async def _moment(call: Call, given: dict[str, str], name: str) -> Moment:
    if not given.get(name):
        raise Invalid(f"Parameter '{name}' is needed: a position or an RFC 3339 time.", name)
    return await call.api.moments.at(given[name], name)
