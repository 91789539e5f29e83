"""What tests of sinks look at from outside while services come and go."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calotype.projections.engine.positions import Positions, positions_now
from calotype.projections.sinks.parked import checkpoint_of, trouble_of
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder


class SinkLog:
    """The event log of a service, and how far one sink is in it."""

    def __init__(self, service: Any, sink: str) -> None:
        self._url = service.log_url or f"sqlite:///{service.folder / 'log.sqlite'}"
        self._sink = sink

    def __enter__(self) -> "SinkLog":
        self.recorder: GroupCommitRecorder = open_log(self._url)
        self.positions: Positions = positions_now(self.recorder)
        return self

    def __exit__(self, *_: object) -> None:
        self.recorder.close_now()

    def head(self) -> int:
        return self.recorder.max_notification_id() or 0

    def reached(self) -> int | None:
        return self.recorder.max_tracking_id(checkpoint_of(self._sink))

    def is_delivered(self) -> bool:
        return self.reached() == self.head()

    def trouble(self) -> str:
        return trouble_of(self.recorder, self._sink)[0]


@pytest.fixture
def log_of() -> Callable[[Any, str], SinkLog]:
    """Opens the log of a service, to look at one sink; a context manager."""
    return SinkLog


@pytest.fixture(scope="session")
def uploading() -> ModuleType:
    """Uploads that come piece by piece."""
    path = Path(__file__).parent / "uploading.py"
    spec = importlib.util.spec_from_file_location("faults_uploading", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
