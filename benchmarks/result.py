"""A benchmark's result as a JSON file: where and how it was measured, the raw figures, and what is to be reported."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import confluent_kafka

CLIENTS = ("projector", "aerospike", "confluent-kafka", "msgspec")


class Table(NamedTuple):
    """One table of a report, with what is to be said before it."""

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Result(NamedTuple):
    """What one benchmark found. `about` and `text` are Markdown; `versions` those that only it knows."""

    name: str
    about: str
    began: datetime
    command: str
    versions: Mapping[str, str] = {}
    tables: Sequence[Table] = ()
    text: str = ""
    raw: Any = None

    def save(self, file: Path) -> None:
        """Write it, with when it ended, the machine and the versions."""
        held = self._asdict() | {
            "began": self.began.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": {**versions(), **self.versions},
            "tables": [table._asdict() for table in self.tables],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


def command() -> str:
    """This process as one would start it again, without the Python's path."""
    return f"python {shlex.join(sys.orig_argv[1:])}"


def machine() -> dict[str, str]:
    """Processor, cores, memory, system; and the load at this moment."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "memory": f"{memory_gib:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load after": f"{os.getloadavg()[0]:.1f}",
    }


def versions() -> Mapping[str, str]:
    """Of everything that takes part, as far as it is here."""
    found = {"Python": platform.python_version(), **{name: version(name) for name in CLIENTS}}
    found["librdkafka"] = str(confluent_kafka.libversion()[0])
    for name, words in {"Java": ("java", "-version"), "Aerospike server": ("asd", "--version")}.items():
        with suppress(OSError):
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            found[name] = done.stdout.strip().splitlines()[0] if done.stdout.strip() else "?"
    return found
