"""What a run of the benchmark is asked to do."""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

SCENARIOS = ("show", "list", "create", "patch", "upload", "download")
ONLY_WHEN_NAMED = ("identity", "past", "long-image")
"""What needs more than the others: a real Keystone, a log of a million events."""
LOGS = ("postgresql", "sqlite")
LEAST_IMAGES = 1_000
"""With fewer some filter finds less than a page, and sizes could not be compared."""


class BenchError(Exception):
    """The benchmark cannot run as asked; the message names the fix."""


@dataclass(frozen=True, slots=True)
class Options:
    """The run. Sizes are in bytes, stretches of time in seconds."""

    scenarios: tuple[str, ...] = SCENARIOS
    logs: tuple[str, ...] = LOGS
    few_images: int = 1_000
    many_images: int = 100_000
    connections: tuple[int, ...] = (1, 16, 64)
    small_bytes: int = 1 << 20
    large_bytes: int = 1 << 30
    rounds: int = 5
    slice_seconds: float = 0.7
    """How long each scenario is measured in each round."""
    floor_seconds: float = 0.4
    """How long its floor is."""
    window_seconds: float = 6.0
    """How long large transfers over several connections are watched; they are cut off then."""
    small_transfers: int = 240
    """Uploads of the small size in each round, at most."""
    long_events: int = 1_000_000
    """Events of the log whose past is read and whose tables are made again."""
    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    """Where everything is written, in a folder of its own that is removed at the end."""
    out: Path | None = None
    markdown: Path | None = None

    def check(self) -> None:
        """Raises BenchError naming what cannot be done and the fix."""
        for name, given, known in (
            ("scenario", self.scenarios, SCENARIOS + ONLY_WHEN_NAMED),
            ("log", self.logs, LOGS),
        ):
            for value in given:
                if value not in known:
                    raise BenchError(f"there is no {name} '{value}'; known: {', '.join(known)}")
        if not self.scenarios or not self.logs:
            raise BenchError("nothing to measure: name at least one scenario and one log")
        if not LEAST_IMAGES <= self.few_images <= self.many_images:
            raise BenchError(f"images: give two numbers from {LEAST_IMAGES}, the smaller first")
        if not self.connections or not all(1 <= number <= 512 for number in self.connections):
            raise BenchError("connections: give numbers from 1 to 512")
        if self.rounds < 1 or self.small_bytes < 1 or self.large_bytes < self.small_bytes:
            raise BenchError("rounds and sizes must be at least 1, the large size the larger")
        if not self.folder.is_dir():
            raise BenchError(f"{self.folder} is no folder; create it or name another")


def quick(options: Options) -> Options:
    """The same with small numbers, for a look that takes less than two minutes."""
    return replace(
        options,
        few_images=1_000,
        many_images=3_000,
        connections=(1, 8),
        large_bytes=min(options.large_bytes, 32 << 20),
        rounds=1,
        slice_seconds=0.25,
        floor_seconds=0.2,
        window_seconds=0.6,
        small_transfers=24,
        long_events=20_000,
    )
