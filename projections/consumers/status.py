"""How a named consumer is doing: how far it is, what is in hand, and who came lately."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from calotype.commands.images.events import clock_text
from calotype.commands.policy.protections import Readable
from calotype.projections.consumers.account import PARKED_LIMIT, Consumer, mine
from calotype.projections.consumers.consumers import Consumers, Parked
from calotype.projections.engine.positions import Positions
from calotype.projections.feed.cloudevents import readable_event
from calotype.projections.feed.feed import Question

LAG_COUNTED = 10_000
"""A lag is counted up to this; beyond, it is known to be more."""

_STATE = (
    "SELECT count(CASE WHEN state = 'waiting' THEN 1 END), "
    "count(CASE WHEN state = 'claimed' THEN 1 END), "
    "count(CASE WHEN state = 'parked' THEN 1 END), "
    "min(CASE WHEN state <> 'parked' THEN position END), "
    "{clock} - min(CASE WHEN state = 'claimed' THEN claimed_at END) "
    "FROM consumer_deliveries WHERE feed = :feed AND name = :name"
)
_MEMBERS = (
    "SELECT m.member, m.seen_at, (SELECT count(*) FROM consumer_deliveries d "
    "WHERE d.feed = m.feed AND d.name = m.name AND d.member = m.member AND d.state = 'claimed') "
    "FROM consumer_members m WHERE m.feed = :feed AND m.name = :name ORDER BY m.member"
)


@dataclass(frozen=True, slots=True)
class State:
    """How a consumer is doing at a moment."""

    waiting: int
    claimed: int
    parked: int
    settled_to: int
    """Every wanted event up to this position is settled or parked."""
    oldest_claim_seconds: float | None
    lag_events: int
    """Wanted events that are neither settled nor parked, taken from the feed or not."""
    lag_more: bool
    """Whether there may be more than were counted."""
    members: list[tuple[str, float, int]]
    """Name, when it asked last (noted every half minute), and how many claims it holds."""

    @property
    def stopped(self) -> bool:
        """Whether nothing new is handed out, because so much is parked."""
        return self.parked >= PARKED_LIMIT


async def state_of(consumers: Consumers, consumer: Consumer) -> State:
    """How the consumer is doing now."""
    recorder, feed = consumers.recorder, consumers.feed
    rows = await recorder.fetch(_STATE.format(clock=recorder.CLOCK), mine(consumer.key))
    waiting, claimed, parked, first_open, oldest = rows[0]
    subscription, taken_to = consumer.subscription, consumer.taken_to
    ahead, more = await feed.ahead(
        Question(consumer.project, taken_to, LAG_COUNTED, subscription.types, subscription.image)
    )
    members: list[Any] = await recorder.fetch(_MEMBERS, mine(consumer.key))
    return State(
        waiting=waiting,
        claimed=claimed,
        parked=parked,
        settled_to=taken_to if first_open is None else first_open - 1,
        oldest_claim_seconds=None if oldest is None else round(max(0.0, oldest), 3),
        lag_events=waiting + claimed + ahead,
        lag_more=more,
        members=members,
    )


def described(positions: Positions, consumer: Consumer) -> dict[str, Any]:
    """The consumer as JSON tells it."""
    subscription = consumer.subscription
    return {
        "name": consumer.name,
        "project": consumer.project,
        "types": list(subscription.types),
        "image": None if subscription.image is None else str(subscription.image),
        "on_parked": subscription.on_parked,
        "max_attempts": subscription.max_attempts,
        "created_at": consumer.created_at,
        "created_by": consumer.created_by,
        "taken_to": positions.encode(consumer.taken_to),
    }


async def described_now(consumers: Consumers, consumer: Consumer) -> dict[str, Any]:
    """The same, and how it is doing now."""
    positions = await consumers.feed.positions()
    state = await state_of(consumers, consumer)
    return {
        **described(positions, consumer),
        "position": positions.encode(state.settled_to),
        "lag": {"events": state.lag_events, "more": state.lag_more},
        "waiting": state.waiting,
        "claimed": state.claimed,
        "parked": state.parked,
        "stopped": state.stopped,
        "oldest_claim_seconds": state.oldest_claim_seconds,
        "members": [
            {"member": member, "seen_at": moment_text(seen_at), "claimed": claimed}
            for member, seen_at, claimed in state.members
        ],
    }


def described_parked(
    positions: Positions, one: Parked, readable: Readable | None = None
) -> dict[str, Any]:
    """A parked event as JSON tells it, with the custom properties that are readable (None: all)."""
    return {
        "position": positions.encode(one.position),
        "image": one.image,
        "attempts": one.attempts,
        "error": one.error,
        "parked_at": moment_text(one.since),
        "event": None if one.event is None else orjson.loads(readable_event(one.event, readable)),
    }


def moment_text(seconds: float) -> str:
    """RFC 3339, of seconds since 1970."""
    return clock_text(datetime.fromtimestamp(seconds, UTC))
