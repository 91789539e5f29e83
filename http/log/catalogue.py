"""The catalogue of event types: what consumers of the feed may rely on."""

from functools import partial

from aiohttp import web

from calotype.commands.errors import NotFound
from calotype.commands.images.download import LOG_EVENT_TYPES
from calotype.http.middleware import Call, json_answer
from calotype.http.parameters import parameters
from calotype.projections.feed.catalogue import asyncapi, catalogue, schema_of, version_of
from calotype.projections.feed.cloudevents import topic_of

_answer = partial(json_answer, caching="public, max-age=300")


async def calls(call: Call) -> web.Response:
    """GET /log/v1: the calls that there are below it."""
    methods: dict[str, set[str]] = {}
    for resource in call.request.app.router.resources():
        if resource.canonical.startswith("/log/v1/"):
            methods[resource.canonical] = {route.method for route in resource}
    listed = [{"path": path, "methods": sorted(names)} for path, names in sorted(methods.items())]
    return _answer({"calls": listed})


async def index(call: Call) -> web.Response:
    """GET /log/v1/schemas: every event type with its version and a sample."""
    return _answer(catalogue())


async def schema(call: Call) -> web.Response:
    """GET /log/v1/schemas/{type}: the JSON Schema of its data, also in an older `version`."""
    topic = topic_of(call.request.match_info["type"])
    kind = LOG_EVENT_TYPES.get(topic)
    if kind is None:
        raise NotFound("There is no event type of that name; see /log/v1/schemas.")
    newest = version_of(kind)
    versions = {str(number): number for number in range(1, newest + 1)}
    version = versions.get(parameters(call, "version").get("version", str(newest)))
    if version is None:
        raise NotFound(f"{topic} has no such version; its newest version is {newest}.")
    return _answer(schema_of(topic, version), media="application/schema+json")


async def description(call: Call) -> web.Response:
    """GET /log/v1/asyncapi: the feed as an AsyncAPI document."""
    return _answer(asyncapi())
