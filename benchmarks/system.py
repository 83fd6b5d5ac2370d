"""What the benchmarks run on: a broker and a store of their own, or those that the environment names, and a topic."""

import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.aerospike_server import aerospike_properties
from tests.kafka_broker import bootstrap


class System(NamedTuple):
    """One pair of backends with fresh topics; `settings` go to every command as `--set`."""

    name: str
    settings: tuple[str, ...]

    def command(self, *words: str) -> list[str]:
        """A command of the projector on this system."""
        options = [option for setting in self.settings for option in ("--set", setting)]
        return [sys.executable, "-m", "projector", words[0], *options, *words[1:]]

    def run(self, *words: str) -> str:
        """Run a command to its end; its standard output. Raises `CalledProcessError`."""
        return subprocess.run(self.command(*words), check=True, stdout=subprocess.PIPE, text=True).stdout


def system(pair: str, directory: Path, topics: str = "") -> System | None:
    """A system for "kafka+aerospike", "kafka+embedded" or "embedded+embedded"; None where the store cannot be had.

    Systems with the same `topics` read the same input topic, each into rows of its own.
    """
    log, store = pair.split("+")
    run = uuid.uuid4().hex[:8]
    settings = [
        f"log={log}",
        f"store={store}",
        f"file={directory / f'{run}.db'}",
        f"group=bench-{run}",
        f"input_topic=bench-in-{topics or run}",
        f"kpi_topic=bench-kpi-{run}",
        f"quarantine_topic=bench-quarantine-{run}",
    ]
    if log == "kafka":
        settings.append(f"kafka.bootstrap.servers={bootstrap()}")
    if store == "aerospike":
        properties = aerospike_properties()
        if properties is None:
            return None
        settings += [f"aerospike.{name}={value}" for name, value in properties.items()]
    return System(pair, tuple(settings))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
