"""`projector ledger` as an operator meets it: a table, JSON, one campaign, a check with its exit code."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.chain import Chains
from projector.config import load
from projector.fold import Change, EventId, Sighting
from projector.generation import Generation
from projector.ledger import Ledger
from projector.migrate import migrate
from projector.page import page_key
from projector.patience import Patience
from projector.settling import Settling
from projector.store import AddEntry, Delete, Presence, Put, Read, RowKey, Store, Write
from tests.fault.stepped import Time

GENERATION = Generation(1, "projector")
SECOND = 1_767_225_600  # 2026-01-01
PAGE_IDS = 10
COUNTS = {6: 1, 41: 1_234}


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `projector ledger` over a store with campaign 6 (one id), 41 (1,234 ids, most of them archived) and 7."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "projector.db"
    with closing(EmbeddedLog(path)) as log, closing(EmbeddedStore(path)) as store:
        list(migrate(log, store, load()))
        for campaign in (6, 7, 41):
            stats = dict.fromkeys(("clicks", "conversions", "impressions", "visits"), 0)
            row = RowKey("campaigns", campaign)
            store.write([Write(row, [Put("c-id", campaign), Put("stats", stats)], Presence.ABSENT)])
        _fill(store)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "projector", "ledger", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


def _fill(store: Store) -> None:
    clock, patience = Time(), Patience(0)
    settling = Settling(store, 0, patience, clock.monotonic)
    chains = Chains(store, GENERATION, patience, settling, clock.monotonic, PAGE_IDS, 1 << 20)
    ledger = Ledger(store, chains, GENERATION.pages, patience, 1 << 20, lambda _: None)
    for campaign, count in COUNTS.items():
        for first in range(0, count, 100):
            numbers = range(first, min(count, first + 100))
            ids: dict[EventId, Sighting] = {
                uuid.uuid5(uuid.NAMESPACE_OID, str(n)).bytes: [n % 4, SECOND + n, 0, n] for n in numbers
            }
            ledger.apply({campaign: Change(ids)})


def _newest(store: Store) -> RowKey:
    (row,) = store.read([Read(RowKey("campaigns", 41), ("seal", "prev", "sealed"))])
    assert row is not None
    return page_key(GENERATION.pages, 41, row.bins["prev"] if row.bins["sealed"] else row.bins["seal"])


def test_the_table_is_whole_where_it_is_piped(ledger: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Every campaign with a ledger and every figure, none cut off; progress is on standard error."""
    done = ledger()
    assert done.returncode == 0
    assert "…" not in done.stdout
    for word in ("archive bytes", "bytes/year", "2026-01-01"):
        assert word in done.stdout
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("│")}
    assert lines.keys() == {"6", "41"}
    assert "campaigns" in done.stderr


def test_json(ledger: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """The same, for programs; ids add up to those counted."""
    found = {each["campaign"]: each for each in json.loads(ledger("--json").stdout)}
    assert {c: each["seen"] + each["sealed"] + each["archived"] for c, each in found.items()} == COUNTS
    assert found[41]["pages"] >= 10
    assert (found[41]["first"], found[41]["last"]) == (SECOND, SECOND + 1_233)
    assert (found[6]["pages"], found[6]["archive_bytes"]) == (0, 0)


def test_one_campaign(ledger: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Only that one; exit 3 and one line for one without a ledger."""
    assert [each["campaign"] for each in json.loads(ledger("--campaign", "6", "--json").stdout)] == [6]
    for campaign in ("7", "8"):
        refused = ledger("--campaign", campaign)
        assert refused.returncode == 3
        assert refused.stderr == f"error: campaign {campaign} has no ledger: nothing was counted for it yet\n"


def test_a_sound_ledger_foots(ledger: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Exit 0; as JSON no differences; every id is read."""
    done = ledger("--check")
    assert (done.returncode, done.stdout) == (0, "2 ledgers foot\n")
    assert "ids checked: 1,235 of 1,235" in done.stderr
    assert json.loads(ledger("--check", "--json").stdout) == {"campaigns": 2, "differences": []}


def test_differences_are_named(ledger: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """Exit 1, each difference whole on a line of its own, and as JSON; a sound campaign still foots by itself."""
    with closing(EmbeddedStore(tmp_path / "projector.db")) as store:
        store.write([Write(RowKey("campaigns", 6), [AddEntry("stats", "clicks", 1)])])
        page = _newest(store)
        store.write([Write(page, [Delete()])])
    done = ledger("--check")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "campaign 6: clicks is 1, but opening 0 + 0 ids",
        f"campaign 41: page {str(page.key).removeprefix('41/')} is missing; the pages before it were not checked",
        "2 ledgers checked: 2 differences",
    ]
    as_json = ledger("--check", "--json", "--campaign", "41")
    assert as_json.returncode == 1
    (difference,) = json.loads(as_json.stdout)["differences"]
    assert difference["campaign"] == 41
    assert "is missing" in difference["what"]
    assert ledger("--check", "--campaign", "6").returncode == 1
