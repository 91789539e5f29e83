"""The sweeper: no image stays stuck in saving, and no garbage stays in a store.

Every process holds a lease while it lives. An upload whose process has no lease any more is given
up: the image is queued again. Bytes that no image stands on are removed, and deleted images whose
window is over are purged. Each sweep looks at tables that are folds over the log, so nothing
depends on who did what before.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import structlog

from calotype.commands.data import give_up_upload, remove_garbage
from calotype.commands.deletion import end_retention
from calotype.commands.image import clock_text
from calotype.commands.parts import SYSTEM, Parts, cause_of, new_id
from calotype.commands.states import DOOMED
from calotype.projections.queries import Queries, UnsettledBlob
from calotype.projections.restorable import retention_over

PAGE = 500

log = structlog.get_logger("calotype.sweeper")


@dataclass(slots=True)
class Swept:
    """What one sweep did."""

    uploads_given_up: int = 0
    blobs_removed: int = 0


def lease_name(process_id: str) -> str:
    """The name of the lease that says that a process lives."""
    return f"process:{process_id}"


async def sweep(parts: Parts, queries: Queries) -> Swept:
    """Gives up the uploads of processes that are gone, and removes what nobody can need."""
    swept = Swept()
    unsettled = await queries.unsettled_blobs(PAGE)
    living = await parts.log.recorder.live_leases("process:")
    doomed: set[UUID] = set()
    for blob in unsettled:
        if blob.state == DOOMED and not blob.holder:
            doomed.add(blob.image_id)
        elif blob.holder and blob.upload_id and not _runs(parts, living, blob):
            cause = cause_of(SYSTEM, "req-" + new_id())
            reason = "the process that received the data is gone"
            await give_up_upload(parts, cause, blob.image_id, blob.upload_id, reason)
            swept.uploads_given_up += 1
    for image_id in doomed:
        image = await parts.log.load(image_id)
        if image is not None:
            swept.blobs_removed += await remove_garbage(parts, image)
    for image_id in await retention_over(parts.log.recorder, clock_text(datetime.now(UTC)), PAGE):
        image = await end_retention(parts, image_id)
        swept.blobs_removed += await remove_garbage(parts, image)
    return swept


def _runs(parts: Parts, living: set[str], blob: UnsettledBlob) -> bool:
    if blob.holder == parts.process_id:
        return blob.upload_id in parts.uploads
    return blob.holder in living


async def keep_lease(parts: Parts) -> None:
    """Says again and again that this process lives, until cancelled."""
    terms = parts.log.recorder.lease_terms
    while True:
        try:
            await parts.log.recorder.hold_lease(
                lease_name(parts.process_id), parts.process_id, terms.process_seconds
            )
        except Exception as error:
            log.warning("lease not renewed", error=str(error))
        await asyncio.sleep(terms.process_renew_seconds)


async def sweep_for_ever(parts: Parts, queries: Queries) -> None:
    """Sweeps every few seconds, and removes a deleted image's bytes at once, until cancelled.

    Many processes may sweep; one does at a time, the holder of the lease `sweeper`.
    """
    loop, terms = asyncio.get_running_loop(), parts.log.recorder.lease_terms
    next_sweep = loop.time()
    while True:
        try:
            async with asyncio.timeout_at(next_sweep):
                image = await parts.garbage.get()
            await remove_garbage(parts, image)
            continue
        except TimeoutError:
            pass
        except Exception as error:
            log.warning("garbage not removed", error=str(error))
        next_sweep = loop.time() + terms.process_renew_seconds
        try:
            lease = await parts.log.recorder.hold_lease(
                "sweeper", parts.process_id, 2 * terms.process_renew_seconds
            )
            if lease is not None:
                swept = await sweep(parts, queries)
                if swept != Swept():
                    log.info("swept", uploads=swept.uploads_given_up, blobs=swept.blobs_removed)
        except Exception as error:
            log.warning("sweep failed", error=str(error))
