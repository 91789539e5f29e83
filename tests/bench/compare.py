"""What two commits cost side by side: `python -m tests.bench.compare COMMIT_A COMMIT_B`.

Each commit's service runs from its own tree with the packages of this environment. All scenarios
are measured in interleaved rounds by the load generator of this tree, and the table shows each
commit's CPU a request (median, least to most) and the ratio of the medians, B by A. B is worse
when its median lies above every round of A.
"""

import argparse
import io
import logging
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import structlog
from rich.console import Console
from rich.table import Table

from tests.backends.postgres import Postgres
from tests.backends.service import Service
from tests.bench.figures import Slice
from tests.bench.options import LOGS, Options
from tests.bench.processes import settle
from tests.bench.rig import Endpoint, Requests, Rig
from tests.bench.run import FILE_COLUMNS, own_folder, terminated_like_interrupted
from tests.bench.subjects import Subject, creating, fill, patching, showing
from tests.bench.transfers import delete, queued, uploads

ROOT = Path(__file__).parents[2]
SIZE_BYTES = 1 << 20
CONNECTIONS = 8

Measure = Callable[[Rig, Subject], Slice]


def check_out(commit: str, folder: Path) -> Path:
    """Puts the commit's tree below `folder`, with a Python that runs it; that Python's path.

    Raises CalledProcessError when there is no such commit, and RuntimeError when that Python runs
    another tree.
    """
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder / "calotype", filter="data")
    # Our packages, but not our tree, which a file of theirs adds to the path of our own Python.
    venv.create(folder / "python")
    libraries = folder / "python" / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (libraries / "tree.pth").write_text(f"{folder}\n{sysconfig.get_path('purelib')}\n")
    python = folder / "python" / "bin" / "python"
    where = "import calotype.ops; print(*calotype.ops.__path__)"
    found = subprocess.run(
        [python, "-c", where], cwd=libraries, check=True, capture_output=True, text=True
    )
    if found.stdout.strip() != str(folder / "calotype" / "ops"):
        raise RuntimeError(f"not the tree of {commit}: {found.stdout}")
    return python


@contextmanager
def _subject(rig: Rig, python: Path, folder: Path, url: str) -> Iterator[Subject]:
    """The filled service of one tree."""
    service = Service(folder / "data", url or None)
    service.python = str(python)
    with service:
        endpoint = Endpoint(service.port, service.pid)
        ids = fill(rig, endpoint, rig.options.few_images)
        settle(service.pid, patience_seconds=120.0)
        yield Subject("", "", folder, url, len(ids), endpoint, ids)


def _asking(asked: Callable[[Subject], Requests]) -> Measure:
    """Measures these requests for the time of a slice, after what was left of earlier work."""

    def measure(rig: Rig, subject: Subject) -> Slice:
        settle(subject.endpoint.pid)
        seconds = rig.options.slice_seconds
        return rig.run(subject.endpoint, asked(subject), connections=CONNECTIONS, seconds=seconds)

    return measure


def _upload(rig: Rig, subject: Subject) -> Slice:
    count = rig.options.small_transfers
    ids = queued(rig, subject, count)
    requests = uploads(ids, SIZE_BYTES)
    seen = rig.run(subject.endpoint, requests, connections=CONNECTIONS, seconds=120.0, count=count)
    delete(rig, subject, ids)
    return seen


def _download(rig: Rig, subject: Subject) -> Slice:
    (image_id,) = queued(rig, subject, 1)
    once = uploads([image_id], SIZE_BYTES)
    rig.run(subject.endpoint, once, connections=1, seconds=60.0, count=1)
    seen = _asking(lambda _: Requests("GET", [f"/v2/images/{image_id}/file"]))(rig, subject)
    delete(rig, subject, [image_id])
    return seen


SCENARIOS: dict[str, Measure] = {
    "show": _asking(lambda subject: showing(subject.ids)),
    "list": _asking(lambda _: Requests("GET", ["/v2/images?limit=25"])),
    "create": _asking(lambda _: creating()),
    "patch": _asking(lambda subject: patching(subject.ids)),
    "upload 1 MiB": _upload,
    "download 1 MiB": _download,
}


def compare(rig: Rig, log: str, pythons: list[Path]) -> dict[str, list[list[float]]]:
    """CPU milliseconds a request by scenario: of each tree, one figure a round."""
    found: dict[str, list[list[float]]] = {name: [[], []] for name in SCENARIOS}
    with ExitStack() as stack:
        urls = ["", ""]
        if log == "postgresql":
            postgres = stack.enter_context(Postgres(rig.folder / "postgresql", durable=True))
            urls = [postgres.create_database(name) for name in ("a", "b")]
        subjects = [
            stack.enter_context(_subject(rig, python, rig.folder / log / name, url))
            for name, python, url in zip("ab", pythons, urls, strict=True)
        ]
        # The first round warms up and counts nowhere.
        for number in range(rig.options.rounds + 1):
            for name, measure in SCENARIOS.items():
                # Every other round goes backwards, so that a machine that slows down favours none.
                for place in (0, 1) if number % 2 == 0 else (1, 0):
                    seen = measure(rig, subjects[place])
                    if number:
                        found[name][place].append(1000 * seen.cpu_per_request)
    return found


def _report(console: Console, log: str, found: dict[str, list[list[float]]]) -> None:
    table = Table(
        "scenario", "A ms (least to most)", "B ms (least to most)", "B / A", "", title=log
    )
    for name, (before, after) in found.items():
        cells = [f"{median(one):.3f} ({min(one):.3f} to {max(one):.3f})" for one in (before, after)]
        verdict = "worse" if median(after) > max(before) else ""
        table.add_row(name, *cells, f"{median(after) / median(before):.3f}", verdict)
    console.print(table)


def main() -> None:
    """Compares on the logs asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compare", description=__doc__)
    parser.add_argument("commits", nargs=2, metavar="COMMIT")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each slice of a round")
    parser.add_argument("--uploads", type=int, default=64, help="in each round")
    parser.add_argument("--images", type=int, default=1000, help="that each service is filled with")
    parser.add_argument("--log", action="append", choices=LOGS, help="only this log")
    given = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    console = Console(width=None if sys.stdout.isatty() else FILE_COLUMNS)
    options = Options(
        few_images=given.images,
        rounds=given.rounds,
        slice_seconds=given.seconds,
        small_transfers=given.uploads,
    )
    with terminated_like_interrupted(), own_folder(Path(tempfile.gettempdir())) as folder:
        first, second = given.commits
        pythons = [check_out(first, folder / "a"), check_out(second, folder / "b")]
        with Rig(options, folder) as rig:
            for log in given.log or LOGS:
                _report(console, log, compare(rig, log, pythons))


if __name__ == "__main__":
    main()
