"""`make bench`: this machine is measured, every figure beside a floor measured in the same run."""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import structlog

from tests.bench.options import BenchError, Options
from tests.bench.options import quick as smaller
from tests.bench.run import bench


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, short rounds")
    parser.add_argument(
        "--scenario",
        action="append",
        help="only this one; may be repeated. Only when named: identity, past, long-image",
    )
    parser.add_argument("--log", action="append", help="only this log: postgresql or sqlite")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--markdown", type=Path, help="write the tables as Markdown")
    given = parser.parse_args()
    options = smaller(Options()) if given.quick else Options()
    if given.scenario:
        options = replace(options, scenarios=tuple(given.scenario))
    if given.log:
        options = replace(options, logs=tuple(given.log))
    return replace(options, out=given.out, markdown=given.markdown)


def main() -> None:
    """Runs the benchmark; ends with 2 when it cannot be done as asked."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        bench(_options())
    except BenchError as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
