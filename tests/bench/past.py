"""A log of a million events: how fast tables are made of it, and how its past is read."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tests.backends.postgres import Postgres
from tests.backends.processes import spawn
from tests.backends.service import Service
from tests.bench.figures import MEGABYTE, Row, Target, row_of
from tests.bench.long_log import fill
from tests.bench.processes import peak_memory_bytes, settle
from tests.bench.rig import Endpoint, Requests, Rig

CALOTYPE = [sys.executable, "-m", "calotype.ops"]
REBUILT = ("images", "versions", "audience")
BUILDING = ("events", "indexes", "events caught up with")
"""The steps of a rebuild before it compares with the tables that are in use."""
LISTS = {
    "by age": "",
    "by name": "&sort_key=name",
    "by size": "&sort_key=size",
    "by tag": "&tag=group-3",
    "by property": "&os_distro=debian",
}
_ASKED_IMAGES, _MOMENTS = 200, 40


@dataclass(frozen=True, slots=True)
class LongLog:
    """A filled log that nobody serves."""

    log: str
    url: str
    folder: Path
    events: int


def measure_long_log(rig: Rig, log_name: str) -> None:
    """Rebuilds of each projection, then histories and lists of the past over one connection."""
    with _long_log(rig, log_name) as long:
        for name in REBUILT:
            _rebuild(rig, long, name)
        with Service(long.folder / "data", long.url) as server:
            settle(server.pid, patience_seconds=60.0)
            _read(rig, long, Endpoint(server.port, server.pid))


@contextmanager
def _long_log(rig: Rig, log_name: str) -> Iterator[LongLog]:
    folder = rig.folder / f"{log_name}-long"
    (folder / "data").mkdir(parents=True)
    with ExitStack() as stack:
        url = f"sqlite:///{folder / 'data' / 'log.sqlite'}"
        if log_name == "postgresql":
            postgres = stack.enter_context(Postgres(folder / "server", durable=True))
            url = postgres.create_database("long")
        subprocess.run([*CALOTYPE, "migrate", "--log-url", url], check=True)
        fill(url, rig.options.long_events)
        yield LongLog(log_name, url, folder, rig.options.long_events)


def _rebuild(rig: Rig, long: LongLog, name: str) -> None:
    command = [*CALOTYPE, "projections", "rebuild", name, "--json", "--log-url", long.url]
    started = time.monotonic()
    output = long.folder / "rebuild.json"
    with output.open("wb") as file:
        process = spawn(command, stdout=file, stderr=subprocess.DEVNULL)
        peak_bytes = _peak_until_it_ends(process)
    seconds = time.monotonic() - started
    if process.returncode:
        raise RuntimeError(f"the rebuild of {name} ended with {process.returncode}")
    report: dict[str, Any] = orjson.loads(output.read_bytes())
    building = sum(report["seconds"].get(step, 0.0) for step in BUILDING)
    row = Row(
        scenario=f"rebuild {name}",
        log=long.log,
        images=0,
        connections=0,
        requests_per_second=None,
        p50_milliseconds=None,
        p99_milliseconds=None,
        megabytes_per_second=None,
        cpu_milliseconds=None,
        peak_memory_megabytes=peak_bytes / MEGABYTE,
        ratios={
            "events/s built": long.events / building,
            "events/s with comparing and switching": long.events / seconds,
        },
    )
    rig.found(row)
    figure = row.ratios["events/s built"]
    rig.targets.append(Target(row.scenario, long.log, figure, 40_000, False, "events/s built"))


def _peak_until_it_ends(process: subprocess.Popen[bytes]) -> int:
    """The largest resident memory of any of its processes, as far as looking often can tell."""
    peak_bytes = 0
    while True:
        peak_bytes = max(peak_bytes, peak_memory_bytes(process.pid))
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
            return peak_bytes


def _read(rig: Rig, long: LongLog, endpoint: Endpoint) -> None:
    page = rig.document(endpoint, f"/v2/images?limit={_ASKED_IMAGES}")
    histories = [f"/log/v1/images/{image['id']}/history" for image in page["images"]]
    _time(rig, long, endpoint, "history of an image", histories, 10)
    latest = str(rig.document(endpoint, "/log/v1/images?limit=1&as_of=" + _now())["as_of"])
    prefix = latest.partition("-")[0]
    step = long.events // _MOMENTS
    for kind, query in LISTS.items():
        paths = [
            f"/log/v1/images?limit=25&as_of={prefix}-{number * step:x}{query}"
            for number in range(1, _MOMENTS + 1)
        ]
        _time(rig, long, endpoint, f"list of the past {kind}", paths, 50)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _time(
    rig: Rig,
    long: LongLog,
    endpoint: Endpoint,
    scenario: str,
    paths: list[str],
    at_most_milliseconds: float,
) -> None:
    asked = Requests("GET", paths)
    seen = [
        rig.run(endpoint, asked, connections=1, seconds=rig.options.slice_seconds)
        for _ in range(rig.options.rounds)
    ]
    row = row_of(seen, scenario=scenario, log=long.log, images=0, connections=1)
    rig.found(row)
    assert row.p50_milliseconds is not None
    figure, target = row.p50_milliseconds, at_most_milliseconds
    what = f"{scenario}, {long.events} events"
    rig.targets.append(Target(what, long.log, figure, target, True, "ms (median)"))
