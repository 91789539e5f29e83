"""What a client asks before it does anything: versions, schemas, enabled methods, health."""

import asyncio
import os
import re

import orjson
from aiohttp import web

from calotype.commands.errors import NotFound
from calotype.http.errors import error_answer, is_own_call
from calotype.http.identity.keystone_limits import RESOURCES, UNLIMITED, KeystoneLimits
from calotype.http.links import base_url
from calotype.http.middleware import Call, Handler, json_answer
from calotype.http.v2.schemas import schema_document
from calotype.http.v2.versions import accepted_prefix, versions_document

_ACCEPTED_VERSION = re.compile(r"application/vnd\.openstack\.images-(v[0-9.]+)")
_IMPORT_METHODS = (
    b'{"import-methods":{"description":"Import methods available.","type":"array","value":[]}}'
)


def versions_answer(call: Call, status: int) -> web.Response:
    """The versions document, with the links that this caller can follow."""
    endpoint = call.api.public_endpoint or base_url(call.request, call.api.proxies)
    return json_answer(versions_document(endpoint), status)


async def versions(call: Call) -> web.Response:
    """/versions and anything below it (200), any method."""
    return versions_answer(call, 200)


async def redirect_to_v2(call: Call) -> web.Response:
    """/v2 -> /v2/ (302)."""
    await call.identify()
    endpoint = base_url(call.request, call.api.proxies)
    return web.Response(status=302, headers={"Location": f"{endpoint}/v2/"})


async def elsewhere(call: Call) -> web.StreamResponse | None:
    """All that no route takes: another spelling of /v2, the versions document, or 404."""
    request = call.request
    if request.method == "OPTIONS":
        return web.Response(status=200)
    if is_own_call(request.path):
        raise NotFound("There is no such call; /log/v1 lists those that there are.")
    if request.path == "/metrics":  # Who looks for metrics must not take a list of versions for it.
        raise NotFound("There are no metrics here.")
    segment, _, rest = request.path.lstrip("/").partition("/")
    if segment == "v2":
        await call.identify()
        if request.method not in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            raise web.HTTPNotImplemented
        raise NotFound("The resource could not be found.")
    asked = _ACCEPTED_VERSION.match(request.headers.get("Accept", ""))
    if asked and accepted_prefix(asked[1]):
        return await _again(call, request.raw_path)
    if accepted_prefix(segment):
        return await _again(call, request.raw_path.lstrip("/")[len(segment) :])
    return versions_answer(call, 300)


async def _again(call: Call, path: str) -> web.StreamResponse | None:
    """Handles the request as one to /v2 + path."""
    clone = call.request.clone(rel_url="/v2" + path)
    match = await call.request.app.router.resolve(clone)
    match.add_app(call.request.app)
    clone._match_info = match
    again = Call(clone, call.api, call.request_id)
    handler: Handler = match.handler  # type: ignore[assignment]
    await again.admit(handler)
    return await handler(again)


async def schema(call: Call) -> web.Response:
    """GET /v2/schemas/{name}."""
    document = schema_document(call.request.match_info["name"], call.api.context.formats)
    if document is None:
        raise NotFound("There is no schema of that name.")
    return json_answer(document)


async def import_methods(call: Call) -> web.Response:
    """GET /v2/info/import."""
    return json_answer(_IMPORT_METHODS)


async def stores(call: Call) -> web.Response:
    """GET /v2/info/stores: 404 as long as there is one store only."""
    raise NotFound("Multi backend is not supported at this site.")


async def usage(call: Call) -> web.Response:
    """GET /v2/info/usage: what the caller's project has and may have; with unified limits only."""
    quotas, project = call.api.context.quotas, call.actor.project
    told: dict[str, dict[str, int]] = {}
    if isinstance(quotas.limits_of, KeystoneLimits) and project:
        limits, counted = await quotas.limits(project), await quotas.counted(project)
        for resource, (name, unit) in RESOURCES.items():
            limit = getattr(limits, name)
            told[resource] = {
                "usage": getattr(counted, name) // unit,
                "limit": UNLIMITED if limit is None else limit // unit,
            }
    return json_answer({"usage": told})


async def healthcheck(call: Call) -> web.Response:
    """/healthcheck: OK, or 503 with the reason that a load balancer should look elsewhere.

    As the middleware that Glance has: HEAD is answered 204, JSON given where it is asked for.
    """
    api, request = call.api, call.request
    reason = ""
    if api.draining:
        reason = "DRAINING"
    elif bool(api.disable_file) and await asyncio.to_thread(os.path.exists, api.disable_file):
        reason = "DISABLED BY FILE"
    else:
        trouble = await api.context.log.recorder.trouble()
        if trouble is not None:
            reason = f"EVENT LOG UNAVAILABLE: {trouble}"
    status = 503 if reason else 204 if request.method == "HEAD" else 200
    accept = request.headers.get("Accept", "")
    if request.method == "HEAD":
        return web.Response(status=status)
    if "application/json" in accept:
        body = {"detailed": False, "reasons": [reason or "OK"]}
        return json_answer(orjson.dumps(body, option=orjson.OPT_INDENT_2), status)
    if reason:
        return error_answer(status, reason, accept)
    return web.Response(text="OK")
