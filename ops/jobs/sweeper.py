"""The sweeper: no image stays stuck in saving, and no garbage stays in a store.

Every process holds a lease while it lives. What a process began and has forgotten (the log did not
take the end of an upload, say) it gives up itself, again and again until the log takes it. One
process, the leader, gives up the uploads of processes that are gone for good, removes bytes that no
image stands on, and purges deleted images whose window is over. All of it looks at tables that are
folds over the log, so nothing depends on who did what before. ARCHITECTURE.md draws the states.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from calotype.commands.context import SYSTEM, CommandContext, cause_of, new_id
from calotype.commands.images.data import (
    garbage_of,
    give_up_upload,
    remove_blob,
    remove_garbage,
    remove_strays,
)
from calotype.commands.images.deletion import end_retention
from calotype.commands.images.events import clock_text
from calotype.commands.images.image import Image
from calotype.projections.engine.leadership import Leadership
from calotype.projections.engine.presence import Presence
from calotype.projections.engine.rounds import Rounds
from calotype.projections.images.queries import Queries, Upload
from calotype.projections.images.restorable import retention_over
from calotype.stores.images.driver import StoreError
from calotype.stores.log.recorder import GroupCommitRecorder

PAGE = 500
AT_ONCE = 16
"""So many uploads are given up side by side: they share the log's transactions."""
MOST_FAILURES = 3
"""After so many failures in a row the sweep leaves a store alone until the next time."""

log = structlog.get_logger("calotype.sweeper")


@dataclass(slots=True)
class Swept:
    """What one sweep did."""

    uploads_given_up: int = 0
    blobs_removed: int = 0


def process_lease(recorder: GroupCommitRecorder, process_id: str) -> Leadership:
    """The lease that says that a process lives."""
    seconds = recorder.lease_terms.process_seconds
    return Leadership(recorder, f"process:{process_id}", process_id, seconds=seconds)


async def keep_lease(lease: Leadership) -> None:
    """Renews the lease of this process until cancelled; then gives it back."""
    try:
        await Rounds("process lease", lease.held, every_seconds=lease.look_seconds).run()
    finally:
        await lease.give_back()


async def sweep(context: CommandContext, queries: Queries, is_gone: Callable[[str], bool]) -> Swept:
    """Gives up the uploads of processes that are gone, and removes what nobody can need.

    What is wrong with one store, or takes long there, holds up nothing else.
    """
    swept = Swept()
    for holder in await queries.holders():
        if is_gone(holder):
            reason = "the process that received the data is gone"
            swept.uploads_given_up += await _give_up(
                context, queries, holder, reason, lambda upload: is_gone(upload.holder)
            )
    await _end_retentions(context)
    removed = await asyncio.gather(
        *(_sweep_store(context, queries, store) for store in context.stores)
    )
    swept.blobs_removed = sum(removed)
    return swept


async def sweep_alone(context: CommandContext, queries: Queries) -> Swept:
    """A sweep by a tool, which has not seen yet who is there.

    Where uploads are on record of processes without a lease, it watches these for as long as it
    takes to know that they are gone.
    """
    recorder = context.log.recorder
    lease = process_lease(recorder, context.process_id)
    presence = Presence(lease.seconds, context.process_id)
    try:
        while True:
            await lease.held()
            asked_at = time.monotonic()
            living = await recorder.live_leases("process:")
            presence.note(living, asked_at)
            waiting = [holder for holder in await queries.holders() if holder not in living]
            if all(map(presence.is_gone, waiting)):
                return await sweep(context, queries, presence.is_gone)
            await asyncio.sleep(recorder.lease_terms.process_renew_seconds)
    finally:
        await lease.give_back()


async def give_up_forgotten(context: CommandContext, queries: Queries) -> int:
    """Gives up uploads that this process began and no longer runs; returns how many."""
    reason = "the upload ended and the log could not be told"
    return await _give_up(
        context,
        queries,
        context.process_id,
        reason,
        lambda upload: upload.id not in context.uploads,
    )


