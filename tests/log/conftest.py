"""A fresh, migrated recorder on each of the two databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder


@pytest.fixture(params=["sqlite", "postgresql"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.sqlite'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def recorder(log_url: str) -> Iterator[GroupCommitRecorder]:
    """A recorder on a migrated database."""
    recorder = open_log(log_url)
    recorder.migrate()
    yield recorder
    recorder.close_now()
