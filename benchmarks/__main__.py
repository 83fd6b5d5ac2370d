"""`python -m benchmarks`: all of them, one after the other, each with its own table; then one report of all.

    python -m benchmarks --only throughput -- --events 1000000 --runs 5

Results are kept in `benchmarks/results/`; the report is `docs/performance.md`. `--only` runs these alone, and reports
them with what is kept of the others; what stands after `--` goes to the one benchmark that it names.
"""

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.result import Result

RESULTS = Path(__file__).parent / "results"
REPORT = Path(__file__).parents[1] / "docs" / "performance.md"
NAMES = ("throughput", "peers", "latency", "archive", "rebuild", "audit", "growth")


def measured(name: str, options: Sequence[str]) -> None:
    """Run one benchmark and keep what it found; peers keeps its raw figures itself."""
    print(f"\n## {name}\n", flush=True)
    file = RESULTS / f"{NAMES.index(name)}-{name}.json"
    words = ["-m", f"benchmarks.{name}", *options]
    if name == "peers":
        subprocess.run([sys.executable, *words, "--json", os.path.relpath(file)], check=True)
        return
    began = datetime.now(UTC)
    done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    about = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").strip()
    Result(name.capitalize(), about, began, " ".join(["python", *words]), text=done.stdout).save(file)


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("options", nargs="*", help="for the benchmark, after --")
    arguments = parser.parse_args()
    if arguments.options and len(arguments.only) != 1:
        parser.error("options after -- need one benchmark: --only NAME")
    for name in arguments.only:
        measured(name, arguments.options)
    subprocess.run([sys.executable, "-m", "benchmarks.report", str(RESULTS), str(REPORT)], check=True)


if __name__ == "__main__":
    main()
