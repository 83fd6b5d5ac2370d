"""Writes docs/cli.md and docs/configuration.md from the program itself; `--check` exits 1 if they differ from it."""

import re
import sys
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from projector.cli.app import app
from projector.config import OWNED, TABLES, Config, accepted

DOCS = Path(__file__).parent
NOTE = "<!-- Written by `make docs`. Do not edit. -->\n\n"

CONFIGURATION = """\
# Configuration

A setting has its default, unless the file sets it; an environment variable is over the file, and a flag over both.
`projector config` shows what is in force and where each value came from; secrets are shown as `***`.

- **File**: `projector.toml` in the working directory, or the one that `--config` or `PROJECTOR_CONFIG` names.
  `projector.toml.example` is a start.
- **Environment**: `PROJECTOR_` and the name in capitals: `PROJECTOR_BATCH_MS=50`.
- **Flag**: `--set NAME=VALUE`, any number of times, on every command: `--set batch_ms=50`.

An unknown name, an owned property or a value out of range stops the program before it does anything (exit 2).

## Settings

| setting | default | accepted | what it does |
|---|---|---|---|
"""

PROPERTIES = """
## Client properties

Whatever stands in `[kafka]` and `[aerospike]` is passed on to the clients. A property is set on its own in each layer:
the file may set the address, and the environment the password.

`[kafka]`: [librdkafka's properties]\
(https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md).
Needed if `log` is `kafka`: `bootstrap.servers`.

- file: `bootstrap.servers = "one:9092"`
- variable, with `_` for `.`: `PROJECTOR_KAFKA_BOOTSTRAP_SERVERS=one:9092`
- variable for several: `PROJECTOR_KAFKA='{"sasl.mechanism": "PLAIN", "sasl.username": "me"}'`
- flag: `--set kafka.bootstrap.servers=one:9092`

`[aerospike]`: `hosts` and `namespace`, both needed if `store` is `aerospike`, and [the client's configuration]\
(https://aerospike-python-client.readthedocs.io/en/latest/aerospike.html).

- file: `hosts = "one:3000,two:3000"`
- variable, the name as it is: `PROJECTOR_AEROSPIKE_MAX_CONNS_PER_NODE=200`
- variable for several: `PROJECTOR_AEROSPIKE='{"tls": {"enable": true}}'`
- flag, with dots into tables: `--set aerospike.tls.enable=true`

From a variable or a flag a number, `true`, `false` or a JSON object reaches the Aerospike client as such; `hosts`, \
`namespace`, `user` and secrets stay text.

The protocol owns these; they are refused by name:

"""


def pages() -> dict[str, str]:
    """File name -> content."""
    return {"cli.md": NOTE + _commands(), "configuration.md": NOTE + _settings()}


def _commands() -> str:
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="projector", title="Command line")
    text = re.sub(r"\[bold\](.*?)\[/bold\]", r"`\1`", text)
    return re.sub(r"^\* `--(install|show)-completion`.*\n", "", text, flags=re.MULTILINE).rstrip() + "\n"


def _settings() -> str:
    rows = []
    for name, field in Config.model_fields.items():
        if name not in TABLES:
            default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            rows.append(f"| `{name}` | `{default}` | {accepted(name)} | {field.description} |\n")
    owned = [
        f"- `[{table}]`: " + ", ".join(f"`{key}`" for key in sorted(OWNED[table])) + "\n"
        for table in TABLES
        if OWNED[table]
    ]
    return CONFIGURATION + "".join(rows) + PROPERTIES + "".join(owned)


def main() -> None:
    """Write the pages, or with `--check` only compare them."""
    stale = [name for name, text in pages().items() if not _holds(DOCS / name, text)]
    if sys.argv[1:] == ["--check"]:
        if stale:
            sys.exit(f"error: {', '.join(stale)} in docs/ is not what the program says; run make docs")
        return
    for name in stale:
        (DOCS / name).write_text(pages()[name], encoding="utf-8")
        print(f"wrote docs/{name}")


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
