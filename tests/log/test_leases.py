"""A lease has one holder at a time, and its epoch tells a new one from an old."""

import asyncio
import glob
import os
import subprocess
import sys
import time
from pathlib import Path

from calotype.stores.log.opening import open_log
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.sqlite.recorder import SQLiteRecorder


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


async def test_a_clock_that_is_set_back_or_a_reboot_ends_the_leases_that_were_written_before(
    recorder: GroupCommitRecorder, other_recorder: GroupCommitRecorder
) -> None:
    await recorder.hold_lease("process:a", "a", 15)
    await recorder.hold_lease("process:b", "b", 15)
    _written_before(recorder, "process:a")
    assert await other_recorder.live_leases("process:") == {"b"}
    assert await other_recorder.hold_lease("process:a", "new", 15) == 2
    assert await other_recorder.live_leases("process:") == {"b", "new"}


def _written_before(recorder: GroupCommitRecorder, name: str) -> None:
    """Makes the lease one of three hours ahead of the clock, or of another boot."""
    if isinstance(recorder, SQLiteRecorder):
        recorder._write_now("UPDATE leases SET boot = 'former' WHERE name = :name", {"name": name})
    else:
        recorder.fetch_now(
            "UPDATE leases SET expires_at = expires_at + interval '3 hours' WHERE name = :name",
            {"name": name},
        )


def test_leases_on_sqlite_do_not_care_for_the_time_of_day(tmp_path: Path) -> None:
    """A process whose clock is three hours ahead takes a lease and dies; then time is right."""
    url = f"sqlite:///{tmp_path / 'log.sqlite'}"
    recorder = open_log(url)
    recorder.migrate()
    take = (
        "import asyncio, sys; from calotype.stores.log.opening import open_log; "
        "r = open_log(sys.argv[1]); asyncio.run(r.hold_lease('sweeper', 'early', 1.0))"
    )
    (library,) = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    ahead = {"LD_PRELOAD": library, "FAKETIME": "+3h", "DONT_FAKE_MONOTONIC": "1"}
    command = [sys.executable, "-c", take, url]
    subprocess.run(command, check=True, timeout=30, env=os.environ | ahead)
    assert asyncio.run(recorder.live_leases("sweeper")) <= {"early"}
    time.sleep(1.0)  # The lease's length: nothing else tells that it is over.
    assert asyncio.run(recorder.hold_lease("sweeper", "next", 15)) == 2
    recorder.close_now()
