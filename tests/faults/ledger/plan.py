"""Which fault strikes in which round: the same for the same seed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Planned:
    """One round, before it is run."""

    number: int
    kind: str
    seed: str

    def rng(self) -> random.Random:
        return random.Random(self.seed)


def plan(seed: str, log: str, kinds: Sequence[str]) -> Iterator[Planned]:
    """Rounds without end: all kinds in random order, then all in another, and so on."""
    order = random.Random(f"{seed}/{log}")
    number = 0
    while True:
        for kind in order.sample(kinds, len(kinds)):
            number += 1
            yield Planned(number, kind, f"{seed}/{log}/{number}")
