"""What the benchmarks run on: a broker, a store that is as good as new, and topics of their own."""

import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tests.aerospike_server import Server, server_available
from tests.kafka_broker import bootstrap


class System(NamedTuple):
    """One pair of backends with fresh topics; `settings` go to every command as `--set`."""

    name: str
    settings: tuple[str, ...]
    server: Server | None

    def command(self, *words: str) -> list[str]:
        """A command of the projector on this system."""
        options = [option for setting in self.settings for option in ("--set", setting)]
        return [sys.executable, "-m", "projector", words[0], *options, *words[1:]]

    def close(self) -> None:
        """End the server that was started for it."""
        if self.server:
            self.server.kill()
            self.server.remove()

    def run(self, *words: str) -> str:
        """Run a command to its end; its standard output. Raises `CalledProcessError`."""
        return subprocess.run(self.command(*words), check=True, stdout=subprocess.PIPE, text=True).stdout


def system(pair: str, directory: Path) -> System | None:
    """A system for "kafka+aerospike", "kafka+embedded" or "embedded+embedded"; None where the store cannot be had."""
    log, store = pair.split("+")
    run = uuid.uuid4().hex[:8]
    settings = [
        f"log={log}",
        f"store={store}",
        f"file={directory / f'{run}.db'}",
        f"group=bench-{run}",
        f"input_topic=bench-in-{run}",
        f"kpi_topic=bench-kpi-{run}",
        f"quarantine_topic=bench-quarantine-{run}",
    ]
    if log == "kafka":
        settings.append(f"kafka.bootstrap.servers={bootstrap()}")
    server = None
    if store == "aerospike":
        if not server_available():
            return None
        server = Server().start()
        settings += [f"aerospike.{name}={value}" for name, value in server.properties.items()]
    return System(pair, tuple(settings), server)


def systems(pairs: Iterable[str], directory: Path, turns: int = 1) -> Iterator[System]:
    """Of each pair `turns` systems, one at a time; a pair whose store cannot be had is told and left out."""
    for pair in pairs:
        for _ in range(turns):
            target = system(pair, directory)
            if target is None:
                print(f"{pair}: NOT measured, the store cannot be had here", file=sys.stderr)
                break
            with closing(target):
                yield target


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
