"""The protocol by which uploads end, explored: one writer, two sweepers, and everything that fails.

A model of what ARCHITECTURE.md draws under "How an upload ends". It is small enough to visit every
state that can be reached in any order of steps: the writer may be frozen between any two of its
steps, killed, or find the log away; a sweeper may be late, and two may believe that they lead; the
store may take its time. That `Presence` decides as the model does, its own tests prove.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

LEASE = 2
"""In ticks; a lease is renewed at each tick at which its holder runs and the log answers."""
LAST_TICK = 6
MOST_FAULTS = 2


class World(NamedTuple):
    """Everything that matters of one upload. Ticks are of the monotonic clock."""

    hidden: bool = False
    """Whether the store hears of the write only with its commit, as of a small object on S3."""
    tick: int = 0
    # The log.
    log_up: bool = True
    blob: str = "none"
    """none, intended, stored, doomed, removed."""
    lease_until: int = LEASE
    # The store.
    unfinished: bool = False
    finished: bool = False
    # The writer's process.
    step: str = "intent"
    """intent, write, ask, commit, outcome, end, done; or dead."""
    frozen: bool = False
    sure_until: int = LEASE
    lapsed: bool = False
    known: bool = True
    """Whether the process counts the upload among its own."""
    stray: bool = False
    acknowledged: bool = False
    # The sweepers: since when each has missed the writer (-1: sees it), and when it looked last.
    missed: tuple[int, int] = (-1, -1)
    looked: tuple[int, int] = (0, 0)
    faults: int = 0
    """How many more things have gone wrong than in the beginning."""


Step = Callable[[World], Iterator[World]]


def clock(world: World) -> Iterator[World]:
    """Time goes on; who runs renews its lease, and who sweeps looks, unless held up."""
    tick = world.tick + 1
    world = world._replace(tick=tick)
    if world.log_up and not world.frozen and world.step != "dead":
        world = world._replace(
            lapsed=world.lapsed or tick >= world.sure_until,
            sure_until=tick + LEASE,
            lease_until=tick + LEASE,
        )
    yield world


def look(which: int) -> Step:
    """One sweeper looks at the leases, as `Presence` does."""

    def step(world: World) -> Iterator[World]:
        if not world.log_up or world.looked[which] == world.tick:
            return
        late = world.tick - world.looked[which] > 1
        missed = world.missed[which]
        if world.lease_until > world.tick:
            missed = -1
        elif late or missed < 0:
            missed = world.tick
        yield world._replace(
            missed=_put(world.missed, which, missed),
            looked=_put(world.looked, which, world.tick),
        )

    return step


def sweep(which: int) -> Step:
    """A sweeper gives up the upload of a writer that is gone; either may lead, even both."""

    def step(world: World) -> Iterator[World]:
        missed = world.missed[which]
        gone = missed >= 0 and world.looked[which] - missed >= LEASE
        fresh = world.looked[which] == world.tick
        if world.log_up and gone and fresh and world.blob == "intended":
            yield world._replace(blob="doomed")

    return step


def remove(world: World) -> Iterator[World]:
    """Garbage is removed, unfinished things first; or the store refuses, and it stays garbage."""
    if world.log_up and world.blob == "doomed":
        yield world._replace(blob="removed", unfinished=False, finished=False)


def tidy(world: World) -> Iterator[World]:
    """The writer's process gives up what it has forgotten, and removes its strays."""
    if world.frozen or world.step == "dead":
        return
    if world.log_up and world.blob == "intended" and not world.known:
        yield world._replace(blob="doomed")
    if world.stray and world.log_up:
        if world.blob == "removed":
            yield world._replace(stray=False, unfinished=False, finished=False)
        else:
            yield world._replace(stray=False)


def write(world: World) -> Iterator[World]:
    """The writer's next step."""
    if world.frozen:
        return
    if world.step == "intent":
        if world.log_up:
            yield world._replace(step="write", blob="intended")
        else:
            yield world._replace(step="done", known=False)
            # The log has taken it, and the reply was lost.
            yield world._replace(step="done", known=False, blob="intended")
    elif world.step == "write":
        yield world._replace(step="ask", unfinished=not world.hidden)
    elif world.step == "ask":
        yield from _ask(world)
    elif world.step == "commit":
        if not world.unfinished and not world.hidden:
            yield world._replace(step="end")  # It was broken off.
        else:
            yield world._replace(step="outcome", unfinished=False, finished=True)
    elif world.step == "outcome":
        if not world.log_up:
            yield world._replace(step="end")
            if world.blob == "intended":
                yield world._replace(step="end", blob="stored")  # The reply was lost.
        elif world.blob == "intended":
            yield world._replace(step="done", known=False, blob="stored", acknowledged=True)
        else:
            yield world._replace(step="end")
    elif world.step == "end":
        yield from _end(world)


def _ask(world: World) -> Iterator[World]:
    if world.tick < world.sure_until and not world.lapsed:
        yield world._replace(step="commit")
    elif not world.log_up:
        yield world._replace(step="end")
    else:
        until = world.tick + LEASE
        world = world._replace(lapsed=False, sure_until=until, lease_until=until)
        yield world._replace(step="commit" if world.blob == "intended" else "end")


