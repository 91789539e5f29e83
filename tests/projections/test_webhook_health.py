"""When an endpoint is called again, probed, and given up."""

import pytest

from calotype.projections.webhooks.attempt import Result
from calotype.projections.webhooks.endpoints import Endpoint
from calotype.projections.webhooks.health import Health, Patience

HOUR, DAY = 3600.0, 86400.0
PATIENCE = Patience(5.0, 6 * HOUR, 5 * DAY)
FAILED, DELIVERED = Result("answered 500", 500), Result(status=204)


def endpoint(**fares: object) -> Endpoint:
    fields = {
        "project": "",
        "name": "ci",
        "revision": "r",
        "url": "https://example.org/",
        "types": (),
        "disabled": "",
        "created_at": 0.0,
        "failures": 0,
        "failing_since": None,
        "failed_at": None,
        "last_error": "",
        "next_try_at": None,
        "secrets": "",
    }
    return Endpoint(**{**fields, **fares})  # type: ignore[arg-type]


def failing(times: int, start: float = 1000.0) -> Health:
    """The health of an endpoint that failed so often, a minute apart."""
    health = Health(endpoint(), PATIENCE)
    for number in range(times):
        health.note(FAILED, start + 60 * number, start + 60 * number + 1)
    return health


def test_pauses_double_from_the_first_to_the_longest_with_a_part_by_chance() -> None:
    for attempt in range(1, 40):
        full = min(6 * HOUR, 5.0 * 2 ** (attempt - 1))
        seconds = [PATIENCE.pause_seconds(attempt, 6 * HOUR) for _ in range(50)]
        assert all(0.75 * full <= one <= full for one in seconds)
        assert len(set(seconds)) > 1
    assert PATIENCE.pause_seconds(10**6, 60.0) <= 60.0


def test_sixteen_attempts_take_about_a_day() -> None:
    longest = sum(min(6 * HOUR, 5.0 * 2 ** (n - 1)) for n in range(1, 16))
    assert 0.75 * DAY < longest < 1.25 * DAY


def test_one_bad_message_does_not_hold_up_the_others() -> None:
    health = failing(2)
    assert not health.probing
    assert health.wait_seconds(1062.0) == 0


def test_an_endpoint_that_fails_in_a_row_is_probed_once_a_minute_at_least() -> None:
    health = failing(3)
    assert health.probing
    assert 0 < health.wait_seconds(1121.0) <= 5.0
    for number in range(3, 30):
        now = 1000.0 + 60 * number + 1
        health.note(FAILED, now - 1, now)
        assert 0 < health.wait_seconds(now) <= 60.0
    health.note(DELIVERED, 9000.0, 9001.0)
    assert not health.probing
    assert health.wait_seconds(9001.0) == 0
    assert health.fares.failing_since is None


def test_attempts_at_the_same_time_are_one_failure() -> None:
    health = Health(endpoint(), PATIENCE)
    for _ in range(8):
        health.note(FAILED, 1000.0, 1002.0)
    assert health.fares.failures == 1
    # Overlapping ones count too: they began after one was known to have failed.
    health.note(FAILED, 1002.5, 1010.0)
    health.note(FAILED, 1003.0, 1011.0)
    health.note(FAILED, 1010.5, 1012.0)
    assert health.fares.failures == 3


@pytest.mark.parametrize(("asked", "waits"), [(1.0, 1.0), (120.0, 120.0), (1e9, HOUR)])
def test_retry_after_holds_for_the_endpoint_and_the_message_within_bounds(
    asked: float, waits: float
) -> None:
    health = Health(endpoint(), PATIENCE)
    result = Result("answered 429", 429, asked)
    health.note(result, 1000.0, 1001.0)
    assert health.wait_seconds(1001.0) == waits
    assert health.retry_seconds(result, 1) >= waits
    assert health.retry_seconds(result, 1) <= max(waits, 5.0)


def test_only_failures_for_so_long_disable() -> None:
    health = failing(1, start=0.0)
    now = 0.0
    while not health.fares.disabled:
        now += HOUR
        health.note(FAILED, now, now + 1)
        assert now < 6 * DAY
    assert 5 * DAY <= now <= 5 * DAY + HOUR
    assert health.fares.disabled == "nothing was delivered for too long"


def test_a_failure_long_after_another_is_a_new_beginning() -> None:
    """An endpoint that gets a message a week is not disabled by its second bad week."""
    health = failing(1, start=0.0)
    health.note(FAILED, 7 * DAY, 7 * DAY + 1)
    assert not health.fares.disabled
    assert health.fares.failures == 1
    assert health.fares.failing_since == 7 * DAY + 1


def test_never_given_up_where_the_operator_says_so() -> None:
    health = Health(endpoint(), Patience(5.0, 6 * HOUR, 0.0))
    for hour in range(1000):
        health.note(FAILED, hour * HOUR, hour * HOUR + 1)
    assert not health.fares.disabled


def test_410_disables_and_a_late_success_does_not_enable() -> None:
    health = failing(1)
    health.note(Result("answered 410", 410), 2000.0, 2001.0)
    assert health.fares.disabled == "the endpoint answered 410 Gone"
    health.note(DELIVERED, 1999.0, 2002.0)
    assert health.fares.disabled


def test_who_takes_over_goes_on_from_what_is_stored() -> None:
    before = failing(5)
    fares = before.fares
    after = Health(
        endpoint(
            failures=fares.failures,
            failing_since=fares.failing_since,
            failed_at=fares.failed_at,
            last_error=fares.last_error,
            next_try_at=fares.next_try_at,
        ),
        PATIENCE,
    )
    assert after.fares == fares
    assert after.probing
    assert after.wait_seconds(1242.0) == before.wait_seconds(1242.0) > 0
