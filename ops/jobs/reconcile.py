"""`calotype reconcile`: compares what the log says should lie in the stores with what does.

Looks in both directions. Bytes that no image knows of are removed once they are old enough not to
belong to an upload that has just begun; an image whose bytes are missing is reported, never
touched.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from calotype.commands.context import CommandContext
from calotype.commands.images.places import url_now, written_for
from calotype.ops.jobs.sweeper import Swept, sweep_alone
from calotype.projections.images.queries import Queries
from calotype.projections.rebuild.epochs import last_event_time, lost_times
from calotype.stores.images.driver import DataMissing, Driver, StoredObject, StoreForbidden
from calotype.stores.log.recorder import GroupCommitRecorder

PAGE = 500
CLOCKS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Reach:
    """The times of which the log can tell what was written."""

    until: float
    """When its last event was written, in seconds since 1970."""
    lost: list[tuple[float, float]]
    """From when until when it has lost its events."""

    def may_have_lost(self, moment: float) -> bool:
        """Whether an event of this time may be missing; clocks may differ by a minute."""
        return moment > self.until - CLOCKS_SECONDS or any(
            start - CLOCKS_SECONDS < moment < end + CLOCKS_SECONDS for start, end in self.lost
        )


def reach_of(recorder: GroupCommitRecorder) -> Reach:
    """The reach of this log."""
    lost = [(start.timestamp(), end.timestamp()) for start, end in lost_times(recorder)]
    return Reach(last_event_time(recorder).timestamp(), lost)


@dataclass(slots=True)
class Findings:
    """What a reconciliation found and did; URLs without credentials."""

    orphans: list[str] = field(default_factory=list)
    """Whole objects that no image knows of."""
    unfinished: list[str] = field(default_factory=list)
    """Left-overs of broken writes."""
    beyond: list[str] = field(default_factory=list)
    """Objects that Calotype wrote in a time of which the log has lost its events, or that it does
    not reach yet. They may be the only copy, so they are never removed."""
    missing: list[str] = field(default_factory=list)
    """Bytes that an image stands on but that are not there."""
    recent: int = 0
    """Unknown things too young to judge."""
    removed: int = 0
    """How many were removed; in a dry run, how many would be."""
    swept: Swept = field(default_factory=Swept)


async def reconcile(
    context: CommandContext,
    queries: Queries,
    advance: Callable[[int], object] = lambda count: None,
    *,
    grace_seconds: float,
    dry_run: bool,
) -> Findings:
    """Sweeps, then compares every store with the log. With `dry_run` nothing is changed.

    Calls `advance` for each object of a store, and for each image whose bytes were looked for.
    """
    findings = Findings()
    if not dry_run:
        findings.swept = await sweep_alone(context, queries)
    reach = await asyncio.to_thread(reach_of, context.log.recorder)
    for store, driver in context.stores.items():
        things = driver.found()
        while (thing := await asyncio.to_thread(next, things, None)) is not None:
            advance(1)
            if await _is_stray(reach, store, thing, queries, findings, grace_seconds):
                (findings.unfinished if thing.unfinished else findings.orphans).append(thing.url)
                findings.removed += 1
                if not dry_run:
                    await asyncio.to_thread(_remove, driver, thing)
    await _missing(context, queries, findings, advance)
    return findings


async def _is_stray(
    reach: Reach,
    store: str,
    thing: StoredObject,
    queries: Queries,
    findings: Findings,
    grace_seconds: float,
) -> bool:
    """Whether nothing needs it; else notes in the findings why it is left alone."""
    key = thing.url.rpartition("/")[2]
    if thing.unfinished:
        if await queries.is_written(store, key):
            return False  # It is its writer's, or the sweeper's when that is gone.
    elif await queries.is_known(store, key):
        return False
    elif await _is_beyond(reach, queries, thing):
        findings.beyond.append(thing.url)
        return False
    if thing.modified_at > time.time() - grace_seconds:
        findings.recent += 1
        return False
    return True


async def _is_beyond(reach: Reach, queries: Queries, thing: StoredObject) -> bool:
    """Whether the log may have known of these bytes once: their intent came before them."""
    written = written_for(thing.url)
    return (
        written is not None
        and reach.may_have_lost(thing.modified_at)
        and not await queries.has_begun(*written)
    )


def _remove(driver: Driver, thing: StoredObject) -> None:
    try:
        if thing.unfinished:
            driver.discard(thing)
        else:
            driver.delete(thing.url)
    except DataMissing:
        pass  # Somebody else was quicker.


def _is_there(driver: Driver, image_id: UUID, url: str) -> bool:
    try:
        return driver.exists(url_now(driver, image_id, url))
    except StoreForbidden:
        return False  # Somebody named this place by hand, and the store has moved since.


async def _missing(
    context: CommandContext,
    queries: Queries,
    findings: Findings,
    advance: Callable[[int], object],
) -> None:
    after = ""
    while page := await queries.stored_blobs(after, PAGE):
        for url, image_id, store in page:
            driver = context.stores.get(store)
            if driver is None or not await asyncio.to_thread(_is_there, driver, image_id, url):
                findings.missing.append(f"{url} of image {image_id}")
        after = page[-1][0]
        advance(len(page))
