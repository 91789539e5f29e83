"""The images resource: create, show, list, update, delete, tags, activation."""

import asyncio

import orjson
from aiohttp import web

from calotype.commands.errors import Invalid
from calotype.commands.images import deletion, metadata
from calotype.commands.images.image import Image, image_uuid
from calotype.commands.images.places import places_now
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import require, require_call
from calotype.commands.policy.protections import Readable, readable_by
from calotype.http.links import base_url
from calotype.http.middleware import (
    API,
    Api,
    actor_of,
    cause_of_request,
    json_answer,
    json_body,
    json_object,
    refuse_body,
)
from calotype.http.v2.filters import page_links, parse_list
from calotype.http.v2.patch import parse_patch
from calotype.projections.images.queries import Page
from calotype.projections.images.rows import image_document, readable_document

_LONG, _ROUNDS = 500, 3
"""Characters from which on a list takes a millisecond to understand. One at a time does so, and
lets others who wait have the event loop for so many rounds before."""


async def create(request: web.Request) -> web.Response:
    """POST /v2/images (201 with the image and its Location)."""
    api, actor = request.app[API], actor_of(request)
    endpoint = base_url(request, api.proxies)
    body = await json_object(request)
    cause = cause_of_request(request, actor)
    image = await metadata.create_image(api.context, actor, cause, body)
    answer = json_answer(document_of(image, api, actor), 201)
    answer.headers["Location"] = f"{endpoint}/v2/images/{image.image_id}"
    return answer


async def show(request: web.Request) -> web.Response:
    """GET /v2/images/{image_id}."""
    refuse_body(request)
    api, actor = request.app[API], actor_of(request)
    image_id = request.match_info["image_id"]
    row = await api.queries.image(image_uuid(image_id), actor.project)
    require(actor, "get_image", row, f"No image found with ID {image_id}")
    assert row is not None
    document = readable_document(row.document.encode(), readable_by(actor))
    return json_answer(shown(api, actor, document, row.locations, row.status))


async def index(request: web.Request) -> web.Response:
    """GET /v2/images: one page of the list."""
    api, actor = request.app[API], actor_of(request)
    require_call(actor, "get_images")
    if len(request.raw_path) > _LONG:
        async with api.long_lists:
            for _ in range(_ROUNDS):
                await asyncio.sleep(0)
    parameters = list(request.query.items())
    check_text(parameters)
    query = parse_list(
        parameters, default_limit=api.default_limit, max_limit=api.max_limit, **api.list_bounds
    )
    readable = readable_by(actor)
    page = await api.queries.page(
        query, actor, readable=readable, gone=lambda: request.transport is None
    )
    first, following = page_links(parameters, page.next_marker)
    if api.direct_url_shown or api.context.locations_shown or readable is not None:
        documents = shown_page(api, actor, page, readable)
    else:
        documents = ",".join([row[0] for row in page.images]).encode()
    links = {"first": first, "schema": "/v2/schemas/images"}
    if following is not None:
        links["next"] = following
    return json_answer(b'{"images":[' + documents + b"]," + orjson.dumps(links)[1:])


def check_text(parameters: list[tuple[str, str]]) -> None:
    """Raises Invalid for a query string that holds what no text can be."""
    for name, value in parameters:
        try:
            (name + value).encode()
        except UnicodeEncodeError:
            raise Invalid("The query string is not valid UTF-8.") from None
        if "\x00" in name or "\x00" in value:
            raise Invalid(f"Parameter '{name[:40]!r}' holds a NUL character.")


async def update(request: web.Request) -> web.Response:
    """PATCH /v2/images/{image_id} in both JSON-patch media types."""
    api, actor = request.app[API], actor_of(request)
    content_type = request.headers.get("Content-Type")
    if content_type is None or not content_type.startswith("application/openstack-images-v2."):
        parse_patch(content_type, [])
    operations = parse_patch(content_type, await json_body(request))
    cause = cause_of_request(request, actor)
    image_id = request.match_info["image_id"]
    image = await metadata.update_image(api.context, actor, cause, image_id, operations)
    return json_answer(document_of(image, api, actor))


async def delete(request: web.Request) -> web.Response:
    """DELETE /v2/images/{image_id} (204)."""
    refuse_body(request)
    api, actor = request.app[API], actor_of(request)
    cause = cause_of_request(request, actor)
    await deletion.delete_image(api.context, actor, cause, request.match_info["image_id"])
    return web.Response(status=204)


async def add_tag(request: web.Request) -> web.Response:
    """PUT /v2/images/{image_id}/tags/{tag} (204)."""
    refuse_body(request)
    api, actor = request.app[API], actor_of(request)
    names = request.match_info
    cause = cause_of_request(request, actor)
    await metadata.add_tag(api.context, actor, cause, names["image_id"], names["tag"])
    return web.Response(status=204)


async def remove_tag(request: web.Request) -> web.Response:
    """DELETE /v2/images/{image_id}/tags/{tag} (204)."""
    refuse_body(request)
    api, actor = request.app[API], actor_of(request)
    names = request.match_info
    cause = cause_of_request(request, actor)
    await metadata.remove_tag(api.context, actor, cause, names["image_id"], names["tag"])
    return web.Response(status=204)


async def deactivate(request: web.Request) -> web.Response:
    """POST /v2/images/{image_id}/actions/deactivate (204)."""
    refuse_body(request)
    api, actor = request.app[API], actor_of(request)
    cause = cause_of_request(request, actor)
    await metadata.deactivate(api.context, actor, cause, request.match_info["image_id"])
    return web.Response(status=204)


async def reactivate(request: web.Request) -> web.Response:
    """POST /v2/images/{image_id}/actions/reactivate (204)."""
    refuse_body(request)
    api, actor = request.app[API], actor_of(request)
    cause = cause_of_request(request, actor)
    await metadata.reactivate(api.context, actor, cause, request.match_info["image_id"])
    return web.Response(status=204)


def shown(api: Api, actor: Actor, document: bytes, locations: str, status: str) -> bytes:
    """The document with the places of the bytes added, where the operator shows them.

    A deactivated image's places are hidden from all but administrators.
    """
    if not api.direct_url_shown and not api.context.locations_shown:
        return document
    places = orjson.loads(locations)
    if places:
        places = places_now(api.context.stores, orjson.loads(document)["id"], places)
    if status == "deactivated" and not actor.is_admin:
        places = []
    extra = {}
    if api.direct_url_shown and places:
        extra["direct_url"] = places[0]["url"]
    if api.context.locations_shown:
        extra["locations"] = places
    if not extra:
        return document
    return document[:-1] + b"," + orjson.dumps(extra)[1:]


def shown_page(api: Api, actor: Actor, page: Page, readable: Readable | None) -> bytes:
    """The documents of a page as the caller is shown them, with commas between."""
    return b",".join(
        [
            shown(api, actor, readable_document(document.encode(), readable), locations, status)
            for document, locations, status in page.images
        ]
    )


def document_of(image: Image, api: Api, actor: Actor) -> bytes:
    """The image as the caller is shown it."""
    document = readable_document(image_document(image), readable_by(actor))
    locations = orjson.dumps(image.locations).decode()
    return shown(api, actor, document, locations, image.status)
