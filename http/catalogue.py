"""The catalogue of event types: what consumers of the feed may rely on."""

import orjson
from aiohttp import web

from calotype.commands.download import LOG_EVENT_TYPES
from calotype.commands.errors import NotFound
from calotype.http.conversation import refuse_body
from calotype.projections.catalogue import asyncapi, catalogue, schema_of, version_of

_LASTING = "public, max-age=300"


async def index(request: web.Request) -> web.Response:
    """GET /log/v1/schemas: every event type with its version and a sample."""
    refuse_body(request)
    return _answer(catalogue(), "application/json")


async def schema(request: web.Request) -> web.Response:
    """GET /log/v1/schemas/{type}: the JSON Schema of the data of its events."""
    refuse_body(request)
    topic = request.match_info["type"]
    kind = LOG_EVENT_TYPES.get(topic)
    if kind is None:
        raise NotFound("There is no event type of that name; see /log/v1/schemas.")
    if request.query.get("version", str(version_of(kind))) != str(version_of(kind)):
        raise NotFound(f"{topic} has no such version; its version is {version_of(kind)}.")
    return _answer(schema_of(topic), "application/schema+json")


async def description(request: web.Request) -> web.Response:
    """GET /log/v1/asyncapi: the feed as an AsyncAPI document."""
    refuse_body(request)
    return _answer(asyncapi(), "application/json")


def _answer(document: object, media: str) -> web.Response:
    headers = {"Content-Type": media, "Cache-Control": _LASTING}
    return web.Response(body=orjson.dumps(document), headers=headers)
