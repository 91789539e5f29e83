"""The account of one consumer: what was taken from the feed, handed out, and settled.

Every function here is a step of a transaction that has the consumer for itself (`transact` of the
log, with `lock_of`), and gets that transaction's `fetch`. An event is *waiting* from when it is
taken, *claimed* while a member works on it, *parked* when it failed too often, and has no row any
more once it is acknowledged. Of one image at most one event is claimed, and always the earliest
that is not settled: that keeps the order of each image, whatever the members do.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import orjson

from calotype.stores.log.statements import Fetch

OPEN_LIMIT = 1000
"""Events of one consumer that are taken and neither settled nor parked, at most."""
PARKED_LIMIT = 1000
"""With so many parked events a consumer gets nothing new: it is broken, and not the events."""
ANSWER_BYTES = 4 << 20
"""What is handed out at once is not longer than this, but for a single event that is."""
MEMBERS_KEPT = 100
CHUNK = 100

OnParked = Literal["continue", "hold"]
State = Literal["waiting", "claimed", "parked"]
Key = tuple[str, str]
"""The feed (a project, or "" for that of operators) and the name of a consumer."""

_MINE = "feed = :feed AND name = :name"
_CONSUMER = (
    "SELECT feed, name, revision, types, image, on_parked, max_attempts, taken_to, created_at, "
    "created_by FROM consumers"
)
# The event of each image that comes next, and until when somebody works on one of that image. In
# one pass: joined with itself, the table was walked for each row while its statistics were old.
_HEADS = (
    "FROM (SELECT position, size_bytes, state, due_at, "
    "row_number() OVER (PARTITION BY image ORDER BY position) AS place, "
    "max(CASE WHEN state = 'claimed' THEN due_at END) OVER (PARTITION BY image) AS busy_until "
    f"FROM consumer_deliveries WHERE {_MINE} AND (state <> 'parked' OR :on_parked = 'hold')) d "
    "WHERE place = 1 AND "
)
_LOOK = (
    "SELECT min(coalesce(busy_until, due_at)), "
    "count(CASE WHEN coalesce(busy_until, due_at) <= {clock} THEN 1 END), {clock}, "
    f"(SELECT count(*) FROM consumer_deliveries WHERE {_MINE} AND state <> 'parked'), "
    f"(SELECT count(*) FROM consumer_deliveries WHERE {_MINE} AND state = 'parked'), "
    f"(SELECT seen_at FROM consumer_members WHERE {_MINE} AND member = :member) "
    f"{_HEADS}(state <> 'parked' OR busy_until IS NOT NULL)"
)
_READY = (
    f"SELECT position, size_bytes {_HEADS}"
    "busy_until IS NULL AND state = 'waiting' AND due_at <= :now ORDER BY position LIMIT :limit"
)
_CLAIM = (
    "UPDATE consumer_deliveries SET state = 'claimed', attempts = attempts + 1, nonce = :nonce, "
    f"member = :member, claimed_at = :now, due_at = :until WHERE {_MINE} AND position IN (%s) "
    "RETURNING position, image, attempts"
)
_EXPIRE = (
    "UPDATE consumer_deliveries SET nonce = NULL, due_at = :now, "
    "state = CASE WHEN attempts >= :max_attempts THEN 'parked' ELSE 'waiting' END, "
    "error = 'No answer came before the claim of ' || member || ' ended.' "
    f"WHERE {_MINE} AND state = 'claimed' AND due_at <= :now"
)
_SEEN = (
    "INSERT INTO consumer_members (feed, name, member, seen_at) "
    "VALUES (:feed, :name, :member, :now) "
    "ON CONFLICT (feed, name, member) DO UPDATE SET seen_at = excluded.seen_at"
)
_FORGET_MEMBERS = (
    f"DELETE FROM consumer_members WHERE {_MINE} AND member NOT IN (SELECT member "
    f"FROM consumer_members WHERE {_MINE} ORDER BY seen_at DESC LIMIT {MEMBERS_KEPT})"
)

PARKED = (
    "SELECT position, image, attempts, error, due_at FROM consumer_deliveries "
    f"WHERE {_MINE} AND state = 'parked' AND position > :after ORDER BY position LIMIT :limit"
)


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a consumer wants to be handed out, and how."""

    types: tuple[str, ...] = ()
    """Only these event types; empty for all."""
    image: UUID | None = None
    on_parked: OnParked = "continue"
    """Whether later events of an image go on or wait while one of its events is parked."""
    max_attempts: int = 5
    """An event that was handed out so often without success is parked."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """A named consumer as it stands."""

    project: str | None
    """Whose feed it reads; None is the feed of operators, with everything."""
    name: str
    revision: str
    subscription: Subscription
    taken_to: int
    """Every wanted event up to this position is settled or has a row."""
    created_at: str
    created_by: str | None

    @property
    def key(self) -> Key:
        return key_of(self.project, self.name)


@dataclass(frozen=True, slots=True)
class QueueState:
    """What a member could get now, without waiting for anybody."""

    due_at: float | None
    """When the next of the taken events can be handed out; None: by itself none ever."""
    ready: int
    """How many can be handed out at once."""
    now: float
    open: int
    parked: int
    seen_at: float | None
    """When this member asked last, as far as it was noted."""

    @property
    def room(self) -> int:
        """How many more events may be taken from the feed."""
        return max(0, OPEN_LIMIT - self.open) if self.parked < PARKED_LIMIT else 0


@dataclass(frozen=True, slots=True)
class FeedSlice:
    """Wanted events of the feed for a consumer of this revision: all after `start`, up to `end`."""

    revision: str
    start: int
    events: Sequence[tuple[int, str, int]]
    """Position, image, and size in bytes."""
    end: int
    all_there_was: bool = True
    """Whether the feed had no more at that time."""

    def continues(self, consumer: Consumer) -> bool:
        """Whether nothing after where the consumer is was missed by looking on after `end`."""
        return (
            not self.events
            and self.revision == consumer.revision
            and self.start <= consumer.taken_to <= self.end
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """An event that a member may work on now."""

    position: int
    image: str
    attempt: int
    """Counting from 1."""
    nonce: str
    until: float
    """Seconds since 1970, by the clock of the database."""


def key_of(project: str | None, name: str) -> Key:
    """The key of a consumer in its tables."""
    return project or "", name


def lock_of(key: Key) -> str:
    """The name of the transactions that change this consumer."""
    return f"consumer:{key[0]}/{key[1]}"


def mine(key: Key, **values: Any) -> dict[str, Any]:
    """Parameters of statements about one consumer."""
    return {"feed": key[0], "name": key[1], **values}


def consumer_sql(where: str) -> str:
    """The statement that selects consumers, for `consumer_of`."""
    return f"{_CONSUMER} WHERE {where}"


def consumer_of(row: tuple[Any, ...]) -> Consumer:
    """From a row of `consumer_sql`."""
    feed, name, revision, types, image, on_parked, max_attempts, taken_to, *created = row
    wanted = Subscription(
        tuple(orjson.loads(types)), image and UUID(image), on_parked, max_attempts
    )
    return Consumer(feed or None, name, revision, wanted, taken_to, *created)


def loaded(fetch: Fetch, key: Key) -> Consumer | None:
    """The consumer, or None where there is none."""
    rows = fetch(consumer_sql(_MINE), mine(key))
    return consumer_of(rows[0]) if rows else None


def look_sql(clock: str) -> str:
    """The statement behind `QueueState`; the parameters are feed, name, on_parked and member."""
    return _LOOK.format(clock=clock)


def now_of(fetch: Fetch, clock: str) -> float:
    """Seconds since 1970 by the clock that all processes share."""
    return float(fetch(f"SELECT {clock}")[0][0])


def save(fetch: Fetch, consumer: Consumer) -> None:
    """Makes the consumer, or changes the one of its name into it."""
    subscription = consumer.subscription
    fetch(
        "INSERT INTO consumers (feed, name, revision, types, image, on_parked, max_attempts, "
        "taken_to, created_at, created_by) VALUES (:feed, :name, :revision, :types, :image, "
        ":on_parked, :max_attempts, :taken_to, :created_at, :created_by) "
        "ON CONFLICT (feed, name) DO UPDATE SET revision = excluded.revision, "
        "types = excluded.types, image = excluded.image, on_parked = excluded.on_parked, "
        "max_attempts = excluded.max_attempts, taken_to = excluded.taken_to",
        mine(
            consumer.key,
            revision=consumer.revision,
            types=orjson.dumps(subscription.types).decode(),
            image=None if subscription.image is None else str(subscription.image),
            on_parked=subscription.on_parked,
            max_attempts=subscription.max_attempts,
            taken_to=consumer.taken_to,
            created_at=consumer.created_at,
            created_by=consumer.created_by,
        ),
    )


def remove(fetch: Fetch, key: Key) -> None:
    """Takes away the consumer and all that it had."""
    for table in ("consumer_deliveries", "consumer_members", "consumers"):
        fetch(f"DELETE FROM {table} WHERE {_MINE}", mine(key))


def drop_open(fetch: Fetch, key: Key, position: int) -> None:
    """Forgets what is open, and what is parked after the position: it will be taken again."""
    fetch(
        f"DELETE FROM consumer_deliveries WHERE {_MINE} "
        "AND (state <> 'parked' OR position > :position)",
        mine(key, position=position),
    )


def expire(fetch: Fetch, consumer: Consumer, now: float) -> None:
    """Ends the claims whose time is over."""
    values = {"now": now, "max_attempts": consumer.subscription.max_attempts}
    fetch(_EXPIRE, mine(consumer.key, **values))


def note_member(fetch: Fetch, key: Key, member: str, now: float) -> None:
    """Notes that the member asked; forgets those that asked longest ago."""
    fetch(_SEEN, mine(key, member=member, now=now))
    fetch(_FORGET_MEMBERS, mine(key))


def take(fetch: Fetch, consumer: Consumer, found: FeedSlice) -> None:
    """Takes what others have not taken before, as long as there is room."""
    if found.revision != consumer.revision or found.start > consumer.taken_to:
        return  # What it wants, or where it stands, is not what this was looked up for.
    counts = dict(
        fetch(
            "SELECT state = 'parked', count(*) FROM consumer_deliveries "
            f"WHERE {_MINE} GROUP BY state = 'parked'",
            mine(consumer.key),
        )
    )
    room = OPEN_LIMIT - counts.get(False, 0) if counts.get(True, 0) < PARKED_LIMIT else 0
    new = [event for event in found.events if event[0] > consumer.taken_to]
    end = found.end
    if len(new) > room:
        new = new[: max(room, 0)]
        end = new[-1][0] if new else 0
    for some in chunks(new):
        _insert(fetch, consumer.key, some)
    if end > consumer.taken_to:
        fetch(f"UPDATE consumers SET taken_to = :end WHERE {_MINE}", mine(consumer.key, end=end))


def _insert(fetch: Fetch, key: Key, events: Sequence[tuple[int, str, int]]) -> None:
    values = mine(key)
    for number, (position, image, size) in enumerate(events):
        values |= {f"p{number}": position, f"i{number}": image, f"s{number}": size}
    rows = ", ".join(
        f"(:feed, :name, :p{number}, :i{number}, :s{number}, 'waiting', 0, 0)"
        for number in range(len(events))
    )
    fetch(
        "INSERT INTO consumer_deliveries "
        f"(feed, name, position, image, size_bytes, state, due_at, attempts) VALUES {rows}",
        values,
    )


def claim(
    fetch: Fetch, consumer: Consumer, member: str, limit: int, nonce: str, now: float, until: float
) -> list[Claim]:
    """Hands out up to `limit` events, one of each image, in the order of the log."""
    values = {"on_parked": consumer.subscription.on_parked, "now": now, "limit": limit}
    ready = fetch(_READY, mine(consumer.key, **values))
    positions: list[int] = []
    size = 0
    for position, size_bytes in ready:
        size += size_bytes
        if positions and size > ANSWER_BYTES:
            break
        positions.append(position)
    claims: list[Claim] = []
    for some in chunks(positions):
        names, listed = in_list(some)
        claimed = mine(consumer.key, nonce=nonce, member=member, now=now, until=until, **names)
        rows = fetch(_CLAIM % listed, claimed)
        claims += [Claim(p, image, attempt, nonce, until) for p, image, attempt in sorted(rows)]
    return claims


def chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """In parts that one statement takes."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def in_list(values: Iterable[Any]) -> tuple[dict[str, Any], str]:
    """Parameters, and the text to write between the brackets of IN."""
    names = {f"v{number}": value for number, value in enumerate(values)}
    return names, ", ".join(f":{name}" for name in names)
