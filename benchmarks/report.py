"""One report of all results: `python -m benchmarks.report benchmarks/results docs/performance.md`.

`python -m benchmarks` keeps a JSON file of each benchmark: where and how it ran, its raw figures, what it reports; this
puts them one after the other, and after them `notes.md`: what the figures say, what was tried, what was measured once.
The report is generated: change the benchmarks and the notes, not the report.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.system import table

NOTE = "<!-- Written by `python -m benchmarks.report` from what the benchmarks measured. Do not edit. -->"


NOTES = Path(__file__).parent / "notes.md"


def render(results: list[dict[str, Any]], notes: str) -> str:
    """The report, as Markdown."""
    parts = [NOTE, "# Performance"]
    for result in results:
        parts.append(f"## {result['name']}")
        parts.append(result["about"])
        parts.append(f"Command: `{result['command']}`, {result['began']} to {result['ended']}.")
        parts += [f"{name.capitalize()}: {_listed(result[name])}." for name in ("machine", "versions")]
        parts += [result["text"].strip()] if result["text"] else []
        for each in result["tables"]:
            parts.append(f"### {each['title']}")
            parts += [each["note"]] if each["note"] else []
            parts.append(table(each["head"], each["rows"]))
    return "\n\n".join([*parts, notes.strip()]) + "\n"


def _listed(facts: dict[str, str]) -> str:
    return "; ".join(f"{key} {value}" for key, value in facts.items())


def main() -> None:
    """Render every JSON file of a directory, by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="directory with the JSON files")
    parser.add_argument("report", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    files = sorted(arguments.results.glob("*.json"))
    if not files:
        parser.error(f"{arguments.results} holds no results: run python -m benchmarks")
    arguments.report.write_text(
        render([json.loads(file.read_bytes()) for file in files], NOTES.read_text("utf-8")), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
