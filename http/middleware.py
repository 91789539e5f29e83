"""What surrounds a request: its id, its caller, and where errors become answers."""

import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote_to_bytes
from uuid import UUID

import orjson
from aiohttp import web

from calotype.commands.context import CommandContext
from calotype.commands.errors import Invalid
from calotype.commands.images.downloads import Downloads
from calotype.commands.images.image import image_uuid
from calotype.commands.policy.actor import Actor, Cause
from calotype.commands.policy.policy import DEFAULT_POLICY, Policy
from calotype.http.cors import Cors
from calotype.http.errors import OWN_CALLS, SERVER, HeaderTooLong, Unauthenticated, answer_to
from calotype.http.identity.identity import Identity
from calotype.http.links import HOST, Proxies
from calotype.http.v2.long_queries import LongQueries
from calotype.projections.consumers.consumers import Consumers
from calotype.projections.feed.feed import Feed
from calotype.projections.feed.stream_tickets import StreamTickets
from calotype.projections.images.queries import Queries
from calotype.projections.past.as_of import Moments
from calotype.projections.webhooks.service import Webhooks

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_LONGEST_REQUEST_ID = 64


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
    identity: Identity
    """Finds out who calls."""
    policy: Policy = DEFAULT_POLICY
    """The rules in force."""
    json_body_bytes: int = 4 << 20
    default_limit: int = 25
    max_limit: int = 1000
    list_bounds: dict[str, int] = field(default_factory=dict)
    """How many filters a list takes; see `parse_list`."""
    long_queries: LongQueries = field(default_factory=LongQueries)
    """Lists whose query strings are long wait here for their turn."""
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


API: web.AppKey[Api] = web.AppKey("api", Api)
STREAM = "/log/v1/events"
"""The one call that takes tickets."""
_NEED_CALLER = ("/v2/", OWN_CALLS)


@dataclass(eq=False)
class Call:
    """A request as its handler sees it."""

    request: web.Request
    api: Api
    request_id: str
    _caller: Actor | None = None
    _credentials: web.Request | None = None
    """The request that says who calls, where it is another one."""

    async def admit(self, handler: "Handler") -> None:
        """Finds out who calls, and refuses a body that the handler would not read.

        Raises Unauthenticated and Invalid. Versions and health need no caller, and browsers send
        OPTIONS without credentials.
        """
        request = self.request
        if request.path.startswith(_NEED_CALLER) and request.method != "OPTIONS":
            await self.identify()
        if request.body_exists and handler in request.app[BODILESS]:
            raise Invalid("This request does not accept a body.")

    async def identify(self) -> None:
        """Finds out who calls; calls that last ask again.

        Raises Unauthenticated, because what the caller identified with may have ended.
        """
        request = self.request
        if self._credentials is None:
            ticket = request.path == STREAM and "ticket" in request.query
            self._credentials = await self._of_ticket() if ticket else request
        found = self.api.identity.identify(self._credentials)
        self._caller = found if isinstance(found, Actor) else await found

    async def _of_ticket(self) -> web.Request:
        """The request as the one to whom its ticket was given would have sent it."""
        headers = await self.api.tickets.redeem(self.request.query["ticket"])
        if headers is None:
            raise Unauthenticated("The ticket is used or over: get another one.")
        return self.request.clone(headers=headers)

    @property
    def actor(self) -> Actor:
        """The caller as `identify` found it, judged by the rules of now."""
        actor = self._caller
        assert actor is not None
        if actor.policy is not self.api.policy:
            actor = self._caller = actor.under(self.api.policy)
        return actor

    @cached_property
    def cause(self) -> Cause:
        """The cause that events of this request carry."""
        traceparent = self.request.headers.get("traceparent")
        if traceparent is not None and not _TRACEPARENT.fullmatch(traceparent):
            traceparent = None
        return Cause(self.actor.recorded(), self.request_id, traceparent, secrets.token_hex(8))

    @cached_property
    def image_id(self) -> UUID:
        """The image that the path names. Raises NotFound for what is no UUID."""
        return image_uuid(self.request.match_info["image_id"])

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.request.transport is None


Handler = Callable[[Call], Awaitable[web.StreamResponse | None]]
"""Answers a call; None: 204, there is nothing to say."""
BODILESS: web.AppKey[frozenset[Handler]] = web.AppKey("bodiless", frozenset)
"""Handlers of requests that have no body."""
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
    call = Call(request, request.app[API], request_id)
    call.api.running += 1
    try:
        if not usable:
            raise Invalid("X-Openstack-Request-Id must be printable ASCII.")
        if len(given) > _LONGEST_REQUEST_ID:
            call.request_id = request_id[:_LONGEST_REQUEST_ID]
            raise HeaderTooLong(
                f"x-openstack-request-id has at most {_LONGEST_REQUEST_ID} characters."
            )
        _check_target(request)
        unrouted = request.match_info.http_exception
        if unrouted is not None and unrouted.status == 404:
            handler = request.app[ELSEWHERE]
        await call.admit(handler)
        response = await handler(call)
        if response is None:
            response = web.Response(status=204)
    except Exception as error:
        response = answer_to(request, error, call.request_id)
    finally:
        call.api.running -= 1
    if call.api.draining:
        response.force_close()
    if not response.prepared:
        response.headers["x-openstack-request-id"] = call.request_id
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


def has_ended(actor: Actor) -> bool:
    """Whether what the actor identified with is over; a service may go on with it all the same."""
    return actor.expires_at is not None and time.time() >= actor.expires_at


def seconds_left(actor: Actor) -> float:
    """Until that end; infinite where it is over already, or never comes."""
    if actor.expires_at is None or has_ended(actor):
        return math.inf
    return max(0.0, actor.expires_at - time.time())


def json_answer(
    content: object, status: int = 200, *, media: str = "application/json", caching: str = ""
) -> web.Response:
    """An answer with a JSON body, which may be bytes that are ready to send."""
    headers = {"Content-Type": media}
    if caching:
        headers["Cache-Control"] = caching
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    return web.Response(body=body, status=status, headers=headers)
