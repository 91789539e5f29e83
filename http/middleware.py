"""What surrounds a request: its id, its actor, and where errors become answers."""

import asyncio
import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote_to_bytes
from uuid import UUID

import orjson
import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from calotype.commands.context import CommandContext
from calotype.commands.errors import CalotypeError, Invalid, LimitExceeded
from calotype.commands.images.downloads import Downloads
from calotype.commands.policy.actor import Actor, Cause
from calotype.commands.policy.policy import DEFAULT_POLICY, Policy
from calotype.http.cors import Cors
from calotype.http.errors import (
    OWN_CALLS,
    SENTENCES,
    SERVER,
    TITLES,
    error_answer,
    is_own_call,
    problem,
    status_of,
)
from calotype.http.links import HOST, Proxies
from calotype.projections.consumers.consumers import Consumers
from calotype.projections.feed.feed import Feed
from calotype.projections.feed.stream_tickets import StreamTickets
from calotype.projections.images.queries import Queries
from calotype.projections.past.as_of import Moments
from calotype.projections.webhooks.service import Webhooks
from calotype.stores.log.errors import LogFull, LogUnavailable, TooManyConflicts

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_LONGEST_REQUEST_ID = 64
log = structlog.get_logger("calotype.http")


Identify = Callable[[web.Request], Actor | Awaitable[Actor]] | Actor
"""Tells who asks: at once where that is possible, else by waiting; or is always the same."""


