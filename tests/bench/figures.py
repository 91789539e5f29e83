"""What the benchmark finds out: slices of measuring, rows of figures, and ratios to floors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Slice:
    """One stretch of load on one server."""

    seconds: float
    latencies: list[float]
    """Seconds of each request that was answered as it should be."""
    failures: dict[str, int]
    """How many requests ended otherwise, by status or reason."""
    bytes_moved: int
    """Bytes of bodies, in the direction that the job is about."""
    window_bytes: int
    """The part of them that moved within `seconds`."""
    cpu_seconds: float
    """What the server's whole tree used."""
    peak_memory_bytes: int
    """The largest resident memory of any of its processes during the slice."""
    ids: list[str]

    @property
    def requests(self) -> int:
        """Requests answered as they should be."""
        return len(self.latencies)

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def cpu_per_request(self) -> float:
        """CPU seconds of the server for each request."""
        return self.cpu_seconds / self.requests if self.requests else 0.0

    @property
    def cpu_per_byte(self) -> float:
        """CPU seconds of the server for each byte of a body."""
        return self.cpu_seconds / self.bytes_moved if self.bytes_moved else 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.window_bytes / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Row:
    """The figures of one scenario on one log: medians over the rounds.

    None stands for a figure that the scenario does not have.
    """

    scenario: str
    log: str
    images: int
    """How many images the server held when it was filled."""
    connections: int
    requests_per_second: float | None
    p50_milliseconds: float | None
    p99_milliseconds: float | None
    megabytes_per_second: float | None
    cpu_milliseconds: float | None
    """Of the server's tree, for each request."""
    peak_memory_megabytes: float
    floors: dict[str, float] = field(default_factory=dict)
    """What was measured beside it in the same rounds, by name; the name says the unit."""
    ratios: dict[str, float] = field(default_factory=dict)
    """Medians of each round's figure divided by the same round's floor."""
    failures: dict[str, int] = field(default_factory=dict)


def row_of(
    slices: Sequence[Slice],
    *,
    scenario: str,
    log: str,
    images: int,
    connections: int,
    with_bytes: bool = False,
) -> Row:
    """The row that the rounds' slices of one scenario make.

    Percentiles are over all requests of all rounds.
    """
    latencies = sorted(latency for part in slices for latency in part.latencies)
    failures: dict[str, int] = {}
    for part in slices:
        for reason, count in part.failures.items():
            failures[reason] = failures.get(reason, 0) + count
    return Row(
        scenario=scenario,
        log=log,
        images=images,
        connections=connections,
        requests_per_second=median(part.requests_per_second for part in slices)
        if latencies
        else None,
        p50_milliseconds=_percentile(latencies, 50),
        p99_milliseconds=_percentile(latencies, 99),
        megabytes_per_second=median(part.bytes_per_second for part in slices) / MEGABYTE
        if with_bytes
        else None,
        cpu_milliseconds=median(part.cpu_per_request for part in slices) * 1000
        if latencies
        else None,
        peak_memory_megabytes=max(part.peak_memory_bytes for part in slices) / MEGABYTE,
        failures=failures,
    )


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    """The smallest latency, in milliseconds, that `percent` of all are not above."""
    if not ordered:
        return None
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, rank - 1)] * 1000


def median_ratio(
    subjects: Sequence[Slice],
    floors: Sequence[Slice],
    figure: Callable[[Slice], float],
) -> float:
    """The median over the rounds of subject by floor; 0 where a floor gave nothing."""
    pairs = zip(subjects, floors, strict=True)
    return median(
        figure(subject) / figure(floor) if figure(floor) else 0.0 for subject, floor in pairs
    )


@dataclass(frozen=True, slots=True)
class Target:
    """A figure beside what the project aims at. Nobody passes or fails by it."""

    what: str
    log: str
    figure: float
    target: float
    at_most: bool
    unit: str

    @property
    def reached(self) -> bool:
        return self.figure <= self.target if self.at_most else self.figure >= self.target
