"""What a client may rely on: for each image what was acknowledged, and what may be or not be."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from tests.faults.ledger.wire import Answer


@dataclass(frozen=True, slots=True)
class State:
    """What is to be seen of an image."""

    exists: bool = False
    name: str = ""
    tags: frozenset[str] = frozenset()
    members: frozenset[str] = frozenset()
    data: str | None = None
    """SHA-512 of its data; None: it has none."""

    def status(self) -> str:
        return "queued" if self.data is None else "active"


@dataclass(slots=True)
class Account:
    """One image of one client."""

    image_id: str
    possible: list[State] = field(default_factory=lambda: [State()])
    """One state; two after an answer that left open whether the command was done."""
    content: bytes | None = None
    """What was sent as its data, also when nobody knows whether it arrived."""

    @property
    def state(self) -> State:
        return self.possible[0]

    @property
    def is_settled(self) -> bool:
        return len(self.possible) == 1

    def note(self, answer: Answer, **changes: Any) -> bool:
        """Takes down what the answer to a command says; whether it was done for sure."""
        after = replace(self.state, **changes) if changes.get("exists", True) else State()
        if answer.is_unknown:
            self.possible = [self.state, after]
        elif answer.status < 300:
            self.possible = [after]
            return True
        return False


@dataclass(slots=True)
class Books:
    """The accounts of one round, and the requests that made them."""

    accounts: list[Account] = field(default_factory=list)
    requests: dict[str, str] = field(default_factory=dict)
    """Acknowledged commands: what they were, by their request's id."""
    acknowledged: int = 0
    unknown: int = 0
    refused: int = 0
    refused_healthy: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    """Uploads that were refused 410 because their process stood still longer than a lease."""
    wrong_bytes: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """How often which command had which answer other than that it was done."""

    def count(self, what: str, account: Account, answer: Answer) -> None:
        """Counts a command and its answer."""
        if not 200 <= answer.status < 300:
            self.answers[f"{what} {answer.status}"] += 1
        if answer.is_unknown:
            self.unknown += 1
        elif answer.status < 300:
            self.acknowledged += 1
            self.requests[answer.request_id] = f"{what} of {account.image_id}"
        else:
            self.refused += 1


def sha512(data: bytes) -> str:
    """As `os_hash_value` shows it."""
    return hashlib.sha512(data).hexdigest()
