"""Positions are opaque text that only the log that gave them out takes back."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calotype.commands.errors import Invalid
from calotype.projections.engine.positions import Positions, positions_now, positions_of
from calotype.stores.log.opening import open_log

HERE, ELSEWHERE = Positions("0123456789ab"), Positions("ba9876543210")


@given(st.integers(0, 2**59))
def test_a_position_comes_back_from_its_text(position: int) -> None:
    assert HERE.decode(HERE.encode(position)) == position


@given(st.integers(0, 2**59))
def test_a_position_of_another_log_is_refused_by_name(position: int) -> None:
    with pytest.raises(Invalid, match="'after' is a position of another event log"):
        HERE.decode(ELSEWHERE.encode(position), "after")


@given(st.lists(st.integers(0, 100), max_size=4).map(sorted), st.integers(0, 120))
def test_after_a_new_epoch_every_position_keeps_the_text_that_it_had(
    ends: list[int], position: int
) -> None:
    ids = [f"{number:012x}" for number in range(len(ends))]
    set_back = Positions("f" * 12, tuple(zip(ids, ends, strict=True)))
    assert set_back.decode(set_back.encode(position)) == position
    for log, end in set_back.former:
        text = Positions(log).encode(position)
        if position <= end:
            assert set_back.decode(text) == position
        else:
            with pytest.raises(Invalid, match="'after' is a position of events that were lost"):
                set_back.decode(text, "after")
    assert Positions("f" * 12).encode(position) == f"pffffffffffff-{position:x}"


@given(st.text(max_size=40))
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="'as_of' is not a position"):
        HERE.decode(text, "as_of")


@pytest.mark.parametrize("database", ["sqlite", pytest.param("pg", marks=pytest.mark.slow)])
async def test_a_log_keeps_its_identity(database: str, tmp_path: Path, request: Any) -> None:
    """Reopened and migrated again it is the same log; another one is another."""
    url = f"sqlite:///{tmp_path / 'log.sqlite'}"
    if database == "pg":
        url = request.getfixturevalue("postgres_url")
    found = []
    for _ in range(2):
        recorder = open_log(url)
        recorder.migrate()
        found.append(await positions_of(recorder))
        assert positions_now(recorder) == found[-1]
        await recorder.close()
    assert found[0] == found[1]
    other = open_log(f"sqlite:///{tmp_path / 'other.sqlite'}")
    other.migrate()
    assert positions_now(other) != found[0]
    await other.close()
