"""Who counts as gone: only whoever was missed for a whole lease by somebody who looked in time."""

from calotype.projections.engine.presence import Presence

LEASE = 15.0


class Looker:
    """Looks at the leases at times of a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.presence = Presence(LEASE, "looker", clock=lambda: self.now)

    def look(self, *living: str, after: float = 5.0, itself: bool = True) -> None:
        self.now += after
        self.presence.note(frozenset({*living, *(["looker"] if itself else [])}), self.now)

    def gone(self, holder: str = "a") -> bool:
        return self.presence.is_gone(holder)


def test_who_was_missed_at_every_look_during_one_lease_is_gone() -> None:
    looker = Looker()
    looker.look("a", "b")
    for _ in range(3):
        looker.look("b")
        assert not looker.gone()
    looker.look("b")
    assert looker.gone()
    assert not looker.gone("b")


def test_whoever_was_never_seen_is_gone_after_one_lease_of_watching() -> None:
    looker = Looker()
    assert not looker.gone()
    for _ in range(3):
        looker.look("b")
        assert not looker.gone()
    looker.look("b")
    assert looker.gone()


def test_one_look_that_sees_it_begins_the_waiting_again() -> None:
    looker = Looker()
    looker.look("a")
    for _ in range(3):
        looker.look()
    looker.look("a")
    for _ in range(3):
        looker.look()
        assert not looker.gone()
    looker.look()
    looker.look()
    assert looker.gone()


def test_a_looker_that_was_late_begins_again() -> None:
    """Whatever held it up may have held up the others too: a pause of the machine, an outage."""
    looker = Looker()
    looker.look("a")
    for _ in range(3):
        looker.look()
    looker.look(after=25.0)
    assert not looker.gone()
    for _ in range(2):
        looker.look()
        assert not looker.gone()
    looker.look()
    assert looker.gone()


def test_what_was_seen_long_ago_is_not_acted_on() -> None:
    looker = Looker()
    for _ in range(4):
        looker.look()
    assert looker.gone()
    looker.now += 25.0
    assert not looker.gone()


def test_nobody_is_missed_while_the_looker_itself_cannot_renew() -> None:
    """Then the log takes no writes, though it is read: nobody can say that they are there."""
    looker = Looker()
    looker.look("a")
    for _ in range(6):
        looker.look(itself=False)
        assert not looker.gone()
    for _ in range(2):
        looker.look()
        assert not looker.gone()
    looker.look()
    assert looker.gone()
