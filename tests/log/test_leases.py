"""A lease has one holder at a time, and its epoch tells a new one from an old."""

import asyncio

from calotype.stores.log.recorder import GroupCommitRecorder


async def test_a_lease_is_held_renewed_and_taken_over_when_it_expires(
    recorder: GroupCommitRecorder, other_recorder: GroupCommitRecorder
) -> None:
    assert await recorder.hold_lease("sweep", "a", 0.4) == 1
    assert await other_recorder.hold_lease("sweep", "b", 5) is None
    await asyncio.sleep(0.25)
    assert await recorder.hold_lease("sweep", "a", 0.4) == 1
    await asyncio.sleep(0.25)  # The first term is over, the renewed one is not.
    assert await other_recorder.hold_lease("sweep", "b", 5) is None
    await asyncio.sleep(0.3)
    assert await other_recorder.hold_lease("sweep", "b", 5) == 2
    assert await recorder.hold_lease("sweep", "a", 5) is None


async def test_a_released_lease_is_free_and_only_its_holder_releases_it(
    recorder: GroupCommitRecorder,
) -> None:
    await recorder.hold_lease("sweep", "a", 60)
    await recorder.release_lease("sweep", "b")
    assert await recorder.hold_lease("sweep", "b", 60) is None
    await recorder.release_lease("sweep", "a")
    assert await recorder.hold_lease("sweep", "b", 60) == 2


async def test_of_many_at_once_one_gets_the_lease(
    recorder: GroupCommitRecorder, other_recorder: GroupCommitRecorder
) -> None:
    tries = [
        log.hold_lease("sweep", f"{name}{number}", 60)
        for number in range(8)
        for name, log in (("one", recorder), ("two", other_recorder))
    ]
    epochs = await asyncio.gather(*tries)
    assert sorted(epoch for epoch in epochs if epoch is not None) == [1]


async def test_live_leases_are_the_holders_under_a_prefix_that_have_not_expired(
    recorder: GroupCommitRecorder,
) -> None:
    await recorder.hold_lease("upload/1", "a", 60)
    await recorder.hold_lease("upload/2", "b", 60)
    await recorder.hold_lease("upload/3", "gone", 0.05)
    await recorder.hold_lease("upload/4", "released", 60)
    await recorder.release_lease("upload/4", "released")
    await recorder.hold_lease("uploads", "other", 60)
    await asyncio.sleep(0.1)
    assert await recorder.live_leases("upload/") == {"a", "b"}
    assert await recorder.live_leases("upload_") == set()
    assert await recorder.live_leases("%") == set()