class Unauthenticated(CalotypeError):
    """Nobody we know asks (401); `headers` tell the client how to identify itself."""

    def __init__(self, explanation: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(explanation)
        self.headers = headers


class BodyStalled(CalotypeError):
    """No byte of the request's body came for `body_stall_seconds` (408)."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"No more of the request's body came within {seconds:g} seconds.")


@dataclass(slots=True)
class Api:
    """What handlers work with, put together by `calotype.ops.wiring.composition`."""

    context: CommandContext
    queries: Queries
    moments: Moments
    feed: Feed
    consumers: Consumers
    webhooks: Webhooks
    tickets: StreamTickets
    identify: Identify
    """Tells who asks, or is the one that everybody is. Raises Unauthenticated."""
    policy: Policy = DEFAULT_POLICY
    """The rules in force."""
    json_body_bytes: int = 4 << 20
    default_limit: int = 25
    max_limit: int = 1000
    list_bounds: dict[str, int] = field(default_factory=dict)
    """How many filters a list takes; see `parse_list`."""
    long_lists: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by a list that is long to understand until its turn has come."""
    direct_url_shown: bool = False
    public_endpoint: str = ""
    proxies: Proxies | None = None
    """Whose forwarding headers are believed; None: nobody's."""
    cors: Cors | None = None
    """What pages of other origins may do; None: nothing."""
    body_stall_seconds: float = 900.0
    """How long a client may send nothing of a body, or take nothing of image data."""
    disable_file: str = ""
    """While this file exists, /healthcheck answers 503."""
    draining: bool = False
    """Set when the process was told to stop."""
    running: int = 0
    """Requests that are being handled."""
    downloads: Downloads | None = None
    """Where downloads are noted; None: they are not recorded."""

    def use_policy(self, policy: Policy) -> None:
        """From now on requests are judged by these rules; those that run keep theirs."""
        self.policy = policy


REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
API: web.AppKey[Api] = web.AppKey("api", Api)
_ACTOR: web.RequestKey[Actor] = web.RequestKey("actor", Actor)
_ASKING: web.RequestKey[web.Request] = web.RequestKey("asking", web.Request)
"""The request that tells who asks, where it is another one."""
STREAM = "/log/v1/events"
"""The one call that takes tickets."""
_NEED_ACTOR = ("/v2/", OWN_CALLS)
ELSEWHERE: web.AppKey[Handler] = web.AppKey("elsewhere", Callable)  # type: ignore[arg-type]
"""Handles the paths that no route takes."""


@web.middleware
async def conversation(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the request its id, runs the handler, and answers for whatever it raises."""
    given = request.headers.get("X-Openstack-Request-Id", "")
    usable = given.isascii() and given.isprintable()
    if not given or not usable:
        request_id = "req-" + str(UUID(bytes=secrets.token_bytes(16), version=4))
    else:
        request_id = given if given.startswith("req-") else f"req-{given}"
    request[REQUEST_ID] = request_id
    api = request.app[API]
    api.running += 1
    try:
        if not usable:
            raise Invalid("X-Openstack-Request-Id must be printable ASCII.")
        if len(given) > _LONGEST_REQUEST_ID:
            request[REQUEST_ID] = request_id[:_LONGEST_REQUEST_ID]
            raise web.HTTPRequestHeaderFieldsTooLarge
        _check_target(request)
        unrouted = request.match_info.http_exception
        if unrouted is not None and unrouted.status == 404:
            handler = request.app[ELSEWHERE]
        if request.path.startswith(_NEED_ACTOR) and request.method != "OPTIONS":
            await identify(request)
        response = await handler(request)
    except CalotypeError as error:
        response = _refused(request, error)
    except web.HTTPException as error:
        if error.status == 405 and request.method == "OPTIONS":
            response = web.Response(status=200)
        else:
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            response = _refusal(request, error.status, _explanation(error), allow)
    except (LogFull, LogUnavailable) as error:
        log.error("event log refused", request_id=request_id, error=str(error))
        text = "The event log cannot take this now; try again."
        response = _refusal(request, 503, text, {"Retry-After": "1"})
    except RequestPayloadError:
        response = _refusal(request, 400, "The request's body is malformed.", None)
        response.force_close()
    except TooManyConflicts:
        response = _refusal(request, 409, "Others changed this image at the same moment.", None)
    except Exception as error:
        response = _failure(request, error)
    finally:
        api.running -= 1
    if api.draining:
        response.force_close()
    if not response.prepared:
        response.headers["x-openstack-request-id"] = request[REQUEST_ID]
    return response


async def adorn(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer says, also one that is sent bit by bit."""
    response.headers["Server"] = SERVER
    cors = request.app[API].cors
    if cors is not None:
        # Caches must tell origins apart also where this one was refused.
        vary = response.headers.get("Vary")
        response.headers["Vary"] = f"{vary}, Origin" if vary else "Origin"
        response.headers.update(cors.headers(request.method, request.headers))


def _check_target(request: web.Request) -> None:
    """Raises Invalid for a Host that could not stand in a link, and for bytes that are no text."""
    host = request.headers.get("Host", "")
    if host and not HOST.fullmatch(host):
        raise Invalid("The header Host must be a name or an address, and a port.")
    target = request.raw_path
    if "%" in target or not target.isascii():
        path, _, query = target.partition("?")
        for part in (path, *query.split("&")):
            try:
                unquote_to_bytes(part).decode()
            except UnicodeError:
                field = None if part is path else part.partition("=")[0][:40]
                raise Invalid("The path or the query string is not UTF-8.", field) from None


def _refused(request: web.Request, error: CalotypeError) -> web.Response:
    stalled = isinstance(error, BodyStalled)
    status = 401 if isinstance(error, Unauthenticated) else 408 if stalled else status_of(error)
    headers, field = getattr(error, "headers", None), getattr(error, "field", None)
    _log_refusal(request, error)
    response = _refusal(request, status, error.explanation, headers, field)
    if stalled:
        response.force_close()
    return response


def _log_refusal(request: web.Request, error: CalotypeError) -> None:
    """One line for the operator where a rule refused; other refusals are the caller's affair."""
    if error.decision is not None:
        log.info(
            "refused",
            rule=error.decision.rule,
            actor=error.decision.actor,
            target=f"{request.method} {request.path}",
            request_id=request[REQUEST_ID],
        )


def _failure(request: web.Request, error: Exception) -> web.Response:
    """The answer to what no part expected, noted for the operator."""
    if isinstance(error, (ConnectionError, TimeoutError)) and request.transport is None:
        # Clients vanish every day, so that is one quiet line. Nobody reads the answer.
        log.info("client vanished", request_id=request[REQUEST_ID], path=request.path)
    else:
        log.error(
            "request failed", request_id=request[REQUEST_ID], path=request.path, exc_info=error
        )
    return _refusal(request, 500, "", None)


def _refusal(
    request: web.Request,
    status: int,
    text: str,
    headers: dict[str, str] | None,
    field: str | None = None,
) -> web.Response:
    if is_own_call(request.path):
        title = TITLES.get(status) or HTTPStatus(status).phrase
        extra = {} if field is None else {"field": field.encode("utf-8", "replace").decode()}
        text = text.encode("utf-8", "replace").decode()
        response = problem(status, title, text or SENTENCES.get(status, title), **extra)
        response.headers.update(headers or {})
        return response
    return error_answer(status, text, request.headers.get("Accept"), headers=headers)


def _explanation(error: web.HTTPException) -> str:
    if error.status == 431:
        return f"x-openstack-request-id has at most {_LONGEST_REQUEST_ID} characters."
    return ""


async def identify(request: web.Request) -> None:
    """Finds out who asks, for `actor_of`. Raises Unauthenticated.

    Every call below /v2/ and /log/ is preceded by this; versions and health need nobody, and
    browsers ask for the OPTIONS without credentials.
    """
    tell = request.app[API].identify
    if not isinstance(tell, Actor) and _ACTOR not in request:
        if request.path == STREAM and "ticket" in request.query:
            request[_ASKING] = await _of_ticket(request)
        found = tell(request.get(_ASKING, request))
        request[_ACTOR] = found if isinstance(found, Actor) else await found


async def _of_ticket(request: web.Request) -> web.Request:
    """The request as the one to whom its ticket was given would have sent it."""
    headers = await request.app[API].tickets.redeem(request.query["ticket"])
    if headers is None:
        raise Unauthenticated("The ticket is used or over: get another one.")
    return request.clone(headers=headers)


async def identify_again(request: web.Request) -> Actor:
    """Who asks, found out anew and judged by the rules of now: for calls that last.

    From then on `actor_of` gives this actor. Raises what `identify` raises, because what the caller
    identified with may have ended.
    """
    tell = request.app[API].identify
    if not isinstance(tell, Actor):
        found = tell(request.get(_ASKING, request))
        request[_ACTOR] = found if isinstance(found, Actor) else await found
    return actor_of(request)


def has_ended(actor: Actor) -> bool:
    """Whether what the actor identified with is over; a service may go on with it all the same."""
    return actor.expires_at is not None and time.time() >= actor.expires_at


def seconds_left(actor: Actor) -> float:
    """Until that end; infinite where it is over already, or never comes."""
    if actor.expires_at is None or has_ended(actor):
        return math.inf
    return max(0.0, actor.expires_at - time.time())


def actor_of(request: web.Request) -> Actor:
    """Who asks, as `identify` has found out before."""
    api = request.app[API]
    tell = api.identify
    actor = tell if isinstance(tell, Actor) else request[_ACTOR]
    return actor if actor.policy is api.policy else actor.under(api.policy)


def cause_of_request(request: web.Request, actor: Actor) -> Cause:
    """The cause that events of this request carry."""
    traceparent = request.headers.get("traceparent")
    if traceparent is not None and not _TRACEPARENT.fullmatch(traceparent):
        traceparent = None
    return Cause(actor.recorded(), request[REQUEST_ID], traceparent, secrets.token_hex(8))


def refuse_body(request: web.Request) -> None:
    """Raises Invalid for a request that must not have a body but has one."""
    if request.body_exists:
        raise Invalid("This request does not accept a body.")


def body_ended(request: web.Request, seconds: float) -> Exception:
    """Why a body did not go on: its client stalled, or the kernel gave up the connection."""
    if request.transport is None:
        return ConnectionResetError("The client went away.")
    return BodyStalled(seconds)


async def json_body(request: web.Request) -> object:
    """The request's JSON body. Raises Invalid for none, malformed JSON, or a bare scalar, and
    LimitExceeded for one that is too long, of which nothing is read where its length is said."""
    api = request.app[API]
    seconds = api.body_stall_seconds
    limit = api.json_body_bytes
    too_long = LimitExceeded(
        f"The body has over {limit} bytes; no more fit (http.json_body_bytes)."
    )
    if (request.content_length or 0) > limit:
        raise too_long
    try:
        async with asyncio.timeout(seconds):
            raw = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_long from None
    except TimeoutError:
        raise body_ended(request, seconds) from None
    if not raw:
        raise Invalid("The request needs a JSON body.")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"The body is not valid JSON: {error}") from None
    if not isinstance(body, (dict, list)):
        raise Invalid("The body must be a JSON object or array.")
    return body


async def json_object(request: web.Request) -> dict[str, object]:
    """The request's body if it is a JSON object. Raises Invalid otherwise."""
    body = await json_body(request)
    if not isinstance(body, dict):
        raise Invalid("The body must be a JSON object.")
    return body


def json_answer(body: bytes, status: int = 200) -> web.Response:
    """An answer with a JSON body that is ready to send."""
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json"})
