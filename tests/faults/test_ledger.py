"""Twenty rounds of faults under load leave nothing lost, doubled, wrong, stuck or behind."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _faults(ledger: Path, *options: str) -> None:
    command = [sys.executable, "-m", "tests.faults.ledger", "--ledger", str(ledger), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(ledger.read_bytes().splitlines()) >= 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_rounds_of_all_kinds_of_fault_leave_the_ledger_clean(tmp_path: Path) -> None:
    _faults(tmp_path / "ledger.ndjson", "--seed", "quick", "--rounds", "10", "--stands", "4")


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("lease_seconds", "rounds"), [("2", "60"), ("15", "10")], ids=["short leases", "default leases"]
)
def test_many_rounds_leave_the_ledger_clean(
    tmp_path: Path, lease_seconds: str, rounds: str
) -> None:
    options = ("--rounds", rounds, "--lease-seconds", lease_seconds, "--minutes", "25")
    _faults(tmp_path / "ledger.ndjson", "--seed", "long", *options)
