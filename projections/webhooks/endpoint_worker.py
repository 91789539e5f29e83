"""The worker of one endpoint: claims its messages, sends them side by side, and answers for them.

An endpoint is a consumer whose only member is the process that delivers, so its position, the order
of each image, attempts and parked events are kept where those of all consumers are. A claim is
short, and prolonged while its delivery lasts: what a process had claimed when it died is handed out
again soon, and never while another process still delivers it.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import orjson
import structlog

from calotype.commands.errors import NotFound
from calotype.commands.policy.protections import Readable
from calotype.projections.consumers.claims import Answer
from calotype.projections.consumers.consumers import Consumers, Delivery
from calotype.projections.engine.rounds import FIRST_PAUSE_SECONDS, Rounds
from calotype.projections.feed.cloudevents import readable_event
from calotype.projections.webhooks.attempt import Result, Sender
from calotype.projections.webhooks.endpoints import Endpoint, Endpoints
from calotype.projections.webhooks.health import Health, Patience
from calotype.projections.webhooks.signing import message_id, signed_headers
from calotype.projections.webhooks.vault import Locked

CLAIM_SECONDS = 8.0
PROLONG_SECONDS = 3.0
"""A delivery that lasts longer than this has its claim prolonged, again and again."""
IDLE_SECONDS = 5.0
"""So often an endpoint without news is looked at: redelivery in other processes wakes no worker."""
TELL_SECONDS = 1.0
"""The delivery status of an endpoint is stored so often at most."""
LATE_SECONDS = 0.05
"""So much later than it is due a message is asked for, because clocks differ."""
FAREWELL_SECONDS = 3.0
"""How long running deliveries may take when the worker ends."""
_ANYTHING_NEW = 1 << 62
"""A position that is never reached: who waits beyond it is woken by the next commit."""

log = structlog.get_logger("calotype.webhooks")


def consumer_name(name: str) -> str:
    """The name of the consumer that a webhook is; callers can give no such name."""
    return f"webhook:{name}"


class SharedSlots:
    """How many deliveries of a process run at once, beyond the one that every endpoint has.

    So endpoints that are slow can hold what they share, and never the first place of another.
    """

    def __init__(self, count: int) -> None:
        self.free = count

    def take(self, wanted: int) -> int:
        """Takes as many of these as are free; how many that were."""
        taken = max(0, min(wanted, self.free))
        self.free -= taken
        return taken


@dataclass(slots=True, eq=False)
class Running:
    """A delivery under way, or over and not answered yet."""

    delivery: Delivery
    nonce: str
    started: float
    """Seconds since 1970."""
    claimed_until: float
    """By the clock of the event loop."""
    task: "asyncio.Task[Result | None]" = field(init=False)
    answer: Answer | None = None


class EndpointWorker:
    """Brings one endpoint its messages: of an image one after the other, of several at once.

    `readable` tells which properties of images the endpoint may know of now.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        endpoints: Endpoints,
        consumers: Consumers,
        sender: Sender,
        patience: Patience,
        places: SharedSlots,
        most_at_once: int,
        member: str,
        readable: Callable[[], Readable | None],
    ) -> None:
        self.endpoint = endpoint
        self._consumer = (endpoint.project or None, consumer_name(endpoint.name))
        self._endpoints = endpoints
        self._consumers = consumers
        self._sender = sender
        self._places = places
        self._most_at_once = most_at_once
        self._member = member
        self._readable = readable
        self._health = Health(endpoint, patience)
        self._told = self._health.fares
        self._told_at = 0.0
        self._running: list[Running] = []
        self._outdated = False
        self._extra_places = 0
        self._due: dict[int, float] = {}
        """When messages that failed are due again: loop time by position."""

    async def run(self) -> None:
        """Delivers until cancelled; a failure of ours is tried again after a growing pause."""
        try:
            await Rounds("webhook", self._round, webhook=self.endpoint.key).run()
        finally:
            await self._leave()

    async def prolong(self) -> None:
        """Prolongs the claims of deliveries that take long."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + CLAIM_SECONDS - PROLONG_SECONDS
        long = [one for one in self._running if one.claimed_until < latest and one.answer is None]
        if not long:
            return
        until = loop.time() + CLAIM_SECONDS
        answers = [
            Answer(one.delivery.position, one.nonce, "extend", seconds=CLAIM_SECONDS)
            for one in long
        ]
        outcomes = await self._consumers.answer(*self._consumer, answers)
        for one, outcome in zip(long, outcomes, strict=True):
            if outcome == "extended":
                one.claimed_until = until
            elif outcome == "expired":
                one.task.cancel()  # Somebody else has it by now.

    async def _round(self) -> None:
        """One round of deliveries; a short rest where somebody is deleting the endpoint."""
        try:
            await self._deliver_some()
        except NotFound:
            await asyncio.sleep(FIRST_PAUSE_SECONDS)

    async def _deliver_some(self) -> None:
        """Answers what is done, takes what there is room for, and waits for more of either."""
        await self._answer_done()
        await self._tell()
        watcher = self._consumers.feed.watcher
        # Whoever looks first and then waits misses what comes in between.
        news = asyncio.ensure_future(watcher.wait(self._consumer[0], _ANYTHING_NEW, IDLE_SECONDS))
        await asyncio.sleep(0)
        try:
            has_room = await self._take()
            waits: set[asyncio.Future[object]] = {one.task for one in self._running}  # type: ignore[misc]
            if has_room and not watcher.ended:
                waits.add(news)  # type: ignore[arg-type]
            await _first_of(waits, self._wait_seconds(has_room))
        finally:
            news.cancel()

    async def _take(self) -> bool:
        """Claims messages and begins to deliver them; whether more could be delivered."""
        if not self._may_send():
            return False
        room = self._make_room()
        if not room:
            return False
        loop = asyncio.get_running_loop()
        claimed_until = loop.time() + CLAIM_SECONDS
        try:
            deliveries = await self._consumers.fetch(
                *self._consumer, member=self._member, limit=room, ack_seconds=CLAIM_SECONDS
            )
            if deliveries and await self._is_outdated():
                await self._release(deliveries)
                return False
            for delivery in deliveries:
                self._begin(delivery, await self._nonce_of(delivery), claimed_until)
        finally:
            self._give_places_back()
        has_room = len(deliveries) < room
        if has_room:  # What is due and was not handed out is somebody else's, or gone.
            self._due = {key: due for key, due in self._due.items() if due > loop.time()}
        return has_room

    def _may_send(self) -> bool:
        now = time.time()
        if self._outdated or self._health.fares.disabled or self._health.wait_seconds(now) > 0:
            return False
        try:
            self._endpoints.secrets_now(self.endpoint)
        except Locked as error:
            self._health.stuck(f"the secret cannot be read: {error}", now)
            return False
        return True

    def _make_room(self) -> int:
        """How many more messages may be sent now; takes the places that they need."""
        most = 1 if self._health.probing else self._most_at_once
        wanted = most - len(self._running)
        if wanted <= 0:
            return 0
        own = 0 if self._running else 1
        extra = self._places.take(wanted - own)
        self._extra_places += extra
        return own + extra

    def _give_places_back(self) -> None:
        needed = max(0, len(self._running) - 1)
        self._places.free += self._extra_places - needed
        self._extra_places = needed

    async def _is_outdated(self) -> bool:
        """Whether a caller has changed the endpoint: what was claimed since goes the new way."""
        try:
            endpoint = await self._endpoints.get(*self.endpoint.key)
        except NotFound:
            self._outdated = True
        else:
            self._outdated = endpoint.revision != self.endpoint.revision
        return self._outdated

    async def _release(self, deliveries: Sequence[Delivery]) -> None:
        answers = [Answer(one.position, await self._nonce_of(one), "release") for one in deliveries]
        await self._consumers.answer(*self._consumer, answers)

    async def _nonce_of(self, delivery: Delivery) -> str:
        _, nonce = await self._consumers.token_parts(delivery.token, "token")
        return nonce

    def _begin(self, delivery: Delivery, nonce: str, claimed_until: float) -> None:
        running = Running(delivery, nonce, time.time(), claimed_until)
        running.task = asyncio.create_task(self._deliver(running))
        self._running.append(running)
        self._due.pop(delivery.position, None)

    async def _deliver(self, running: Running) -> Result | None:
        """One attempt; None where the claim was over before it began."""
        if asyncio.get_running_loop().time() >= running.claimed_until:
            return None  # This process stood still meanwhile.
        body = readable_event(running.delivery.event, self._readable())
        event = orjson.loads(body)
        headers = signed_headers(
            message_id(event["source"], event["id"]),
            int(time.time()),
            body,
            self._endpoints.secrets_now(self.endpoint),
        )
        return await self._sender.send(self.endpoint.url, headers, body)

    async def _answer_done(self) -> None:
        was_down = self._health.probing
        done = [one for one in self._running if one.task.done()]
        for one in done:
            if one.answer is None and (result := _result_of(one.task)) is not None:
                one.answer = self._answer_to(one, result)
        answers = [one.answer for one in done if one.answer is not None]
        if answers:
            outcomes = await self._consumers.answer(*self._consumer, answers)
            for answer, outcome in zip(answers, outcomes, strict=True):
                if outcome != "failed":
                    self._due.pop(answer.position, None)
                if outcome == "parked":
                    key, why = self.endpoint.key, answer.error
                    where = (await self._consumers.feed.positions()).encode(answer.position)
                    log.warning("webhook parked", webhook=key, position=where, error=why)
        self._forget(done)
        if was_down and not self._health.probing:
            # It takes messages again: what failed meanwhile need not wait for hours.
            await self._consumers.hurry(*self._consumer)
            self._due.clear()

    def _answer_to(self, one: Running, result: Result) -> Answer:
        now = time.time()
        self._health.note(result, one.started, now)
        position = one.delivery.position
        if result.delivered:
            return Answer(position, one.nonce, "acknowledge")
        seconds = self._health.retry_seconds(result, one.delivery.attempt)
        self._due[position] = asyncio.get_running_loop().time() + seconds + LATE_SECONDS
        return Answer(position, one.nonce, "fail", error=result.error, seconds=seconds)

    def _forget(self, done: Iterable[Running]) -> None:
        for one in done:
            self._running.remove(one)
        self._give_places_back()

    async def _tell(self) -> None:
        """Stores how the endpoint fares, where that has changed."""
        fares = self._health.fares
        if fares == self._told:
            return
        if fares.disabled == self._told.disabled and time.time() - self._told_at < TELL_SECONDS:
            return
        await self._endpoints.tell(self.endpoint, fares)
        if fares.disabled:
            log.warning("webhook disabled", webhook=self.endpoint.key, why=fares.disabled)
        self._told, self._told_at = fares, time.time()

    def _wait_seconds(self, has_room: bool) -> float:
        seconds = IDLE_SECONDS
        if self._health.fares != self._told or self._consumers.feed.watcher.ended:
            seconds = TELL_SECONDS
        pause_seconds = self._health.wait_seconds(time.time())
        if pause_seconds > 0:
            return min(seconds, pause_seconds)
        if not has_room:
            return seconds
        now = asyncio.get_running_loop().time()
        return max(0.0, min([seconds, *(due - now for due in self._due.values())]))

    async def _leave(self) -> None:
        """Lets what is under way end soon, and gives back what does not."""
        await _all_of([one.task for one in self._running], FAREWELL_SECONDS)
        released: list[Answer] = []
        for one in self._running:
            if not one.task.done():
                one.task.cancel()
                released.append(Answer(one.delivery.position, one.nonce, "release"))
        await _all_of([one.task for one in self._running], FAREWELL_SECONDS)
        # What cannot be said now shows itself: claims end, and it is delivered again.
        with suppress(Exception):
            await self._answer_done()
            await self._tell()
        if released:
            with suppress(Exception):
                await self._consumers.answer(*self._consumer, released)
        self._running.clear()
        self._give_places_back()


def _result_of(task: "asyncio.Task[Result | None]") -> Result | None:
    if task.cancelled():
        return None
    error = task.exception()
    if error is not None:
        log.error("webhook not sent", exc_info=error)
        return Result("the service could not send it")
    return task.result()


async def _first_of(waits: "set[asyncio.Future[object]]", seconds: float) -> None:
    if waits:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    else:
        await asyncio.sleep(seconds)


async def _all_of(tasks: "list[asyncio.Task[Result | None]]", seconds: float) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)
