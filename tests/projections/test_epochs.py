"""What is remembered of a log outside its database, held against the log."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from calotype.commands.context import SYSTEM, cause_of
from calotype.commands.images.image import create
from calotype.projections.engine.positions import positions_now
from calotype.projections.rebuild import epochs
from calotype.projections.rebuild.epochs import Head, NotAHead, OfAnotherLog, SetBack
from calotype.stores.log.log import EventLog
from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder

FIELDS = {"visibility": "shared", "owner": "p1", "protected": False}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def recorder(request: Any, tmp_path: Path) -> AsyncIterator[GroupCommitRecorder]:
    """A log with four events."""
    url = f"sqlite:///{tmp_path / 'log.sqlite'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    recorder = open_log(url)
    recorder.migrate()
    await grow(recorder, 4)
    yield recorder
    await recorder.close()


async def grow(recorder: GroupCommitRecorder, count: int) -> None:
    log = EventLog(recorder, lambda image, events: ())
    for _ in range(count):
        image_id = str(uuid4())
        cause = cause_of(SYSTEM, "req-1")
        await log.create(create(cause, image_id=image_id, fields=FIELDS, tags=[], properties={}))
        assert await log.load(UUID(image_id)) is not None


def head(recorder: GroupCommitRecorder, **changes: Any) -> Head:
    now = epochs.head_of(recorder)
    kept = {name: getattr(now, name) for name in ("log_id", "position", "event", "former")}
    return Head(**{**kept, **changes})


async def test_a_log_that_only_grew_fits_what_was_remembered(recorder: Any) -> None:
    before = epochs.decoded(epochs.head_of(recorder).encoded())
    assert (before.position, before.former) == (4, ())
    epochs.check(recorder, before)
    await grow(recorder, 2)
    epochs.check(recorder, before)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"position": 9}, SetBack),
        ({"event": "00" * 32}, SetBack),
        ({"log_id": "0" * 12}, OfAnotherLog),
    ],
)
async def test_what_does_not_fit_is_refused(recorder: Any, changes: Any, refusal: Any) -> None:
    with pytest.raises(refusal):
        epochs.check(recorder, head(recorder, **changes))


async def test_a_copy_of_before_an_epoch_knows_from_what_was_remembered_that_it_is_one(
    recorder: Any,
) -> None:
    ours = positions_now(recorder).log_id
    later = head(recorder, log_id="a" * 12, position=30, former=((ours, 3),))
    with pytest.raises(SetBack, match="from before"):
        epochs.check(recorder, later)
    positions = await epochs.begin_epoch(recorder, [later])
    # What both have had is what both call by the same name.
    assert positions.former == ((ours, 3), ("a" * 12, 3))
    assert positions.encode(3) == f"p{ours}-3"
    assert positions.encode(4) == f"p{positions.log_id}-4"
    epochs.check(recorder, later)


async def test_a_second_epoch_ends_the_first_where_the_log_ends_now(recorder: Any) -> None:
    first = positions_now(recorder).log_id
    second = (await epochs.begin_epoch(recorder, [head(recorder, position=9)])).log_id
    await grow(recorder, 2)
    positions = await epochs.begin_epoch(recorder, [head(recorder, position=9)])
    assert positions.former == ((first, 4), (second, 6))
    assert len(epochs.lost_times(recorder)) == 2
    assert positions_now(recorder) == positions


async def test_where_the_log_went_on_by_itself_no_position_is_believed_unless_told(
    recorder: Any,
) -> None:
    first = positions_now(recorder).log_id
    other = head(recorder, event="00" * 32)
    assert (await epochs.begin_epoch(recorder, [other])).former == ((first, 0),)
    second = positions_now(recorder).log_id
    other = head(recorder, event="00" * 32)
    assert (await epochs.begin_epoch(recorder, [other], 2)).former == ((first, 0), (second, 2))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"format":"calotype-head-2"}'])
def test_what_is_no_head_is_said_to_be_none(content: bytes) -> None:
    with pytest.raises(NotAHead):
        epochs.decoded(content)
