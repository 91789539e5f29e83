"""The catalogue of event types: what consumers of the feed may rely on."""

import orjson
from aiohttp import web

from calotype.commands.errors import NotFound
from calotype.commands.images.download import LOG_EVENT_TYPES
from calotype.http.middleware import refuse_body
from calotype.projections.feed.catalogue import asyncapi, catalogue, schema_of, version_of
from calotype.projections.feed.cloudevents import topic_of

_LASTING = "public, max-age=300"


async def calls(request: web.Request) -> web.Response:
    """GET /log/v1: the calls that there are below it."""
    refuse_body(request)
    methods: dict[str, set[str]] = {}
    for resource in request.app.router.resources():
        if resource.canonical.startswith("/log/v1/"):
            methods[resource.canonical] = {route.method for route in resource}
    listed = [{"path": path, "methods": sorted(names)} for path, names in sorted(methods.items())]
    return _answer({"calls": listed}, "application/json")


async def index(request: web.Request) -> web.Response:
    """GET /log/v1/schemas: every event type with its version and a sample."""
    refuse_body(request)
    return _answer(catalogue(), "application/json")


async def schema(request: web.Request) -> web.Response:
    """GET /log/v1/schemas/{type}: the JSON Schema of its data, also in an older `version`."""
    refuse_body(request)
    topic = topic_of(request.match_info["type"])
    kind = LOG_EVENT_TYPES.get(topic)
    if kind is None:
        raise NotFound("There is no event type of that name; see /log/v1/schemas.")
    newest = version_of(kind)
    versions = {str(number): number for number in range(1, newest + 1)}
    version = versions.get(request.query.get("version", str(newest)))
    if version is None:
        raise NotFound(f"{topic} has no such version; its newest version is {newest}.")
    return _answer(schema_of(topic, version), "application/schema+json")


async def description(request: web.Request) -> web.Response:
    """GET /log/v1/asyncapi: the feed as an AsyncAPI document."""
    refuse_body(request)
    return _answer(asyncapi(), "application/json")


def _answer(document: object, media: str) -> web.Response:
    headers = {"Content-Type": media, "Cache-Control": _LASTING}
    return web.Response(body=orjson.dumps(document), headers=headers)