def _end(world: World) -> Iterator[World]:
    over = world._replace(step="done", known=False, stray=True)
    if world.log_up and world.blob == "intended":
        yield over._replace(blob="doomed", unfinished=False, stray=False)
    else:
        yield over


def fail(world: World) -> Iterator[World]:
    """Whatever goes wrong outside."""
    if world.faults == MOST_FAULTS:
        return
    worse = world._replace(faults=world.faults + 1)
    if world.step not in ("dead", "done"):
        if not world.frozen:
            yield worse._replace(step="dead", known=False, stray=False)
            yield worse._replace(frozen=True)
        if world.step in ("write", "ask", "commit"):
            yield worse._replace(step="end")  # The client goes away, or the store fails.
    if world.log_up:
        yield worse._replace(log_up=False)


def recover(world: World) -> Iterator[World]:
    """What was frozen or away comes back."""
    if world.frozen:
        yield world._replace(frozen=False)
    if not world.log_up:
        yield world._replace(log_up=True)


STEPS: tuple[Step, ...] = (
    clock,
    look(0),
    look(1),
    sweep(0),
    sweep(1),
    remove,
    tidy,
    write,
    fail,
    recover,
)


def _put(pair: tuple[int, int], which: int, value: int) -> tuple[int, int]:
    return (value, pair[1]) if which == 0 else (pair[0], value)


def explored(beginning: World, steps: tuple[Step, ...] = STEPS) -> set[World]:
    """Every world that these steps lead to."""
    seen: set[World] = {beginning}
    waiting = [beginning]
    while waiting:
        world = waiting.pop()
        for step in steps:
            for after in step(world):
                after = _as_one(after)
                if after.tick <= LAST_TICK and after not in seen:
                    seen.add(after)
                    waiting.append(after)
    return seen


def _as_one(world: World) -> World:
    """Two worlds that differ only in which sweeper is which are one."""
    pairs = sorted(zip(world.missed, world.looked, strict=True))
    missed, looked = zip(*pairs, strict=True)
    return world._replace(missed=missed, looked=looked)


def recovered(world: World) -> World:
    """The same world when all that was frozen or away is back; told as late as time goes."""
    shift = LAST_TICK - world.tick
    return world._replace(
        tick=LAST_TICK,
        log_up=True,
        frozen=False,
        faults=0,
        lease_until=max(world.lease_until + shift, LAST_TICK),
        sure_until=max(world.sure_until + shift, LAST_TICK),
        missed=tuple(at if at < 0 else at + shift for at in world.missed),
        looked=tuple(at + shift for at in world.looked),
    )


def settled(world: World) -> World:
    """What becomes of it when nothing goes wrong any more, for four leases."""
    for _ in range(4 * LEASE):
        for step in (clock, look(0), look(1), write, sweep(0), sweep(1), tidy, remove):
            world = next(step(world), world)
    return world


ONE_SWEEPER = tuple(step for number, step in enumerate(STEPS) if number not in (2, 4))
CASES = [
    pytest.param((hidden, steps), id=f"{name}-{sweepers}", marks=marks)
    for hidden, name in ((False, "in-parts"), (True, "at-once"))
    for steps, sweepers, marks in (
        (ONE_SWEEPER, "one-sweeper", ()),
        (STEPS, "two-sweepers", pytest.mark.long),
    )
]


@pytest.fixture(scope="module", params=CASES)
def worlds(request: pytest.FixtureRequest) -> set[World]:
    """All that can happen to an upload that the store hears of early, or only at its commit."""
    hidden, steps = request.param
    return explored(World(hidden=hidden), steps)


def test_a_stored_upload_keeps_its_bytes(worlds: set[World]) -> None:
    for world in worlds:
        if world.blob == "stored":
            assert world.finished, world
        if world.acknowledged:
            assert world.blob == "stored", world


def test_a_sweeper_gives_up_only_what_its_writer_could_not_believe_to_hold(
    worlds: set[World],
) -> None:
    """At the look, that is: what came back in the moment after it learns of it from the log."""
    given_up = [world for world in worlds for which in (0, 1) if list(sweep(which)(world))]
    assert given_up
    for world in given_up:
        came_back_now = world.sure_until == world.tick + LEASE
        assert world.sure_until <= world.tick or came_back_now, world


def test_nothing_is_given_up_of_a_writer_that_was_never_held_up() -> None:
    steps = tuple(step for step in STEPS if step is not fail)
    worlds = explored(World(), steps)
    assert any(world.acknowledged for world in worlds)
    for world in worlds:
        assert world.blob not in ("doomed", "removed"), world


def test_every_upload_ends_and_leaves_nothing(worlds: set[World]) -> None:
    """From wherever it got, within four leases after the last fault; but for one window.

    A process that stood still until its upload was given up and removed, and goes on, may write
    once more before it finds out. It removes what it wrote, unless it is killed just then.
    """
    for world in set(map(recovered, worlds)):
        end = settled(world)
        assert end.blob in ("none", "stored", "removed"), (world, end)
        left = end.unfinished or end.finished != (end.blob == "stored")
        killed_in_the_window = world.step == "dead" and world.blob == "removed"
        assert not left or killed_in_the_window, (world, end)
