"""`python -m benchmarks`: all of them, one after the other, each with its own table; then one report of all.

Results are kept in `benchmarks/results/`; the report is `docs/benchmarks.md`. `--only peers throughput` runs these
alone and reports them with what is kept of the others.
"""

import argparse
import importlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.result import Result

TOP = Path(__file__).parents[1]
RESULTS = Path("benchmarks/results")
REPORT = Path("docs/benchmarks.md")
NAMES = ("throughput", "latency", "archive", "rebuild", "peers")


def measured(name: str) -> None:
    """Run one benchmark and keep what it found; peers keeps its raw figures itself."""
    print(f"\n## {name}\n", flush=True)
    file = RESULTS / f"{NAMES.index(name)}-{name}.json"
    if name == "peers":
        subprocess.run([sys.executable, "-m", "benchmarks.peers", "--json", str(file)], check=True)
        return
    began = datetime.now(UTC)
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    about = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").strip()
    Result(name.capitalize(), about, began, f"python -m benchmarks.{name}", text=done.stdout).save(file)


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    arguments = parser.parse_args()
    os.chdir(TOP)  # the report names commands, and no path of this machine
    for name in arguments.only:
        measured(name)
    subprocess.run([sys.executable, "-m", "benchmarks.report", str(RESULTS), str(REPORT)], check=True)


if __name__ == "__main__":
    main()
