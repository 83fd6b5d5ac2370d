"""The generated pages say what the program says."""

import runpy
from pathlib import Path

import pytest

from projector.config import OWNED, Config

DOCS = Path(__file__).parents[2] / "docs"
PAGES: dict[str, str] = runpy.run_path(str(DOCS / "generate.py"))["pages"]()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_up_to_date(name: str) -> None:
    """Run `make docs` after a change of commands or settings."""
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name]


def test_every_setting_and_owned_property_is_documented() -> None:
    """Nothing that can be set, or that is refused, is left out."""
    page = PAGES["configuration.md"]
    for name in [*Config.model_fields, *OWNED["kafka"], *OWNED["aerospike"]]:
        assert f"`{name}`" in page or f"`[{name}]`" in page


def test_every_command_has_an_example() -> None:
    """Each command's help shows how it is called."""
    sections = PAGES["cli.md"].split("\n## ")[1:]
    assert sections
    for section in sections:
        assert "Example: `projector " in section, section.splitlines()[0]
