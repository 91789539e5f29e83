"""The ledger: a line for each round as JSON, and a table of all."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

WRONG = (
    "lost",
    "doubled",
    "wrong_bytes",
    "stuck",
    "left_behind",
    "refused_healthy",
    "gaps",
    "away",
    "unfit",
)
"""The columns that have to be 0."""
COUNTS = ("rounds", "acknowledged", "unknown", "refused", "given_up", *WRONG)


@dataclass(slots=True)
class Row:
    """What one round came to, or the end of a service's life."""

    commit: str
    log: str
    lease_seconds: float
    kind: str
    number: int
    stand: str
    seed: str
    detail: str = ""
    rounds: int = 1
    acknowledged: int = 0
    unknown: int = 0
    """No answer, or 5xx: it may have been done or not."""
    refused: int = 0
    given_up: int = 0
    """Uploads that got 410 because their process alone stood still longer than its lease."""
    lost: int = 0
    """Not as acknowledged."""
    doubled: int = 0
    wrong_bytes: int = 0
    stuck: int = 0
    left_behind: int = 0
    refused_healthy: int = 0
    """Uploads that got 410 though no process was gone that should have counted as gone."""
    gaps: int = 0
    """Positions of the log that are missing."""
    away: int = 0
    """Calls that were not answered four leases after the fault."""
    unfit: int = 0
    """Verifications that did not fit."""
    writes_after_seconds: float = 0.0
    """From the end of the cause until all services took writes."""
    answers: dict[str, int] = field(default_factory=dict)
    """How often which command had which answer other than that it was done; 0: none."""
    findings: list[tuple[str, str]] = field(default_factory=list)

    def take(self, findings: list[tuple[str, str]]) -> None:
        """Counts what was found."""
        self.findings += findings
        for column, _ in findings:
            setattr(self, column, getattr(self, column) + 1)

    @property
    def is_clean(self) -> bool:
        return not any(getattr(self, column) for column in WRONG)


class Ledger:
    """Writes rows to `path` as they come, and the table beside it at the end."""

    def __init__(self, path: Path, remark: str = "") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.rows: list[Row] = []
        self._remark = remark
        self._file = path.open("wb")

    def write(self, row: Row) -> None:
        """Takes down one row."""
        self.rows.append(row)
        self._file.write(orjson.dumps(asdict(row)) + b"\n")
        self._file.flush()

    @property
    def is_clean(self) -> bool:
        return bool(self.rows) and all(row.is_clean for row in self.rows)

    def table(self) -> str:
        """All rows of a kind in one line, in Markdown."""
        columns = ["log", "lease", "kind", *COUNTS, "writes after"]
        ran = f"Commit {self.rows[0].commit}." if self.rows else "No round was run."
        head = [f"{ran} {self._remark}".strip(), ""]
        lines = [columns, ["---"] * len(columns)]
        groups: dict[tuple[str, float, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.log, row.lease_seconds, row.kind), []).append(row)
        for (log, lease, kind), rows in sorted(groups.items()):
            sums = [sum(getattr(row, column) for row in rows) for column in COUNTS]
            longest = max(row.writes_after_seconds for row in rows)
            lines.append([log, f"{lease:g} s", kind, *map(str, sums), f"{longest:.1f} s"])
        titles = [[cell.replace("_", " ") for cell in line] for line in lines]
        return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in titles)]) + "\n"

    def close(self) -> None:
        """Writes the table."""
        self._file.close()
        self.path.with_suffix(".md").write_text(self.table())
