"""A fresh, migrated recorder on each of the two databases, and what is done with it."""

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Protocol

import pytest

from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOTES = _beside("notes")
CUTTING = _beside("cutting")


class Gate(Protocol):
    """Holds the writer's thread up, so that what is submitted inside makes one batch."""

    def __call__(self, recorder: GroupCommitRecorder) -> AbstractContextManager[None]: ...


@pytest.fixture(params=["sqlite", "postgresql"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def recorder(log_url: str) -> Iterator[GroupCommitRecorder]:
    """A recorder on a migrated database with the tables of notes."""
    recorder = open_log(log_url)
    recorder.migrate()
    recorder.create_tables([NOTES.NOTES, NOTES.LINES])
    yield recorder
    recorder.close_now()


@pytest.fixture
def other_recorder(log_url: str, recorder: GroupCommitRecorder) -> Iterator[GroupCommitRecorder]:
    """A second recorder on the same database, as another process has it."""
    other = open_log(log_url)
    yield other
    other.close_now()


@pytest.fixture
def notes() -> ModuleType:
    """The application of notes.py."""
    return NOTES


@pytest.fixture
def cutting() -> ModuleType:
    """The line of cutting.py."""
    return CUTTING


@pytest.fixture
def gate() -> Gate:
    """A way to have everything that is submitted inside `with` written as one batch."""

    @contextmanager
    def hold_up(recorder: GroupCommitRecorder) -> Iterator[None]:
        entered, released = threading.Event(), threading.Event()

        def rows() -> list[object]:
            entered.set()
            released.wait(30)
            return []

        waiting = NOTES.submit(recorder, [], rows)
        assert entered.wait(10)
        try:
            yield
        finally:
            released.set()
        waiting.result(10)

    return hold_up
