"""What callers do with webhooks: make, change, look at, try out, and redeliver.

A project has its own, which get what its feed shows; those of operators get everything.
"""

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson

from calotype.commands.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from calotype.commands.images.events import clock_text
from calotype.commands.policy.actor import Actor, with_implied
from calotype.commands.policy.policy import Policy, may, require_call
from calotype.commands.policy.protections import Readable
from calotype.projections.consumers.account import Subscription
from calotype.projections.consumers.consumers import Consumers
from calotype.projections.consumers.status import described_now, described_parked, moment_text
from calotype.projections.feed.cloudevents import source_of, type_of
from calotype.projections.feed.feed import known_types
from calotype.projections.webhooks.attempt import Outbound, Result
from calotype.projections.webhooks.endpoint_worker import consumer_name
from calotype.projections.webhooks.endpoints import MISSING, Endpoint, Endpoints
from calotype.projections.webhooks.signing import signed_headers
from calotype.projections.webhooks.vault import Locked

READ, CHANGE, ALL = "get_webhooks", "modify_webhooks", "manage_all_webhooks"
"""The rules of the policy: reading one's own, changing them, and those of everybody."""
TEST_EVENT = type_of("webhook.test")
TESTS_AT_ONCE = 8
LONGEST_OVERLAP_SECONDS = 30 * 86400.0
_OF_CONSUMER = ("position", "lag", "waiting", "parked", "stopped")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller wants a webhook to be."""

    url: str
    types: tuple[str, ...] = ()
    """Only these event types; empty for all."""
    enabled: bool = True
    start: str = "now"
    """Of a new one: `now`, `beginning`, or the position after which it begins."""


@dataclass(frozen=True, slots=True)
class TestResult:
    """What came of a test message."""

    message_id: str
    result: Result
    seconds: float


def owner_of(actor: Actor, rule: str, asked: str | None) -> str:
    """Whose webhooks a call is about; empty: those of operators. Raises Forbidden.

    `asked` is the project that the caller names, which only those may who manage all.
    """
    if may(actor, ALL):
        return asked or ""
    require_call(actor, rule)
    if actor.project is None:
        raise Forbidden("Only administrators have webhooks without a project.")
    if asked not in (None, actor.project):
        raise Forbidden("Only administrators reach the webhooks of other projects.")
    return actor.project


def recipient(project: str, policy: Policy) -> Actor:
    """Who an endpoint counts as where the policy is asked what it may read.

    Not its maker, who may have lost roles since: a member of the project that it belongs to, or an
    administrator.
    """
    roles = with_implied({"member" if project else "admin"})
    return Actor(None, project or None, roles, policy=policy)


class Webhooks:
    """The webhooks of one log; every process has the same."""

    def __init__(
        self, endpoints: Endpoints, consumers: Consumers, outbound: Outbound, attempts: int
    ):
        self.endpoints = endpoints
        self.consumers = consumers
        self.outbound = outbound
        self._attempts = attempts
        self._tests = 0

    async def put(self, project: str, name: str, wanted: Wanted) -> tuple[Endpoint, str | None]:
        """Makes or changes a webhook; its secret too, when it is new, for the only time.

        Raises Invalid naming the field that is wrong, and LimitExceeded.
        """
        if not _NAME.fullmatch(name):
            raise Invalid(
                "A webhook's name has 1 to 63 small letters, digits, '.', '_' and '-', and begins "
                "with a letter or digit.",
                "name",
            )
        self.outbound.destinations.checked_url(wanted.url)
        types = known_types(wanted.types)
        consumer = (project or None, consumer_name(name))
        start = await self._start(wanted.start)
        known = await self._known(project, name)
        if not known:
            # Of one that was deleted half-way nothing must be left.
            with suppress(NotFound):
                await self.consumers.delete(*consumer)
        # First the consumer, because an endpoint without one could not be delivered to.
        subscription = Subscription(types, max_attempts=self._attempts)
        await self.consumers.put(*consumer, subscription, start=start)
        try:
            made = await self.endpoints.put(
                project, name, wanted.url, types, enabled=wanted.enabled
            )
        except Exception:
            if not known:
                with suppress(NotFound):
                    await self.consumers.delete(*consumer)
            raise
        with suppress(NotFound):  # Somebody deletes it at the same moment.
            await self.consumers.hurry(*consumer)
        return made

    async def get(self, project: str, name: str) -> Endpoint:
        """Raises NotFound."""
        return await self.endpoints.get(project, _plain(name))

    async def described(self, endpoint: Endpoint) -> dict[str, Any]:
        """A webhook as callers see it, and how far its messages are."""
        consumer = (endpoint.project or None, consumer_name(endpoint.name))
        with suppress(NotFound):  # It is just being deleted.
            told = await described_now(self.consumers, await self.consumers.get(*consumer))
            return {**shown(endpoint), **{name: told[name] for name in _OF_CONSUMER}}
        return shown(endpoint)

    async def all_of(self, project: str | None) -> list[Endpoint]:
        """The webhooks of a project by name; None: of everybody."""
        if project is None:
            return await self.endpoints.all()
        return await self.endpoints.of_project(project)

    async def delete(self, project: str, name: str) -> None:
        """What is not delivered yet never will be. Raises NotFound."""
        await self.endpoints.delete(project, _plain(name))
        with suppress(NotFound):
            await self.consumers.delete(project or None, consumer_name(name))

    async def rotate(self, project: str, name: str, overlap_seconds: float) -> str:
        """A new secret, for the only time; the former signs beside it for so long.

        Raises NotFound, and Conflict where the former cannot be read.
        """
        if not 0 <= overlap_seconds <= LONGEST_OVERLAP_SECONDS:
            raise Invalid(
                f"'overlap_seconds' must be from 0 to {LONGEST_OVERLAP_SECONDS:.0f}.",
                "overlap_seconds",
            )
        try:
            return await self.endpoints.rotate(project, _plain(name), overlap_seconds)
        except Locked as error:
            raise Conflict(f"The present secret cannot be read: {error}.") from None

    async def test(self, project: str, name: str) -> TestResult:
        """Sends a test message at once, whether the webhook is enabled or not.

        It is signed and sent as all are, once, and changes nothing. Raises NotFound, Conflict
        where the secret cannot be read, and Unavailable when too many tests run.
        """
        endpoint = await self.get(project, name)
        try:
            secrets = self.endpoints.secrets_now(endpoint)
        except Locked as error:
            raise Conflict(f"The secret cannot be read: {error}.") from None
        if self._tests >= TESTS_AT_ONCE:
            raise Unavailable("Too many webhooks are being tested; try again.")
        message = f"test-{uuid4()}"
        body = await self._test_event(message, endpoint)
        headers = signed_headers(message, int(time.time()), body, secrets)
        started = time.monotonic()
        self._tests += 1
        try:
            async with self.outbound.sender() as sender:
                result = await sender.send(endpoint.url, headers, body)
        finally:
            self._tests -= 1
        return TestResult(message, result, time.monotonic() - started)

    async def parked(
        self, project: str, name: str, after: int, limit: int, readable: Readable | None = None
    ) -> list[dict[str, Any]]:
        """Messages that failed too often, in the order of the log, as callers see them.

        `readable` tells which properties of images may be shown. Raises NotFound.
        """
        await self.get(project, name)
        positions = await self.consumers.feed.positions()
        found = await self.consumers.parked(
            project or None, consumer_name(name), after=after, limit=limit
        )
        return [described_parked(positions, one, readable) for one in found]

    async def redeliver(self, project: str, name: str, position: int | None) -> int:
        """Sends a parked message again (None: all of them); how many these are.

        Raises NotFound, also where nothing is parked at the position.
        """
        await self.get(project, name)
        positions = None if position is None else [position]
        done = await self.consumers.redeliver(project or None, consumer_name(name), positions)
        if position is not None and not done:
            raise NotFound("No message is parked at this position.")
        return len(done)

    async def position(self, text: str, field: str) -> int:
        """The position. Raises Invalid naming `field` for one that this log has not reached."""
        return await self.consumers.feed.decode(text, field)

    async def _known(self, project: str, name: str) -> bool:
        try:
            await self.get(project, name)
        except NotFound:
            return False
        return True

    async def _start(self, text: str) -> int:
        if text == "now":
            return await self.consumers.feed.head()
        if text == "beginning":
            return 0
        return await self.consumers.feed.decode(text, "start")

    async def _test_event(self, message: str, endpoint: Endpoint) -> bytes:
        positions = await self.consumers.feed.positions()
        return orjson.dumps(
            {
                "specversion": "1.0",
                "id": message,
                "source": source_of(positions, await self.consumers.feed.head()),
                "type": TEST_EVENT,
                "time": clock_text(datetime.now(UTC)),
                "datacontenttype": "application/json",
                "data": {"webhook": endpoint.name},
            }
        )


def _plain(name: str) -> str:
    """The name. Raises NotFound for one that no webhook can have, and no database need see."""
    if not _NAME.fullmatch(name):
        raise NotFound(MISSING)
    return name


def shown(endpoint: Endpoint) -> dict[str, Any]:
    """A webhook as callers see it, without its secrets."""
    state = "delivering"
    if endpoint.disabled:
        state = "disabled"
    elif endpoint.failing_since is not None:
        state = "failing"
    return {
        "name": endpoint.name,
        "project": endpoint.project or None,
        "url": endpoint.url,
        "types": endpoint.types,
        "enabled": not endpoint.disabled,
        "state": state,
        "disabled_because": endpoint.disabled or None,
        "created_at": _time(endpoint.created_at),
        "failures": endpoint.failures,
        "failing_since": _time(endpoint.failing_since),
        "last_failure_at": _time(endpoint.failed_at),
        "last_error": endpoint.last_error or None,
        "next_try_at": _time(endpoint.next_try_at),
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else moment_text(seconds)