async def _give_up(
    context: CommandContext,
    queries: Queries,
    holder: str,
    reason: str,
    wanted: Callable[[Upload], bool],
) -> int:
    """Gives up those uploads of one process that are still `wanted` when it is their turn."""
    given_up, after = 0, ""
    while page := await queries.uploads_of(holder, after, PAGE):
        for start in range(0, len(page), AT_ONCE):
            some = [upload for upload in page[start : start + AT_ONCE] if wanted(upload)]
            given_up += len(some)
            await _all_of(
                give_up_upload(
                    context, cause_of(SYSTEM, "req-" + new_id()), upload.image_id, upload.id, reason
                )
                for upload in some
            )
        after = page[-1].url
    return given_up


async def _all_of(works: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Does all of them, and raises the first failure when all have had their turn."""
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


async def _end_retentions(context: CommandContext) -> None:
    while True:
        over = await retention_over(context.log.recorder, clock_text(datetime.now(UTC)), PAGE)
        for image_id in over:
            await end_retention(context, image_id)
        if len(over) < PAGE:
            return


async def _sweep_store(context: CommandContext, queries: Queries, store: str) -> int:
    """Removes the garbage of one store, all of it unless the store fails; returns how much."""
    removed, failures, after = 0, 0, UUID(int=0)
    while page := await queries.garbage(store, after, PAGE):
        for image_id in page:
            image = await context.log.load(image_id)
            try:
                removed += await _remove_from(context, store, image)
                failures = 0
            except StoreError as error:
                failures += 1
                if failures == MOST_FAILURES:
                    log.warning("garbage stays", store=store, error=str(error))
                    return removed
        after = page[-1]
    return removed


async def _remove_from(context: CommandContext, store: str, image: Image | None) -> int:
    if image is None:
        return 0
    mine = [blob for blob in garbage_of(image) if blob.store == store]
    return sum([await remove_blob(context, image, blob) for blob in mine])


class Sweeper:
    """One process's part in sweeping: its own uploads and garbage, and all others when it leads."""

    def __init__(self, context: CommandContext, queries: Queries) -> None:
        self._context = context
        self._queries = queries
        self._terms = context.log.recorder.lease_terms
        self._presence = Presence(self._terms.process_seconds, context.process_id)

    async def run(self) -> None:
        """Works until cancelled."""
        every_seconds = self._terms.process_renew_seconds
        recorder, holder = self._context.log.recorder, self._context.process_id
        leadership = Leadership(recorder, "sweeper", holder)
        rounds = (
            Rounds("look at processes", self._look, every_seconds=every_seconds),
            Rounds("own uploads", self._tidy, every_seconds=every_seconds),
            Rounds("sweeper", self._sweep, every_seconds=every_seconds, leadership=leadership),
            Rounds("own garbage", self._remove_garbage),
        )
        await asyncio.gather(*(one.run() for one in rounds))

    async def _look(self) -> None:
        asked_at = time.monotonic()
        self._presence.note(await self._context.log.recorder.live_leases("process:"), asked_at)

    async def _tidy(self) -> None:
        given_up = await give_up_forgotten(self._context, self._queries)
        if given_up:
            log.info("own uploads given up", uploads=given_up)
        await remove_strays(self._context)

    async def _sweep(self) -> None:
        await self._look()  # Nothing is given up of a process that has come back meanwhile.
        swept = await sweep(self._context, self._queries, self._is_gone)
        if swept != Swept():
            log.info("swept", uploads=swept.uploads_given_up, blobs=swept.blobs_removed)

    def _is_gone(self, holder: str) -> bool:
        return holder != self._context.process_id and self._presence.is_gone(holder)

    async def _remove_garbage(self) -> None:
        """Removes at once what this process has made garbage; the leader finds the rest."""
        await remove_garbage(self._context, await self._context.garbage.get())
