"""One run of the benchmark, from options to the report. No figure makes it fail."""

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import structlog
from rich.console import Console

from tests.bench import identity, long_image, metadata, past, transfers
from tests.bench.figures import MEGABYTE, Target
from tests.bench.machine import machine_facts, touch_memory
from tests.bench.options import BenchError, Options
from tests.bench.report import as_json, as_markdown, print_report
from tests.bench.rig import Rig
from tests.bench.subjects import subjects

BYTES_FOR_EACH_IMAGE = 30_000
"""What an image takes at most on disk: events, rows, indexes and the database's own log."""
MEMORY_TARGET_MEGABYTES = 150.0
FILE_COLUMNS = 140

log = structlog.get_logger("calotype.bench")


def bench(options: Options) -> None:
    """Measures what `options` name, prints the tables, and writes the files asked for.

    Raises BenchError when the run cannot be done as asked. Everything that it starts it stops,
    and everything that it writes beside the reports it removes. A run that is cut short reports
    what it had found by then, marked as not complete.
    """
    options.check()
    _check_room(options)
    _check_writable(options)
    started = time.monotonic()
    with terminated_like_interrupted(), own_folder(options.folder) as folder:
        facts = machine_facts(folder)
        touch_memory()
        rig = Rig(options, folder)
        complete = False
        try:
            with rig:
                for name in options.logs:
                    if set(options.scenarios) - {"past", "long-image"}:
                        _measure(rig, name)
                    if "past" in options.scenarios:
                        past.measure_long_log(rig, name)
                    if "long-image" in options.scenarios:
                        long_image.measure_long_image(rig, name)
            complete = True
        finally:
            if rig.rows:
                _report(options, facts, rig, time.monotonic() - started, complete)


def _report(
    options: Options, facts: dict[str, str], rig: Rig, seconds: float, complete: bool
) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_COLUMNS)
    print_report(console, facts, rig.rows, rig.targets)
    if options.out is not None:
        found = as_json(facts, asdict(options), rig.rows, rig.targets, seconds, complete)
        options.out.write_bytes(found + b"\n")
    if options.markdown is not None:
        options.markdown.write_text(as_markdown(facts, rig.rows, rig.targets))


def _measure(rig: Rig, log_name: str) -> None:
    """All scenarios on one log. Those that add images come last, so that few stay few."""
    with subjects(rig, log_name) as (few, many):
        wanted = rig.options.scenarios
        for name, scenario in (
            ("show", metadata.measure_show),
            ("list", metadata.measure_list),
            ("patch", metadata.measure_patch),
            ("create", metadata.measure_create),
        ):
            if name in wanted:
                scenario(rig, few, many)
        if "upload" in wanted:
            transfers.measure_upload(rig, few)
        if "download" in wanted:
            transfers.measure_download(rig, few)
        if "identity" in wanted:
            identity.measure_identity(rig, few)
    peaks = [row.peak_memory_megabytes for row in rig.rows if row.log == log_name]
    target = MEMORY_TARGET_MEGABYTES
    rig.targets.append(Target("memory of a worker", log_name, max(peaks), target, True, "MB"))


def _check_room(options: Options) -> None:
    """Refuses before anything is started what the disk cannot hold."""
    images = options.few_images + options.many_images
    needed = len(options.logs) * images * BYTES_FOR_EACH_IMAGE + (2 << 30)
    if "upload" in options.scenarios or "download" in options.scenarios:
        needed += 3 * options.large_bytes
        # At most this much comes in while uploads are watched side by side.
        needed += int(options.window_seconds * 1000 * MEGABYTE)
    free = shutil.disk_usage(options.folder).free
    if free < needed:
        raise BenchError(
            f"{options.folder} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB may be "
            "needed; make room, or name a folder on another disk"
        )


def _check_writable(options: Options) -> None:
    """Refuses reports that could not be written, before the minutes are spent."""
    for path in (options.out, options.markdown):
        if path is not None:
            try:
                path.open("ab").close()
            except OSError as error:
                raise BenchError(f"{path} cannot be written: {error.strerror}") from None


@contextmanager
def own_folder(parent: Path) -> Iterator[Path]:
    """A new folder that is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="calotype-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Makes SIGTERM end the run as Ctrl-C does: with everything stopped and removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
