"""What a leader writes is not written once another process leads."""

import asyncio

import pytest
from eventsourcing.persistence import Tracking

from calotype.stores.log.append import Append, Fence
from calotype.stores.log.errors import Fenced
from calotype.stores.log.recorder import GroupCommitRecorder


async def _move(recorder: GroupCommitRecorder, position: int, fence: Fence) -> None:
    future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    recorder.submit(Append((), None, Tracking("s", position), future, fence=fence))
    await future


async def test_a_stale_leader_moves_nothing(
    recorder: GroupCommitRecorder, other_recorder: GroupCommitRecorder
) -> None:
    first = await recorder.hold_lease("s", "one", 60)
    assert first is not None
    await _move(recorder, 5, Fence("s", first))
    await recorder.release_lease("s", "one")
    second = await other_recorder.hold_lease("s", "two", 60)
    assert second is not None
    assert second > first
    with pytest.raises(Fenced):
        await _move(recorder, 9, Fence("s", first))
    assert recorder.max_tracking_id("s") == 5
    await _move(other_recorder, 7, Fence("s", second))
    assert recorder.max_tracking_id("s") == 7
