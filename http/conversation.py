"""What surrounds a request: its id, its actor, and where errors become answers."""

import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from uuid import UUID

import orjson
import structlog
from aiohttp import web

from calotype.commands.downloads import Downloads
from calotype.commands.errors import CalotypeError, Invalid
from calotype.commands.parts import Parts
from calotype.commands.policy import DEFAULT_POLICY, Actor, Cause, Policy
from calotype.http.errors import OWN_CALLS, SENTENCES, TITLES, error_answer, problem, status_of
from calotype.projections.consumers import Consumers
from calotype.projections.feed import Feed
from calotype.projections.moments import Moments
from calotype.projections.queries import Queries
from calotype.projections.webhooks.calls import Webhooks
from calotype.stores.log.log import LogFull, LogUnavailable, TooManyConflicts

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


@dataclass(slots=True)
class Api:
    """What handlers work with, put together by `calotype.ops.wiring`."""

    parts: Parts
    queries: Queries
    moments: Moments
    feed: Feed
    consumers: Consumers
    webhooks: Webhooks
    identify: Identify
    """Tells who asks, or is the one that everybody is. Raises Unauthenticated."""
    policy: Policy = DEFAULT_POLICY
    """The rules in force."""
    default_limit: int = 25
    max_limit: int = 1000
    direct_url_shown: bool = False
    public_endpoint: str = ""
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
_NEED_ACTOR = ("/v2/", OWN_CALLS)
ELSEWHERE: web.AppKey[Handler] = web.AppKey("elsewhere", Callable)  # type: ignore[arg-type]
"""Handles the paths that no route takes."""


@web.middleware
async def conversation(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the request its id, runs the handler, and answers for whatever it raises."""
    given = request.headers.get("X-Openstack-Request-Id", "")
    if not given:
        request_id = "req-" + str(UUID(bytes=secrets.token_bytes(16), version=4))
    else:
        request_id = given if given.startswith("req-") else f"req-{given}"
    request[REQUEST_ID] = request_id
    api = request.app[API]
    api.running += 1
    try:
        if len(given) > _LONGEST_REQUEST_ID:
            request[REQUEST_ID] = request_id[:_LONGEST_REQUEST_ID]
            raise web.HTTPRequestHeaderFieldsTooLarge
        unrouted = request.match_info.http_exception
        if unrouted is not None and unrouted.status == 404:
            handler = request.app[ELSEWHERE]
        if request.path.startswith(_NEED_ACTOR) and request.method != "OPTIONS":
            await identify(request)
        response = await handler(request)
    except CalotypeError as error:
        status = 401 if isinstance(error, Unauthenticated) else status_of(error)
        headers = getattr(error, "headers", None)
        field = getattr(error, "field", None)
        _log_refusal(request, error)
        response = _refusal(request, status, error.explanation, headers, field)
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
    if isinstance(error, ConnectionError) and request.transport is None:
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
    if request.path.startswith(OWN_CALLS):
        title = TITLES.get(status) or HTTPStatus(status).phrase
        extra = {} if field is None else {"field": field}
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
        found = tell(request)
        request[_ACTOR] = found if isinstance(found, Actor) else await found


async def identify_again(request: web.Request) -> Actor:
    """Who asks, found out anew and judged by the rules of now: for calls that last.

    From then on `actor_of` gives this actor. Raises what `identify` raises, because what the caller
    identified with may have ended.
    """
    tell = request.app[API].identify
    if not isinstance(tell, Actor):
        found = tell(request)
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


async def json_body(request: web.Request) -> object:
    """The request's JSON body. Raises Invalid for none, malformed JSON, or a bare scalar."""
    raw = await request.read()
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
