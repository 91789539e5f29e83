"""Rebuilds a projection while it is being read.

A rebuild fills spare tables from the whole log, lets them catch up with what was appended
meanwhile, compares them with those in use, and puts them in their place in one transaction under
the log's lock. It can die at any moment: until that transaction nobody has read the spare tables,
and after it only former ones are left over, which the next rebuild removes.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from eventsourcing.persistence import Tracking

from calotype.projections.engine.follower import PAGE_BYTES, Fold
from calotype.projections.engine.leadership import HeldLease, held
from calotype.projections.rebuild.build import build
from calotype.projections.rebuild.compare import Comparison, compare, compare_sums
from calotype.projections.rebuild.registry import Projection, in_the_place_of
from calotype.stores.log.append import Append
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.statements import Fetch
from calotype.stores.log.table_sets import Switch, TableSet
from calotype.stores.log.tables import Change

PAGE_EVENTS = 128
"""Events that are caught up with in one append: callers wait while it is written."""
SERVING = "process:"
"""The leases of processes that serve begin so: while there are any, writers need their turn."""
FEW_EVENTS = 64
"""With no more than these to catch up with, it is time to switch."""

_TRACKED = "SELECT application_name, notification_id FROM tracking"


class NothingBuilt(Exception):
    """There are no spare tables to switch to."""


class Progress(Protocol):
    """Reports the progress of a rebuild."""

    def phase(self, name: str, total: int) -> None:
        """A phase begins, with so much to do."""

    def advance(self, count: int) -> None:
        """So much of it is done."""


@dataclass(frozen=True, slots=True)
class Spare:
    """Spare tables that are built, and wait for a switch."""

    generation: int
    position: int
    """All events up to here are in them."""


def spare_of(fetch: Fetch, what: Projection) -> Spare | None:
    """The spare tables of a projection that are built, the latest of them."""
    found = [
        Spare(int(name.removeprefix(_built(what, ""))), position)
        for name, position in fetch(_TRACKED)
        if name.startswith(_built(what, ""))
    ]
    return max(found, key=lambda spare: spare.generation, default=None)


def rebuild(
    recorder: GroupCommitRecorder, url: str, what: Projection, progress: Progress, *, processes: int
) -> Spare:
    """Makes spare tables of the whole log and their indexes; `switch` is what comes next.

    `url` is the log's, for the processes that fill them. What an earlier rebuild has left over is
    removed. Raises LeaseTaken while another process rebuilds this projection, and BuildFailed.
    """
    gentle = bool(asyncio.run(recorder.live_leases(SERVING)))
    with (
        held(recorder, _lease(what)) as lease,
        _spare(recorder, what, lease.epoch, gentle=gentle) as spare,
    ):
        _remove_leftovers(recorder, what, spare, lease, progress)
        try:
            spare.make()
            until = recorder.max_notification_id() or 0
            progress.phase("events", until)
            filling = build(url, what, lease.epoch, until, processes=processes, gentle=gentle)
            for count in filling:
                progress.advance(count)
                lease.check()
            progress.phase("indexes", sum(len(table.indexes) for table in what.tables))
            for _ in spare.index():
                progress.advance(1)
                lease.check()
            _append(recorder, lease, [], _built(what, lease.epoch), until)
        except BaseException:
            spare.remove()
            raise
    return Spare(lease.epoch, until)


def look(recorder: GroupCommitRecorder, what: Projection, progress: Progress) -> Comparison:
    """Compares the spare tables with those in use, once they have caught up with the log.

    Raises NothingBuilt and LeaseTaken.
    """
    with held(recorder, _lease(what)) as lease:
        built = _built_spare(recorder, what)
        with _spare(recorder, what, built.generation) as spare:
            catching_up = _CatchingUp(recorder, what, spare, lease, built)
            catching_up.run(progress)
            progress.phase("rows compared", 0)
            return compare(recorder, what, spare.spare, catching_up.position)


def switch(recorder: GroupCommitRecorder, what: Projection, progress: Progress) -> int:
    """Puts the spare tables in the place of those in use; the position at which that happened.

    Raises NothingBuilt, LeaseTaken, Fenced and SwitchRefused; nothing has changed then. The former
    tables are removed afterwards.
    """
    with held(recorder, _lease(what)) as lease:
        built = _built_spare(recorder, what)
        with _spare(recorder, what, built.generation) as spare:
            catching_up = _CatchingUp(recorder, what, spare, lease, built)
            catching_up.run(progress)
            position = spare.switch(
                Switch(
                    fence=lease.fence,
                    finish=catching_up.finish,
                    built=_built(what, built.generation),
                    follower=what.follower,
                    lease=None if what.follower is None else f"follower:{what.follower}",
                )
            )
            if what.snapshots is not None:
                what.snapshots.forget(recorder)
            _remove_leftovers(recorder, what, spare, lease, progress)
    return position


def count_again(recorder: GroupCommitRecorder, what: Projection, progress: Progress) -> Comparison:
    """Makes a table of sums again, in one step; how it was before. Raises LeaseTaken."""
    assert what.sums is not None
    with held(recorder, _lease(what)):
        progress.phase("rows compared", 0)
        comparison = compare_sums(recorder, what, what.sums)
        progress.phase("counted again", 0)
        what.sums.count_again(recorder)
    return comparison


class _CatchingUp:
    """Brings spare tables up to the end of the log, page by page, as a follower does."""

    def __init__(
        self,
        recorder: GroupCommitRecorder,
        what: Projection,
        spare: TableSet,
        lease: HeldLease,
        built: Spare,
    ) -> None:
        self.position = built.position
        self._recorder = recorder
        self._spare = spare
        self._lease = lease
        self._name = _built(what, built.generation)
        self._fold: Fold = what.follow(recorder, spare.spare)
        self._tried = False

    def run(self, progress: Progress) -> None:
        """Catches up until few events are left."""
        head = self._recorder.max_notification_id() or 0
        progress.phase("events caught up with", head - self.position)
        while True:
            changes, position = self._page(self.position)
            count = position - self.position
            if count:
                _append(self._recorder, self._lease, changes, self._name, position)
                self.position = position
                progress.advance(count)
            if count <= FEW_EVENTS:
                return

    def finish(self) -> tuple[list[Change], int]:
        """The changes by all events that are left, and the end of the log."""
        if self._tried:
            self._fold.forget()  # It remembers a try whose changes were never written.
        self._tried = True
        position, all_changes = self.position, list[Change]()
        while True:
            changes, reached = self._page(position)
            if reached == position:
                return all_changes, position
            all_changes += changes
            position = reached

    def _page(self, after: int) -> tuple[list[Change], int]:
        page = self._recorder.select_notifications(
            after, PAGE_EVENTS, inclusive_of_start=False, limit_bytes=PAGE_BYTES
        )
        if not page:
            return [], after
        return in_the_place_of(self._fold.fold(page), self._spare.spare), page[-1].id


def _lease(what: Projection) -> str:
    return f"rebuild:{what.name}"


def _built(what: Projection, generation: int | str) -> str:
    """The name under which spare tables that are built are tracked."""
    return f"rebuild:{what.name}:{generation}"


def _built_spare(recorder: GroupCommitRecorder, what: Projection) -> Spare:
    built = spare_of(recorder.fetch_now, what)
    if built is None:
        raise NothingBuilt(f"nothing is built for {what.name}: run `calotype projections rebuild`")
    return built


@contextmanager
def _spare(
    recorder: GroupCommitRecorder, what: Projection, generation: int, *, gentle: bool = True
) -> Iterator[TableSet]:
    spare = recorder.table_set(what.tables, generation, gentle=gentle)
    try:
        yield spare
    finally:
        spare.close()


def _append(
    recorder: GroupCommitRecorder, lease: HeldLease, changes: list[Change], name: str, position: int
) -> None:
    future: Future[list[int]] = Future()
    rows: Callable[[], list[Change]] = lambda: changes  # noqa: E731 - typed, unlike an argument
    tracking = Tracking(name, position)
    recorder.submit(Append((), rows, tracking, future, fence=lease.fence))
    future.result()


def _remove_leftovers(
    recorder: GroupCommitRecorder,
    what: Projection,
    spare: TableSet,
    lease: HeldLease,
    progress: Progress,
) -> None:
    recorder.forget_tracking(_built(what, ""))
    progress.phase("tables removed", 0)
    for _ in spare.remove_others():
        progress.advance(1)
        lease.check()
