"""Remembering the head of the log outside the database: beside it, and in each store.

What is remembered is compared when something starts, so that a database that was restored from an
older copy, or a store of another log, is noticed before anything is given out or removed twice. It
is written every few seconds, never on the way of a request; what cannot be written now, because a
disk is full, say, is written later.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from calotype.ops.settings.settings import Settings, SettingsError
from calotype.projections.engine.rounds import Rounds
from calotype.projections.rebuild import epochs
from calotype.projections.rebuild.epochs import Head, NotAHead, OfAnotherLog, SetBack
from calotype.stores.images.driver import Driver, StoreError
from calotype.stores.images.threads import DaemonThreads
from calotype.stores.log.errors import LogUnavailable
from calotype.stores.log.recorder import GroupCommitRecorder

FILE_SECONDS, STORE_SECONDS = 2.0, 10.0
"""How old what is remembered beside the database, and in a store, is at most."""
LAST_SECONDS = 5.0
"""How long a stop may take for remembering."""

log = structlog.get_logger("calotype.remembering")


@dataclass(frozen=True, slots=True)
class Place:
    """One place where the head of the log is remembered."""

    name: str
    """For an operator."""
    seconds: float
    """How often it is written at most."""
    read: Callable[[], bytes | None]
    write: Callable[[bytes], None]

    def head(self) -> Head | None:
        """What is remembered there. Raises NotAHead, StoreError, OSError."""
        content = self.read()
        return None if content is None else epochs.decoded(content)


def head_file(settings: Settings) -> Path:
    """Beside the embedded log, or in the data directory of a log that is elsewhere."""
    url = settings.log_url()
    if url.startswith("sqlite:///"):
        return Path(url.removeprefix("sqlite:///") + ".head")
    return Path(settings.data) / "log.head"


def places_of(settings: Settings, stores: Mapping[str, Driver]) -> list[Place]:
    """Where the head of this installation's log is remembered."""
    path = head_file(settings)
    beside = Place(str(path), FILE_SECONDS, partial(_read, path), partial(_write, path))
    return [
        beside,
        *(
            Place(f"store '{name}'", STORE_SECONDS, driver.read_marker, driver.write_marker)
            for name, driver in stores.items()
        ),
    ]


def check_log(recorder: GroupCommitRecorder, places: Sequence[Place]) -> None:
    """Raises SettingsError, with the fix, unless the log is the one that is remembered everywhere.

    A place that remembers nothing yet passes.
    """
    for place in places:
        try:
            head = place.head()
            if head is not None:
                epochs.check(recorder, head)
        except (NotAHead, OfAnotherLog) as error:
            raise SettingsError(
                f"{place.name} belongs to another event log: {error}. Set log.url and the store to "
                "those that belong together, or give it to this log on purpose: "
                "`calotype stores adopt`"
            ) from None
        except SetBack as error:
            raise SettingsError(
                f"the event log was set back, or has lost its last changes: {error}, as "
                f"{place.name} remembers. Put the newer database back (with its -wal file), or go "
                "on from here with `calotype log begin-epoch`"
            ) from None
        except (StoreError, OSError) as error:
            raise SettingsError(f"{place.name}: cannot be read: {error}") from None


def misfits(recorder: GroupCommitRecorder, places: Sequence[Place]) -> list[str]:
    """What does not fit, or cannot be asked, of all that is remembered of the log; for auditors."""
    found = []
    for place in places:
        try:
            head = place.head()
            if head is not None:
                epochs.check(recorder, head)
        except (NotAHead, OfAnotherLog, SetBack) as error:
            found.append(f"{error}, as {place.name} remembers")
        except (StoreError, OSError) as error:
            found.append(f"{place.name} cannot be asked: {error}")
    return found


def remember(recorder: GroupCommitRecorder, place: Place, *, adopt: bool = False) -> None:
    """Writes the head of the log to the place, unless just that is remembered there already.

    Raises NotAHead, OfAnotherLog and SetBack where what is there does not fit, which `adopt` does
    not look at; and StoreError, OSError.
    """
    if not adopt:
        before = place.head()
        if before is not None:
            # Read first, so that a log which only grows is never behind.
            epochs.check(recorder, before)
            now = epochs.head_of(recorder)
            if (before.log_id, before.position) == (now.log_id, now.position):
                return
    place.write(epochs.head_of(recorder).encoded())


class Rememberer:
    """Remembers the head of the log while a process serves.

    Each place has a thread of its own, which nothing waits for: a store may hang.
    """

    def __init__(self, recorder: GroupCommitRecorder, places: Sequence[Place]) -> None:
        self._recorder = recorder
        self._places = places
        self._threads = DaemonThreads(len(places), "remember")
        self._running: dict[str, Future[None]] = {}
        self._written: dict[str, tuple[int, float]] = {}
        self._troubles: dict[str, str | None] = {}

    async def run(self) -> None:
        """Remembers until cancelled; trouble is logged once, and tried again."""
        await Rounds("remembering", self._begin, every_seconds=FILE_SECONDS).run()

    async def finish(self) -> None:
        """Remembers the head of the log at the end, unless that takes too long."""
        end = asyncio.get_running_loop().time() + LAST_SECONDS
        for again in (False, True):  # What runs now may have looked at the log before the end.
            if again:
                self._written.clear()
                await self._begin()
            running = [asyncio.wrap_future(job) for job in self._running.values()]
            if running:
                left_seconds = end - asyncio.get_running_loop().time()
                await asyncio.wait(running, timeout=max(0.0, left_seconds))

    async def _begin(self) -> None:
        for place in self._places:
            job = self._running.get(place.name)
            if job is None or job.done():
                self._running[place.name] = self._threads.submit(self._look_after, place)

    def _look_after(self, place: Place) -> None:
        """Writes to the place if it is due."""
        try:
            position = self._recorder.max_notification_id() or 0
        except LogUnavailable:
            return
        known, at = self._written.get(place.name, (-1, 0.0))
        if known == position or (known >= 0 and time.monotonic() < at + place.seconds):
            return
        trouble = self._remembered(place)
        if trouble is None:
            self._written[place.name] = (position, time.monotonic())
        elif self._troubles.get(place.name) != trouble:
            log.warning("head not remembered", place=place.name, problem=trouble)
        self._troubles[place.name] = trouble

    def _remembered(self, place: Place) -> str | None:
        try:
            remember(self._recorder, place)
        except (NotAHead, OfAnotherLog, SetBack) as error:
            return f"THE LOG DOES NOT FIT: {error}"
        except (StoreError, OSError, LogUnavailable) as error:
            return str(error)
        return None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
