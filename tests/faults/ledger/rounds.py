"""A round: load runs, one fault strikes, it ends, and four leases later the judge looks."""

import asyncio
import itertools
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from tests.faults.ledger.accounts import Books
from tests.faults.ledger.book import Ledger, Row
from tests.faults.ledger.faults import KINDS, Scene
from tests.faults.ledger.judge import Judge
from tests.faults.ledger.load import Load
from tests.faults.ledger.plan import Planned
from tests.faults.ledger.stand import LogKind, Stand

BEFORE_LEASES = (0.15, 0.75)
UPLOAD_LEASES = 2.5
"""How long a slow upload lasts at most, so that some begin before a fault and end after it."""
SETTLE_LEASES = 4
PROBE_SECONDS = 2.0
END_SECONDS = 1.0

log = structlog.get_logger("faults")


@dataclass(slots=True)
class Course:
    """What all rounds of one log have in common."""

    log: LogKind
    lease_seconds: float
    commit: str
    planned: Iterator[Planned]
    ledger: Ledger
    folder: Path
    ends_at: float
    """On the monotonic clock: no round begins later."""
    kept: bool = False
    """Whether the services' own logs stay."""


async def live(course: Course, name: str) -> None:
    """One stand with as many rounds as there are to be had; another when it cannot go on."""
    for life in itertools.count():
        ended = await _live_once(course, f"{name}-{life}")
        if ended or time.monotonic() > course.ends_at:
            break


async def _live_once(course: Course, name: str) -> bool:
    """A stand from its start to its end; false when it ended before its time."""
    stand = Stand(course.folder / name, course.log, course.lease_seconds)
    try:
        await stand.begin()
        for planned in course.planned:
            row = _row(course, name, planned.kind, planned.number, planned.seed)
            try:
                await _round(stand, planned, row)
            except (RuntimeError, TimeoutError) as error:
                row.take([("away", f"the service did not come back: {error!r}")])
            _write(course, row)
            if row.away:
                return False
            if time.monotonic() > course.ends_at:
                break
        row = _row(course, name, "end of life", 0, "")
        await _end_of_life(stand, row)
        _write(course, row)
        return True
    finally:
        await stand.end()
        if not course.kept:
            shutil.rmtree(stand.folder, ignore_errors=True)


def _row(course: Course, stand: str, kind: str, number: int, seed: str) -> Row:
    return Row(course.commit, course.log, course.lease_seconds, kind, number, stand, seed)


def _write(course: Course, row: Row) -> None:
    course.ledger.write(row)
    wrong = {column: text for column, text in row.findings}
    say = log.info if row.is_clean else log.error
    say(row.kind, log=row.log, round=row.number, stand=row.stand, detail=row.detail, **wrong)


async def _round(stand: Stand, planned: Planned, row: Row) -> None:
    rng, lease = planned.rng(), stand.lease_seconds
    await stand.use_clock(false=planned.kind == "clock")
    load = Load(stand.ports, rng, UPLOAD_LEASES * lease)
    load.begin()
    scene = Scene(stand, load, rng)
    try:
        await asyncio.sleep(lease * rng.uniform(*BEFORE_LEASES))
        row.detail = await KINDS[planned.kind](scene)
        over_at = _now()
        await _until_writes(stand, load, row, scene.lifted_at)
    finally:
        await load.end(lease + END_SECONDS)
    over_at = max(over_at, _now())
    await asyncio.sleep(over_at + SETTLE_LEASES * lease - _now())
    books = load.books
    row.acknowledged, row.unknown = books.acknowledged, books.unknown
    row.refused, row.given_up = books.refused, len(books.given_up)
    row.answers = dict(books.answers)
    row.take(await Judge(stand, books).judge())


async def _until_writes(stand: Stand, load: Load, row: Row, lifted_at: float) -> None:
    """Creates images until every service has taken one."""
    patience = max(SETTLE_LEASES * stand.lease_seconds, 30.0)
    for port in stand.ports:
        while await load.create(port=port, seconds=PROBE_SECONDS) is None:
            if _now() > lifted_at + patience:
                row.take([("away", f"no writes {patience:g} s after the fault")])
                return
    row.writes_after_seconds = round(_now() - lifted_at, 2)


async def _end_of_life(stand: Stand, row: Row) -> None:
    """Everything is looked at once more, and the service's own verifications have to fit."""
    await stand.use_clock(false=False)
    row.take(await Judge(stand, Books()).look_again())
    for verb in (["projections", "verify"], ["audit", "verify"]):
        done = await stand.command(*verb)
        if done.returncode != 0:
            row.take([("unfit", f"{' '.join(verb)}: {done.stdout[-500:]}{done.stderr[-500:]}")])


def _now() -> float:
    return asyncio.get_running_loop().time()
