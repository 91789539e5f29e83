"""Named consumers: the service keeps the position, and members share the work.

A consumer reads the feed of a project, or that of operators. Members fetch events, work, and
answer; what is not answered in time is handed out again, and what fails too often is parked. At
least once, in the order of each image, and never to two members at once while a claim holds. All of
it is rows that change in transactions of the log's database, one at a time for each consumer, so
any member may talk to any process, and a process that is killed takes nothing with it.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import orjson

from calotype.commands.errors import LimitExceeded, NotFound, Unavailable
from calotype.commands.images.download import DataSent
from calotype.commands.images.events import clock_text
from calotype.projections.consumers import account
from calotype.projections.consumers import claims as consumer_answers
from calotype.projections.consumers.account import (
    Claim,
    Consumer,
    FeedSlice,
    Key,
    QueueState,
    Subscription,
    key_of,
    mine,
)
from calotype.projections.consumers.claims import Answer, Outcome
from calotype.projections.feed.cloudevents import topic_of
from calotype.projections.feed.feed import PAGE_BYTES, Feed, Page, Question
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.statements import Fetch

CONSUMERS_LIMIT = 100
"""How many consumers a feed has at most, without those of the service itself."""
OWN_MARK = ":"
"""Stands in the names of the service's own consumers, and in no other."""
READ_EVENTS = 100
"""At least so many events are looked for at once."""
SKIPPED_EVENTS = 1000
"""So many unwanted events are worth a write, not to be looked at again."""
LOOK_SECONDS = 1.0
"""Who waits looks again so often: what other processes settle wakes nobody here."""
SEARCH_SECONDS = 5.0
"""How long one request looks for rare events, if it may not wait longer anyway."""
NOTED_SECONDS = 30.0
"""How old the note of when a member asked may be."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that is handed out, until the claim ends or is answered."""

    position: int
    image: str
    event: bytes
    """The CloudEvent, in the view of the consumer's project."""
    token: str
    """What `Consumers.answer` wants to hear; opaque outside."""
    attempt: int
    """Counting from 1; a release does not count."""
    deadline: float
    """Seconds since 1970, by the clock of the database."""


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that is handed out no more until somebody says so."""

    position: int
    image: str
    attempts: int
    error: str | None
    since: float
    event: bytes | None
    """None while the feed is being made again, and where those before it are long already: it is
    there on a page that begins with it."""


class Consumers:
    """All consumers of one log; every process has the same. Projects are as `Feed` knows them:
    None is the feed of operators."""

    def __init__(self, recorder: GroupCommitRecorder, feed: Feed) -> None:
        self.feed = feed
        self.recorder = recorder
        self._waiting: dict[Key, set[asyncio.Event]] = {}

    # ---- consumers ----

    async def put(
        self,
        project: str | None,
        name: str,
        subscription: Subscription,
        *,
        start: int = 0,
        created_by: str | None = None,
    ) -> tuple[Consumer, bool]:
        """Makes the consumer, to begin after the position `start`, or changes its subscription.

        Gives the consumer, and whether it is new.

        Changed types and images count for what it has not taken from the feed yet. Raises
        LimitExceeded for one consumer too many.
        """
        if OWN_MARK not in name:
            await self._refuse_too_many(key_of(project, name))

        def work(fetch: Fetch) -> tuple[Consumer, bool]:
            there = account.loaded(fetch, key_of(project, name))
            if there is not None and there.subscription == subscription:
                return there, False
            revision = secrets.token_hex(8)
            if there is not None:
                changed = replace(there, subscription=subscription, revision=revision)
            else:
                now = clock_text(datetime.now(UTC))
                changed = Consumer(project, name, revision, subscription, start, now, created_by)
            account.save(fetch, changed)
            return changed, there is None

        return await self._transact(key_of(project, name), work)

    async def get(self, project: str | None, name: str) -> Consumer:
        """Raises NotFound for one that does not exist."""
        found = await self._select("feed = :feed AND name = :name", key_of(project, name))
        if not found:
            raise NotFound(f"There is no consumer '{name}' here.", "name")
        return found[0]

    async def of_feed(self, project: str | None) -> list[Consumer]:
        """The consumers of this feed by name, also those of the service itself."""
        return await self._select("feed = :feed ORDER BY name", key_of(project, ""))

    async def all(self) -> list[Consumer]:
        """The consumers of all feeds."""
        return await self._select("true ORDER BY feed, name", key_of(None, ""))

    async def delete(self, project: str | None, name: str) -> None:
        """Takes the consumer away with all that it had. Raises NotFound."""
        key = key_of(project, name)
        await self._change(key, lambda fetch, consumer: account.remove(fetch, key))

    async def seek(self, project: str | None, name: str, position: int) -> Consumer:
        """Goes on after this position: claims end, and what is parked after it is taken again.

        Raises NotFound.
        """

        def work(fetch: Fetch, consumer: Consumer) -> Consumer:
            account.drop_open(fetch, consumer.key, position)
            moved = replace(consumer, taken_to=position, revision=secrets.token_hex(8))
            account.save(fetch, moved)
            return moved

        return await self._change(key_of(project, name), work)

    # ---- the work ----

    async def fetch(
        self,
        project: str | None,
        name: str,
        *,
        member: str,
        limit: int = 100,
        ack_seconds: float = 60.0,
        wait_seconds: float = 0.0,
        gone: Callable[[], bool] = lambda: False,
    ) -> list[Delivery]:
        """Claims up to `limit` events for the member, each of another image, for `ack_seconds`.

        While there is none, waits so long for one. `gone` tells that nobody would get the answer;
        then nothing is claimed. Raises NotFound.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        deadline = start + wait_seconds
        found: FeedSlice | None = None
        with self._stirring(key_of(project, name)) as stirred:
            while True:
                stirred.clear()
                consumer = await self.get(project, name)
                look = await self._look(consumer, member)
                found, page = await self._search(consumer, look, found, limit)
                more = page.full and loop.time() < max(deadline, start + SEARCH_SECONDS)
                if gone():
                    return []
                if _is_worth_a_write(consumer, look, found, more):
                    claims = await self._claim(consumer, found, member, limit, ack_seconds)
                    if claims:
                        return await self._deliveries(consumer, claims, dict(page.events))
                left = deadline - loop.time()
                if not more and (left <= 0 or self.feed.watcher.ended):
                    return []
                if not more:
                    await self._pause(consumer, look, found.end, left, stirred)

    async def answer(
        self, project: str | None, name: str, answers: Sequence[Answer]
    ) -> list[Outcome]:
        """What became of each answer, in their order. Saying the same again does no harm.

        Positions must be different. Raises NotFound.
        """

        def work(fetch: Fetch, consumer: Consumer) -> list[Outcome]:
            now = account.now_of(fetch, self.recorder.CLOCK)
            return consumer_answers.answer_all(fetch, consumer, answers, now)

        return await self._change(key_of(project, name), work)

    async def token_parts(self, token: str, field: str) -> tuple[int, str]:
        """Position and nonce of a delivery's token. Raises Invalid naming `field`."""
        text, _, nonce = token.rpartition(".")
        return (await self.feed.positions()).decode(text, field), nonce

    # ---- parked events ----

    async def parked(
        self, project: str | None, name: str, *, after: int = 0, limit: int = 100
    ) -> list[Parked]:
        """Parked events in the order of the log. Raises NotFound."""
        key = (await self.get(project, name)).key
        rows = await self.recorder.fetch(account.PARKED, mine(key, after=after, limit=limit))
        positions = [row[0] for row in rows]
        events = await self.feed.at(project, positions, limit_bytes=PAGE_BYTES)
        return [
            Parked(position, image, attempts, error, since, events.get(position))
            for position, image, attempts, error, since in rows
        ]

    async def redeliver(
        self, project: str | None, name: str, positions: Sequence[int] | None = None
    ) -> list[int]:
        """Hands these parked events out again, with all their attempts; None: all. Returns which
        were parked. Raises NotFound for a consumer that does not exist."""

        def work(fetch: Fetch, consumer: Consumer) -> list[int]:
            now = account.now_of(fetch, self.recorder.CLOCK)
            return consumer_answers.unpark(fetch, consumer.key, positions, now)

        return await self._change(key_of(project, name), work)

    async def discard(
        self, project: str | None, name: str, positions: Sequence[int] | None = None
    ) -> list[int]:
        """Gives these parked events up; None: all. Returns which were parked. Raises NotFound."""

        def work(fetch: Fetch, consumer: Consumer) -> list[int]:
            return consumer_answers.discard(fetch, consumer.key, positions)

        return await self._change(key_of(project, name), work)

    async def hurry(self, project: str | None, name: str) -> None:
        """Hands out at once what failed and waits for its next attempt. Raises NotFound."""

        def work(fetch: Fetch, consumer: Consumer) -> None:
            now = account.now_of(fetch, self.recorder.CLOCK)
            consumer_answers.hurry(fetch, consumer.key, now)

        await self._change(key_of(project, name), work)

    # ---- inside ----

    async def _select(self, where: str, key: Key) -> list[Consumer]:
        rows = await self.recorder.fetch(account.consumer_sql(where), mine(key))
        return [account.consumer_of(row) for row in rows]

    async def _refuse_too_many(self, key: Key) -> None:
        names = [one.name for one in await self.of_feed(key[0] or None)]
        others = [name for name in names if OWN_MARK not in name]
        if key[1] not in names and len(others) >= CONSUMERS_LIMIT:
            raise LimitExceeded(
                f"There are {CONSUMERS_LIMIT} consumers here already; delete one that is not used."
            )

    async def _transact(self, key: Key, work: Callable[[Fetch], Result]) -> Result:
        result = await self.recorder.transact(account.lock_of(key), work)
        for stirred in self._waiting.get(key, ()):
            stirred.set()
        return result

    async def _change(self, key: Key, work: Callable[[Fetch, Consumer], Result]) -> Result:
        """Runs work on the consumer as it stands. Raises NotFound."""

        def on_consumer(fetch: Fetch) -> Result:
            consumer = account.loaded(fetch, key)
            if consumer is None:
                raise NotFound(f"There is no consumer '{key[1]}' here.", "name")
            return work(fetch, consumer)

        return await self._transact(key, on_consumer)

    async def _look(self, consumer: Consumer, member: str) -> QueueState:
        values = mine(consumer.key, on_parked=consumer.subscription.on_parked, member=member)
        rows = await self.recorder.fetch(account.look_sql(self.recorder.CLOCK), values)
        return QueueState(*rows[0])

    async def _search(
        self, consumer: Consumer, look: QueueState, before: FeedSlice | None, limit: int
    ) -> tuple[FeedSlice, Page]:
        """What follows in the feed; nothing where enough is taken already, or there is no room."""
        start = after = consumer.taken_to
        if before is not None and before.continues(consumer):
            start, after = before.start, before.end
            if before.all_there_was and not self.feed.watcher.knows_more(consumer.project, after):
                return before, Page([], after, full=False)
        if look.ready >= limit or not look.room:
            nothing = FeedSlice(consumer.revision, start, (), after, all_there_was=False)
            return nothing, Page([], after, full=False)
        subscription = consumer.subscription
        wanted = min(max(limit, READ_EVENTS), look.room)
        question = Question(consumer.project, after, wanted, subscription.types, subscription.image)
        page = await self.feed.page(question)
        events = [(position, _image_of(event), len(event)) for position, event in page.events]
        return FeedSlice(consumer.revision, start, events, page.next, not page.full), page

    async def _claim(
        self, consumer: Consumer, found: FeedSlice, member: str, limit: int, ack_seconds: float
    ) -> list[Claim]:
        nonce = secrets.token_hex(8)

        def work(fetch: Fetch, consumer: Consumer) -> list[Claim]:
            now = account.now_of(fetch, self.recorder.CLOCK)
            account.expire(fetch, consumer, now)
            account.take(fetch, consumer, found)
            account.note_member(fetch, consumer.key, member, now)
            until = now + ack_seconds
            return account.claim(fetch, consumer, member, limit, nonce, now, until)

        return await self._change(consumer.key, work)

    async def _deliveries(
        self, consumer: Consumer, claims: list[Claim], events: dict[int, bytes]
    ) -> list[Delivery]:
        missing = [claim.position for claim in claims if claim.position not in events]
        events |= await self.feed.at(consumer.project, missing)
        if any(claim.position not in events for claim in claims):
            # The table of audiences is being made again; the claims end by themselves.
            raise Unavailable("The feed is being made again; try again later.")
        positions = await self.feed.positions()
        return [
            Delivery(
                position=claim.position,
                image=claim.image,
                event=events[claim.position],
                token=f"{positions.encode(claim.position)}.{claim.nonce}",
                attempt=claim.attempt,
                deadline=claim.until,
            )
            for claim in claims
        ]

    @contextmanager
    def _stirring(self, key: Key) -> Iterator[asyncio.Event]:
        """What is set whenever this process changes something of the consumer."""
        stirred = asyncio.Event()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(stirred)
        try:
            yield stirred
        finally:
            waiting.discard(stirred)
            if not waiting and self._waiting.get(key) is waiting:
                del self._waiting[key]

    async def _pause(
        self, consumer: Consumer, look: QueueState, end: int, seconds: float, stirred: asyncio.Event
    ) -> None:
        """Waits until there may be something: new after `end`, settled in this process, or due."""
        seconds = min(seconds, LOOK_SECONDS)
        if look.due_at is not None:
            seconds = min(seconds, max(0.0, look.due_at - look.now))
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(stirred.wait())]
        if look.room:
            grown = self.feed.watcher.wait(consumer.project, end, seconds)
            waits.append(asyncio.ensure_future(grown))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _image_of(event: bytes) -> str:
    """The image whose order the event belongs to: its subject, or what was downloaded."""
    told = orjson.loads(event)
    downloaded = topic_of(told["type"]) == DataSent.TOPIC
    return str(UUID(told["data"]["image_id"]) if downloaded else told["subject"])


def _is_worth_a_write(consumer: Consumer, look: QueueState, found: FeedSlice, more: bool) -> bool:
    return bool(
        found.events
        or look.ready
        or look.seen_at is None
        or look.now - look.seen_at > NOTED_SECONDS
        or (not more and found.end - consumer.taken_to >= SKIPPED_EVENTS)
    )
