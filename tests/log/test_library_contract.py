"""Both recorders pass the eventsourcing library's own test cases."""

from collections.abc import Callable
from typing import Any
from unittest import TestCase

import pytest
from eventsourcing.tests.persistence import (
    AggregateRecorderTestCase,
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
    ProcessRecorderTestCase,
    TrackingRecorderTestCase,
)

from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder

CASES: dict[str, tuple[type[TestCase], dict[str, Any]]] = {
    "aggregate": (AggregateRecorderTestCase, {"only_aggregates": True}),
    "application": (ApplicationRecorderTestCase, {}),
    "tracking": (TrackingRecorderTestCase, {}),
    "process": (ProcessRecorderTestCase, {}),
    "non-interleaving": (NonInterleavingNotificationIDsBaseCase, {}),
}


def _tests() -> list[tuple[str, str]]:
    return [
        (case, name)
        for case, (kind, _) in CASES.items()
        for name in dir(kind)
        if name.startswith("test") or name == "optional_test_insert_subscribe"
    ]


@pytest.mark.parametrize(("case", "name"), _tests())
def test_the_library_accepts_the_recorder(case: str, name: str, log_url: str) -> None:
    kind, options = CASES[case]
    opened: list[GroupCommitRecorder] = []

    def create_recorder(_: Any) -> GroupCommitRecorder:
        recorder = open_log(log_url, **options)
        opened.append(recorder)
        recorder.migrate()
        return recorder

    concrete: Callable[..., Any] = type(
        kind.__name__, (kind,), {"create_recorder": create_recorder, "runTest": lambda _: None}
    )
    try:
        getattr(concrete(), name)()
    finally:
        for recorder in opened:
            recorder.close_now()
