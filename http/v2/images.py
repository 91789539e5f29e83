"""The images resource: create, show, list, update, delete, tags, activation."""

import orjson
from aiohttp import web

from calotype.commands.errors import Invalid
from calotype.commands.images import deletion, metadata
from calotype.commands.images.image import Image
from calotype.commands.images.places import places_now
from calotype.commands.policy.actor import Actor
from calotype.commands.policy.policy import require, require_call
from calotype.commands.policy.protections import Readable, readable_by
from calotype.http.links import base_url
from calotype.http.middleware import Api, Call, json_answer
from calotype.http.parameters import json_body, json_object
from calotype.http.v2.filters import page_links, parse_list
from calotype.http.v2.patch import parse_patch
from calotype.projections.images.listing import ListQuery
from calotype.projections.images.queries import Page
from calotype.projections.images.rows import image_document, readable_document


async def create(call: Call) -> web.Response:
    """POST /v2/images (201 with the image and its Location)."""
    endpoint = base_url(call.request, call.api.proxies)
    body = await json_object(call)
    image = await metadata.create_image(call.api.context, call.actor, call.cause, body)
    answer = json_answer(document_of(image, call), 201)
    answer.headers["Location"] = f"{endpoint}/v2/images/{image.image_id}"
    return answer


async def show(call: Call) -> web.Response:
    """GET /v2/images/{image_id}."""
    api, actor, image_id = call.api, call.actor, call.image_id
    row = await api.queries.image(image_id, actor.project)
    require(actor, "get_image", row, f"No image found with ID {image_id}")
    assert row is not None
    document = readable_document(row.document.encode(), readable_by(actor))
    return json_answer(shown(api, actor, document, row.locations, row.status))


async def index(call: Call) -> web.Response:
    """GET /v2/images: one page of the list."""
    api, actor = call.api, call.actor
    require_call(actor, "get_images")
    await api.long_queries.wait(call.request.raw_path)
    parameters = list_parameters(call)
    query = list_query(api, parameters)
    readable = readable_by(actor)
    page = await api.queries.page(query, actor, readable=readable, gone=lambda: call.is_gone)
    if api.direct_url_shown or api.context.locations_shown or readable is not None:
        documents = shown_page(api, actor, page, readable)
    else:
        documents = ",".join([row[0] for row in page.images]).encode()
    return list_answer(documents, page_links(parameters, page.next_marker))


def list_parameters(call: Call) -> list[tuple[str, str]]:
    """The query string of a list. Raises Invalid for one that holds what no text can be."""
    parameters = list(call.request.query.items())
    for name, value in parameters:
        try:
            (name + value).encode()
        except UnicodeEncodeError:
            raise Invalid("The query string is not valid UTF-8.") from None
        if "\x00" in name or "\x00" in value:
            raise Invalid(f"Parameter '{name[:40]!r}' holds a NUL character.")
    return parameters


def list_query(api: Api, parameters: list[tuple[str, str]]) -> ListQuery:
    """What they ask for, within this installation's bounds. Raises Invalid."""
    return parse_list(
        parameters, default_limit=api.default_limit, max_limit=api.max_limit, **api.list_bounds
    )


def list_answer(documents: bytes, links: tuple[str, str | None], **more: str) -> web.Response:
    """A page of a list, with the links of its first and its next page."""
    said = {"first": links[0], "schema": "/v2/schemas/images", **more}
    if links[1] is not None:
        said["next"] = links[1]
    return json_answer(b'{"images":[' + documents + b"]," + orjson.dumps(said)[1:])


async def update(call: Call) -> web.Response:
    """PATCH /v2/images/{image_id} in both JSON-patch media types."""
    content_type = call.request.headers.get("Content-Type")
    if content_type is None or not content_type.startswith("application/openstack-images-v2."):
        parse_patch(content_type, [])
    operations = parse_patch(content_type, await json_body(call))
    image = await metadata.update_image(
        call.api.context, call.actor, call.cause, call.image_id, operations
    )
    return json_answer(document_of(image, call))


async def delete(call: Call) -> None:
    """DELETE /v2/images/{image_id} (204)."""
    await deletion.delete_image(call.api.context, call.actor, call.cause, call.image_id)


async def add_tag(call: Call) -> None:
    """PUT /v2/images/{image_id}/tags/{tag} (204)."""
    tag = call.request.match_info["tag"]
    await metadata.add_tag(call.api.context, call.actor, call.cause, call.image_id, tag)


async def remove_tag(call: Call) -> None:
    """DELETE /v2/images/{image_id}/tags/{tag} (204)."""
    tag = call.request.match_info["tag"]
    await metadata.remove_tag(call.api.context, call.actor, call.cause, call.image_id, tag)


async def deactivate(call: Call) -> None:
    """POST /v2/images/{image_id}/actions/deactivate (204)."""
    await metadata.deactivate(call.api.context, call.actor, call.cause, call.image_id)


async def reactivate(call: Call) -> None:
    """POST /v2/images/{image_id}/actions/reactivate (204)."""
    await metadata.reactivate(call.api.context, call.actor, call.cause, call.image_id)


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


def document_of(image: Image, call: Call) -> bytes:
    """The image as the caller is shown it."""
    document = readable_document(image_document(image), readable_by(call.actor))
    locations = orjson.dumps(image.locations).decode()
    return shown(call.api, call.actor, document, locations, image.status)
