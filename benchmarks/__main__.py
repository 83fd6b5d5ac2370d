"""`python -m benchmarks`: all of them, one after the other, each with its own table."""

import subprocess
import sys

for name in ("throughput", "latency", "archive", "rebuild"):
    print(f"\n## {name}\n", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
