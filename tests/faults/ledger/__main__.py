"""`make faults`: real services under load, faults that strike them, and a ledger of the outcome.

SinkParts with 1 when anything was lost, doubled, wrong, stuck or left behind.
"""

import argparse
import asyncio
import functools
import itertools
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import uvloop

from tests.faults.ledger.book import Ledger
from tests.faults.ledger.disk import Disk
from tests.faults.ledger.faults import KINDS, kinds_on
from tests.faults.ledger.plan import plan
from tests.faults.ledger.rounds import Course, live
from tests.faults.ledger.stand import LogKind

ROOT = Path(__file__).parents[3]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="no round begins later")
    parser.add_argument("--rounds", type=int, default=0, help="rounds on each log; 0: no end")
    parser.add_argument("--seed", default="", help="repeats the rounds of another run")
    parser.add_argument("--log", choices=(*get_args(LogKind), "both"), default="both")
    parser.add_argument("--lease-seconds", type=float, default=2.0)
    parser.add_argument("--stands", type=int, default=5, help="services side by side on each log")
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="only these")
    parser.add_argument("--ledger", type=Path, help="file of the ledger; the table goes beside it")
    parser.add_argument("--keep", action="store_true", help="keep the services' own logs")
    options = parser.parse_args()
    options.seed = options.seed or secrets.token_hex(4)
    options.ledger = options.ledger or ROOT / "build" / f"faults-{options.seed}.ndjson"
    return options


async def _run(options: argparse.Namespace, folder: Path, ledger: Ledger) -> None:
    running = asyncio.current_task()
    assert running is not None
    # Disks have to be unmounted and services stopped, however this ends; once, because what cleans
    # up would be broken off by a second signal.
    cancel = functools.cache(running.cancel)
    for stop in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(stop, cancel)
    async with asyncio.TaskGroup() as lives:
        for log in _logs(options):
            planned = plan(options.seed, log, options.kind or _kinds(log))
            course = Course(
                log,
                options.lease_seconds,
                _commit(),
                itertools.islice(planned, options.rounds or None),
                ledger,
                folder,
                time.monotonic() + 60 * options.minutes,
                options.keep,
            )
            for number in range(options.stands):
                lives.create_task(live(course, f"{log}{number}"))


def _logs(options: argparse.Namespace) -> tuple[LogKind, ...]:
    return get_args(LogKind) if options.log == "both" else (options.log,)


def _kinds(log: LogKind) -> list[str]:
    return kinds_on(log, own_disk=Disk.is_possible())


def _remark(options: argparse.Namespace) -> str:
    absent = {kind for log in _logs(options) for kind in set(KINDS) - set(_kinds(log))}
    without = f" Left out, for want of root or libfaketime: {', '.join(sorted(absent))}."
    return f"Seed {options.seed}." + (without if absent else "")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> int:
    """Runs what the command line asks for; the process's exit code."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="calotype-faults-"))
    folder.chmod(0o755)
    print(f"SEED={options.seed}, ledger {options.ledger}, services in {folder}", flush=True)
    ledger = Ledger(options.ledger, _remark(options))
    try:
        uvloop.run(_run(options, folder, ledger))
    except asyncio.CancelledError:
        print("stopped before the end", file=sys.stderr)
        return 1
    finally:
        ledger.close()
        print(ledger.table())
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if ledger.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
