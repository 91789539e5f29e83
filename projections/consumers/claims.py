"""What members say of their claims, and operators of parked events; steps of a transaction.

See `consumer_account`, whose rows these are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from calotype.projections.consumers.account import Consumer, Key, chunks, in_list, mine
from calotype.stores.log.statements import Fetch

LONGEST_ERROR = 1000
"""Characters of an error that are kept."""
LONGEST_PAUSE_SECONDS = 300.0
"""The pauses between attempts are 1, 2, 4, 8 ... seconds, up to this, if nobody says how long."""

AnswerKind = Literal["acknowledge", "fail", "release", "extend"]
Outcome = Literal["acknowledged", "failed", "parked", "released", "extended", "expired", "settled"]
"""failed: it will be tried again. expired: the claim was over, and the event goes to somebody
again. settled: nothing is left to answer; the token was answered before, or the event is gone."""

_MINE = "feed = :feed AND name = :name AND position"
_UPDATE = "UPDATE consumer_deliveries SET"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member says of a claim."""

    position: int
    nonce: str
    kind: AnswerKind = "acknowledge"
    error: str = ""
    """Of a failure: why, for who looks at it later."""
    seconds: float | None = None
    """Of a failure: how long to wait until the next attempt; None: longer each time. Of an
    extension: how long from now."""


@dataclass(frozen=True, slots=True)
class _Row:
    position: int
    state: str
    nonce: str | None
    due_at: float
    attempts: int


def answer_all(
    fetch: Fetch, consumer: Consumer, answers: Sequence[Answer], now: float
) -> list[Outcome]:
    """Does what the answers say where their claims still hold; says what became of each."""
    rows = _rows(fetch, consumer.key, [answer.position for answer in answers])
    outcomes: list[Outcome] = []
    done: dict[Outcome, list[Answer]] = {}
    for answer in answers:
        outcome = _outcome(answer, rows.get(answer.position), consumer, now)
        outcomes.append(outcome)
        done.setdefault(outcome, []).append(answer)
    key = consumer.key
    _on_positions(fetch, key, "DELETE FROM consumer_deliveries WHERE", done.get("acknowledged", ()))
    # A release is no attempt: nobody worked on it, or it was not the event's fault.
    released = f"{_UPDATE} state = 'waiting', due_at = :now, attempts = attempts - 1 WHERE"
    _on_positions(fetch, key, released, done.get("released", ()), now=now)
    for answer in done.get("extended", ()):
        until = now + (answer.seconds or 0.0)
        _on_positions(fetch, key, f"{_UPDATE} due_at = :until WHERE", [answer], until=until)
    for outcome in ("failed", "parked"):
        for answer in done.get(outcome, ()):
            _fail(fetch, key, answer, rows[answer.position], outcome == "parked", now)
    return outcomes


def _outcome(answer: Answer, row: _Row | None, consumer: Consumer, now: float) -> Outcome:
    if row is None:
        return "settled"
    if row.nonce != answer.nonce:
        return "expired"
    if row.state != "claimed":
        return "settled"  # The nonce of a claim that ran out is not kept; this one was answered.
    if row.due_at <= now:
        return "expired"
    if answer.kind == "fail":
        return "parked" if row.attempts >= consumer.subscription.max_attempts else "failed"
    return _DONE[answer.kind]


_DONE: dict[AnswerKind, Outcome] = {
    "acknowledge": "acknowledged",
    "release": "released",
    "extend": "extended",
}


def _fail(fetch: Fetch, key: Key, answer: Answer, row: _Row, park: bool, now: float) -> None:
    pause = answer.seconds
    if pause is None:
        pause = min(2.0 ** (row.attempts - 1), LONGEST_PAUSE_SECONDS)
    fetch(
        f"{_UPDATE} state = :state, due_at = :due_at, error = :error WHERE {_MINE} = :position",
        mine(
            key,
            position=answer.position,
            state="parked" if park else "waiting",
            due_at=now if park else now + pause,
            error=_kept(answer.error),
        ),
    )


def _kept(error: str) -> str:
    """As much as is kept, in characters that every database takes."""
    text = error[:LONGEST_ERROR].replace("\x00", "\ufffd")
    return text.encode("utf-8", "replace").decode()


def _rows(fetch: Fetch, key: Key, positions: Sequence[int]) -> dict[int, _Row]:
    found: dict[int, _Row] = {}
    for some in chunks(positions):
        names, listed = in_list(some)
        rows = fetch(
            "SELECT position, state, nonce, due_at, attempts FROM consumer_deliveries "
            f"WHERE {_MINE} IN ({listed})",
            mine(key, **names),
        )
        found |= {row[0]: _Row(*row) for row in rows}
    return found


def _on_positions(
    fetch: Fetch, key: Key, statement: str, answers: Iterable[Answer], **values: Any
) -> None:
    for some in chunks([answer.position for answer in answers]):
        names, listed = in_list(some)
        fetch(f"{statement} {_MINE} IN ({listed})", mine(key, **names, **values))


def hurry(fetch: Fetch, key: Key, now: float) -> None:
    """Ends the pauses before next attempts."""
    fetch(
        f"{_UPDATE} due_at = :now WHERE feed = :feed AND name = :name AND state = 'waiting' "
        "AND due_at > :now",
        mine(key, now=now),
    )


def unpark(fetch: Fetch, key: Key, positions: Sequence[int] | None, now: float) -> list[int]:
    """Lets parked events be handed out again, with all their attempts; which. None: all."""
    return _parked(
        fetch,
        key,
        f"{_UPDATE} state = 'waiting', due_at = :now, attempts = 0, nonce = NULL",
        positions,
        now=now,
    )


def discard(fetch: Fetch, key: Key, positions: Sequence[int] | None) -> list[int]:
    """Gives parked events up; which. None: all."""
    return _parked(fetch, key, "DELETE FROM consumer_deliveries", positions)


def _parked(
    fetch: Fetch, key: Key, statement: str, positions: Sequence[int] | None, **values: Any
) -> list[int]:
    done: list[int] = []
    all_of_them: list[tuple[dict[str, Any], str]] = [({}, "")]
    parts = all_of_them if positions is None else map(in_list, chunks(positions))
    for names, listed in parts:
        which = f" AND position IN ({listed})" if listed else ""
        rows = fetch(
            f"{statement} WHERE feed = :feed AND name = :name AND state = 'parked'{which} "
            "RETURNING position",
            mine(key, **names, **values),
        )
        done += [row[0] for row in rows]
    return sorted(done)
