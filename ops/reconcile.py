"""`calotype reconcile`: compares what the log says should lie in the stores with what does.

Looks in both directions. Bytes that no image knows of are removed once they are old enough not to
belong to an upload that has just begun; an image whose bytes are missing is reported, never
touched.
"""

import asyncio
import time
from dataclasses import dataclass, field
from uuid import UUID

from calotype.commands.parts import Parts
from calotype.commands.places import url_now
from calotype.ops.sweeper import Swept, sweep
from calotype.projections.queries import Queries
from calotype.stores.images.driver import DataMissing, Driver, Found, StoreForbidden

PAGE = 500


@dataclass(slots=True)
class Findings:
    """What a reconciliation found and did; URLs without credentials."""

    orphans: list[str] = field(default_factory=list)
    """Whole objects that no image knows of."""
    unfinished: list[str] = field(default_factory=list)
    """Left-overs of broken writes."""
    missing: list[str] = field(default_factory=list)
    """Bytes that an image stands on but that are not there."""
    recent: int = 0
    """Unknown things too young to judge."""
    removed: int = 0
    swept: Swept = field(default_factory=Swept)


async def reconcile(
    parts: Parts, queries: Queries, *, grace_seconds: float, dry_run: bool
) -> Findings:
    """Sweeps, then compares every store with the log. With `dry_run` nothing is changed."""
    findings = Findings()
    if not dry_run:
        findings.swept = await sweep(parts, queries)
    for store, driver in parts.stores.items():
        await _orphans(store, driver, queries, findings, grace_seconds, dry_run)
    await _missing(parts, queries, findings)
    return findings


async def _orphans(
    store: str,
    driver: Driver,
    queries: Queries,
    findings: Findings,
    grace_seconds: float,
    dry_run: bool,
) -> None:
    things = driver.found()
    while (thing := await asyncio.to_thread(next, things, None)) is not None:
        if not thing.unfinished and await queries.is_known(store, thing.url.rpartition("/")[2]):
            continue
        if thing.modified_at > time.time() - grace_seconds:
            findings.recent += 1
            continue
        (findings.unfinished if thing.unfinished else findings.orphans).append(thing.url)
        if not dry_run:
            await asyncio.to_thread(_remove, driver, thing)
            findings.removed += 1


def _remove(driver: Driver, thing: Found) -> None:
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


async def _missing(parts: Parts, queries: Queries, findings: Findings) -> None:
    after = ""
    while page := await queries.stored_blobs(after, PAGE):
        for url, image_id, store in page:
            driver = parts.stores.get(store)
            if driver is None or not await asyncio.to_thread(_is_there, driver, image_id, url):
                findings.missing.append(f"{url} of image {image_id}")
        after = page[-1][0]
