"""Verification: whether a statement is what its signer signed and adds up by itself, from its files and a key alone."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow  # type: ignore[import-untyped]  # no hints

from projector.errors import Misconfigured, Refused
from projector.event import KPIS
from projector.statement.leaf import leaves
from projector.statement.leaf import rows as parquet_rows
from projector.statement.manifest import (
    COUNTS_CSV,
    COUNTS_PARQUET,
    FILES,
    IDS_PARQUET,
    MANIFEST,
    SIGNATURE,
    File,
    Manifest,
    parsed,
)
from projector.statement.merkle import Tree
from projector.statement.signature import signed

NOT_SIGNED = "the signature is not that of this manifest by this key: one of the three was changed, or is another's"

_COLUMNS = ("campaign", "name", "kpi", "count")
_TYPES = ("int64", "string", "string", "int64")


class Verification(NamedTuple):
    """What was found: `failures` is empty if all is well. `manifest` None: it could not be read, or is not signed."""

    manifest: Manifest | None
    failures: list[str]


class Statement(NamedTuple):
    """A statement whose files are those that its manifest names, signed with the key that this names."""

    directory: Path
    manifest: Manifest
    content: bytes
    """Of the manifest's file."""
    signature: bytes

    @property
    def ids(self) -> Path:
        """The file of its leaves."""
        return self.directory / IDS_PARQUET


def verify(directory: Path, key: bytes | None) -> Verification:
    """Check a statement; `key`: the 32 bytes of the public key that it must be signed with, None: it is no key.

    1. The manifest is signed with the key.
    2. There are the files that the manifest names, no others, each with the size and SHA-256 that it says.
    3. The ids are in order, none twice in a campaign, all in the period and before the checkpoint.
    4. Their Merkle root, their number and the totals are the manifest's.
    5. The counts in CSV and in Parquet are those of the ids.

    Each rests on those before it: after a failure of 1 or 2 the content is not looked at. Raises `Misconfigured`
    where there is no such directory.
    """
    if key is None:
        return Verification(None, ["the public key is not one: no Ed25519 key, or not as PEM writes it"])
    found, failures = _opened(directory, key)
    if found is None or failures:
        return Verification(found.manifest if found else None, failures)
    try:
        failures = list(_content_failures(found))
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        failures = [f"its files are not those of a statement: {error}"]
    return Verification(found.manifest, failures)


def opened(directory: Path) -> Statement:
    """A statement to work with, intact by steps 1 and 2 with its own key; whose that is only `verify` tells.

    Raises `Refused`, `Misconfigured`.
    """
    found, failures = _opened(directory, None)
    if found is None or failures:
        raise Refused(f"{directory} is no intact statement: {failures[0]}")
    return found


def _opened(directory: Path, key: bytes | None) -> tuple[Statement | None, list[str]]:
    """Steps 1 and 2. `key` None: the one that the manifest names."""
    if not directory.is_dir():
        raise Misconfigured(f"there is no directory {directory}")
    there = {path.name: path for path in directory.iterdir()}
    failures = [f"{name} does not belong there" for name in sorted(there.keys() - {*FILES, MANIFEST, SIGNATURE})]
    irregular = sorted(name for name, path in there.items() if path.is_symlink() or not path.is_file())
    failures += [f"{name} is no regular file" for name in irregular]
    failures += [f"{name} is missing" for name in (MANIFEST, SIGNATURE) if name not in there]
    if failures:
        return None, failures
    try:
        content, signature = there[MANIFEST].read_bytes(), there[SIGNATURE].read_bytes()
    except OSError as error:
        raise Misconfigured(f"cannot read {directory}: {error.strerror}") from None
    manifest = parsed(content)
    if key is not None and not signed(content, signature, key):
        return None, [NOT_SIGNED]
    if manifest is None:
        return None, [f"{MANIFEST} is not as this program writes one"]
    if not signed(content, signature, bytes.fromhex(manifest.public_key)):
        return None, [f"{MANIFEST} names another key than the one that it is signed with" if key else NOT_SIGNED]
    return Statement(directory, manifest, content, signature), list(_file_failures(manifest, there))


def _file_failures(manifest: Manifest, there: dict[str, Path]) -> Iterator[str]:
    if set(manifest.files) != set(FILES):
        yield f"{MANIFEST} does not name the files of a statement"
        return
    for name, expected in manifest.files.items():
        if name not in there:
            yield f"{name} is missing"
            continue
        try:
            found = File.of(there[name])
        except OSError as error:
            raise Misconfigured(f"cannot read {there[name]}: {error.strerror}") from None
        if found != expected:
            yield f"{name} was changed: its size or SHA-256 is not the manifest's"


def _content_failures(statement: Statement) -> Iterator[str]:
    """Steps 3 to 5; one failure ends a step."""
    manifest = statement.manifest
    period = manifest.period
    tree, counts = Tree(), Counter[tuple[int, str]]()
    before: tuple[int, bytes] | None = None
    for leaf in leaves(statement.ids):
        if before is not None and leaf.place <= before:
            yield f"{IDS_PARQUET}: ids are out of order, or one stands twice in campaign {leaf.campaign}"
            return
        if not period.begin <= leaf.second < period.end:
            yield f"{IDS_PARQUET}: an id of campaign {leaf.campaign} is not in the period"
            return
        if leaf.kpi not in KPIS or not 0 <= leaf.offset < manifest.checkpoint.get(leaf.partition, 0):
            yield f"{IDS_PARQUET}: an id of campaign {leaf.campaign} has no KPI, or is not before the checkpoint"
            return
        before = leaf.place
        counts[leaf.campaign, leaf.kpi] += 1
        tree.add(leaf.data)
    root, _ = tree.finished()
    if (root.hex(), tree.size) != (manifest.root, manifest.leaves):
        yield f"the Merkle root or the number of ids in {IDS_PARQUET} is not the manifest's"
    totals = dict.fromkeys(KPIS, 0)
    for (_, kpi), count in counts.items():
        totals[kpi] += count
    if totals != manifest.totals:
        yield f"the totals of {IDS_PARQUET} are not the manifest's"
    rows = list(parquet_rows(statement.directory / COUNTS_PARQUET, _COLUMNS, _TYPES))
    if _csv_rows(statement.directory / COUNTS_CSV) != [tuple(map(str, row)) for row in rows]:
        yield f"{COUNTS_CSV} and {COUNTS_PARQUET} do not say the same"
    campaigns = sorted({campaign for campaign, *_ in rows})
    cells = [(campaign, kpi) for campaign in campaigns for kpi in KPIS]
    if [(campaign, kpi, count) for campaign, _, kpi, count in rows] != [(*cell, counts[cell]) for cell in cells] or {
        campaign for campaign, _ in counts
    } - set(campaigns):
        yield f"the counts in {COUNTS_PARQUET} are not those of {IDS_PARQUET}"
    if len(campaigns) != manifest.campaigns:
        yield f"{COUNTS_PARQUET} does not have the manifest's number of campaigns"


def _csv_rows(path: Path) -> list[tuple[str, ...]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [tuple(row) for row in csv.reader(file)]
    if rows[:1] != [_COLUMNS]:
        raise ValueError(f"{path.name} has another head")
    return rows[1:]
