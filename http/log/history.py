"""The past: the history of an image, and images as they were at a moment."""

from typing import Any

import orjson
from aiohttp import web

from calotype.commands.errors import Forbidden, Invalid, NotFound
from calotype.commands.images.image import image_uuid
from calotype.commands.policy.actor import Actor, refused
from calotype.commands.policy.policy import allows, as_auditor, require_call
from calotype.commands.policy.protections import Readable, readable_by
from calotype.http.middleware import API, Api, actor_of, json_answer, refuse_body
from calotype.http.paths import link
from calotype.http.v2.filters import page_links, parse_list
from calotype.http.v2.images import check_text, shown, shown_page
from calotype.projections.images.listing import Moment
from calotype.projections.images.rows import readable_document
from calotype.projections.past.history import History, difference, history_of

LIST = "/log/v1/images"
POSITION_HEADER = "Calotype-Position"
"""Names the position that an answer is as of; ask with it again and get the same."""


async def history(request: web.Request) -> web.Response:
    """GET /log/v1/images/{image_id}/history: its changes, oldest first.

    For readers of the project that owns the image, or owned it last, administrators and auditors.
    """
    refuse_body(request)
    api, actor = request.app[API], actor_of(request)
    given = _parameters(request, ("after", "limit"))
    positions = await api.moments.positions()
    after = positions.decode(given["after"], "after") if "after" in given else 0
    limit = _limit(given, api)
    image_id = request.match_info["image_id"]
    found = await history_of(
        api.context.log.recorder,
        image_uuid(image_id),
        after=after,
        limit=limit,
        readable=readable_by(actor),
    )
    found = _allowed(actor, found, image_id)
    changes = [change.shown(positions) for change in found.changes]
    body: dict[str, Any] = {"image_id": found.image.image_id, "changes": changes}
    if found.more:
        position = changes[-1]["position"]
        body["next"] = link(request.path, [("limit", str(limit)), ("after", position)])
    return json_answer(orjson.dumps(body))


async def index(request: web.Request) -> web.Response:
    """GET /log/v1/images?as_of=: one page of the list as it was, with the filters of /v2/images."""
    refuse_body(request)
    api, caller = request.app[API], actor_of(request)
    # Auditors see all images, but of custom properties what their own roles let them read.
    actor, readable = as_auditor(caller), readable_by(caller)
    require_call(actor, "get_past_images")
    parameters = list(request.query.items())
    check_text(parameters)
    moment = await api.moments.at(_only("as_of", parameters), "as_of")
    rest = [pair for pair in parameters if pair[0] != "as_of"]
    query = parse_list(
        rest, default_limit=api.default_limit, max_limit=api.max_limit, **api.list_bounds
    )
    page = await api.queries.page(
        query, actor, moment, readable=readable, gone=lambda: request.transport is None
    )
    as_of = (await api.moments.positions()).encode(moment.position)
    # The links name the position, because a time of now would mean another moment later.
    first, following = page_links([*rest, ("as_of", as_of)], page.next_marker, LIST)
    documents = shown_page(api, actor, page, readable)
    links = {"first": first, "schema": "/v2/schemas/images", "as_of": as_of}
    if following is not None:
        links["next"] = following
    answer = json_answer(b'{"images":[' + documents + b"]," + orjson.dumps(links)[1:])
    answer.headers[POSITION_HEADER] = as_of
    return answer


async def show(request: web.Request) -> web.Response:
    """GET /log/v1/images/{image_id}?as_of=: the image as it was."""
    refuse_body(request)
    api, caller = request.app[API], actor_of(request)
    actor, readable = as_auditor(caller), readable_by(caller)
    moment = await api.moments.at(_asked(_parameters(request, ("as_of",)), "as_of"), "as_of")
    image_id = request.match_info["image_id"]
    document = await _document_then(api, actor, readable, image_id, moment)
    if document is None:
        raise NotFound(f"No image found with ID {image_id} at that moment")
    answer = json_answer(document)
    answer.headers[POSITION_HEADER] = (await api.moments.positions()).encode(moment.position)
    return answer


async def diff(request: web.Request) -> web.Response:
    """GET /log/v1/images/{image_id}/diff?from=&to=: what turns the one state into the other."""
    refuse_body(request)
    api, caller = request.app[API], actor_of(request)
    actor, readable = as_auditor(caller), readable_by(caller)
    given = _parameters(request, ("from", "to"))
    image_id = request.match_info["image_id"]
    positions = await api.moments.positions()
    body: dict[str, Any] = {"image_id": image_id}
    documents = []
    for name in ("from", "to"):
        moment = await api.moments.at(_asked(given, name), name)
        body[name] = positions.encode(moment.position)
        document = await _document_then(api, actor, readable, image_id, moment)
        documents.append(None if document is None else orjson.loads(document))
    if documents == [None, None]:
        raise NotFound(f"No image found with ID {image_id} at either moment")
    return json_answer(orjson.dumps({**body, "patch": difference(*documents)}))


async def _document_then(
    api: Api, actor: Actor, readable: Readable | None, image_id: str, moment: Moment
) -> bytes | None:
    row = await api.queries.image_then(image_uuid(image_id), actor, moment)
    if row is None:
        return None
    document = readable_document(row.document.encode(), readable)
    return shown(api, actor, document, row.locations, row.status)


def _allowed(actor: Actor, found: History | None, image_id: str) -> History:
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


def _parameters(request: web.Request, known: tuple[str, ...]) -> dict[str, str]:
    """The query string's parameters. Raises Invalid for unknown ones and for repeated ones."""
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            name = name.encode("utf-8", "replace").decode()[:40]
            raise Invalid(f"There is no parameter '{name}' here; use {', '.join(known)}.", name)
        if name in given:
            raise Invalid(f"Parameter '{name}' is given twice.", name)
        given[name] = value
    return given


def _only(name: str, parameters: list[tuple[str, str]]) -> str:
    values = [value for key, value in parameters if key == name]
    if len(values) > 1:
        raise Invalid(f"Parameter '{name}' is given twice.", name)
    return _asked(dict.fromkeys([name], values[0]) if values else {}, name)


def _asked(given: dict[str, str], name: str) -> str:
    if not given.get(name):
        raise Invalid(f"Parameter '{name}' is needed: a position or an RFC 3339 time.", name)
    return given[name]


def _limit(given: dict[str, str], api: Api) -> int:
    text = given.get("limit", str(max(api.default_limit, 1)))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise Invalid("Parameter 'limit' must be a whole number from 1.", "limit")
    return min(int(text), api.max_limit)
