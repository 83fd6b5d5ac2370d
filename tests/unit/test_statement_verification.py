"""A statement with one byte changed anywhere does not verify; nor does one that its signer made up."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from projector.errors import Misconfigured, Refused
from projector.statement.difference import compared
from projector.statement.manifest import parsed
from projector.statement.proof import prove
from projector.statement.signature import generate, private_key, public_key
from projector.statement.verification import NOT_SIGNED, verify
from tests.statements import KEY, PUBLIC, PUBLIC_PEM, Place, a_month, number, rewrite, sign

SMALL = ("counts.csv", "manifest.json", "manifest.sig")
LARGE = ("counts.parquet", "ids.parquet")


@pytest.fixture(scope="module")
def january(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A statement; to be left as it is."""
    directory = tmp_path_factory.mktemp("made")
    place = Place(directory)
    place.send(*a_month())
    place.count()
    place.state(directory / "january")
    place.close()
    return directory / "january"


@pytest.fixture
def copy(january: Path, tmp_path: Path) -> Path:
    """A statement to change."""
    shutil.copytree(january, tmp_path / "copy")
    return tmp_path / "copy"


def changed(path: Path, places: Iterator[int]) -> Iterator[int]:
    """Change one byte after the other in a file; yields where while it is changed."""
    content = path.read_bytes()
    choose = random.Random(path.name)
    for at in places:
        path.write_bytes(content[:at] + bytes([content[at] ^ choose.randrange(1, 256)]) + content[at + 1 :])
        yield at
    path.write_bytes(content)


def sampled(size: int) -> list[int]:
    """The first 64 and the last 64, and some between."""
    edges = {*range(min(64, size)), *range(max(0, size - 64), size)}
    return sorted(edges | set(random.Random(size).sample(range(size), min(size, 200))))


def test_untouched_it_verifies(january: Path) -> None:
    """With the key of its signer."""
    found = verify(january, PUBLIC)
    assert found.failures == []
    assert found.manifest is not None
    assert found.manifest.leaves == 42


@pytest.mark.parametrize("name", SMALL)
def test_every_single_byte_of_a_small_file(copy: Path, name: str) -> None:
    """Changed, and the file is named, or the signature."""
    size = (copy / name).stat().st_size
    for at in changed(copy / name, iter(range(size))):
        failures = verify(copy, PUBLIC).failures
        assert failures, f"byte {at} of {name}"
        assert name in failures[0] or failures == [NOT_SIGNED]
    assert verify(copy, PUBLIC).failures == []


@pytest.mark.parametrize("name", LARGE)
def test_bytes_of_a_parquet_file(copy: Path, name: str) -> None:
    """Its ends whole, some between."""
    for at in changed(copy / name, iter(sampled((copy / name).stat().st_size))):
        assert verify(copy, PUBLIC).failures == [f"{name} was changed: its size or SHA-256 is not the manifest's"], at


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_a_file_that_is_cut_longer_or_gone(copy: Path, name: str) -> None:
    """Each fails."""
    content = (copy / name).read_bytes()
    for other in (b"", content[:-1], content + b"\n", content + content):
        (copy / name).write_bytes(other)
        assert verify(copy, PUBLIC).failures
    (copy / name).unlink()
    assert verify(copy, PUBLIC).failures == [f"{name} is missing"]
    (copy / name).mkdir()
    assert verify(copy, PUBLIC).failures == [f"{name} is no regular file"]


def test_a_file_that_does_not_belong_there(copy: Path) -> None:
    """Is named."""
    (copy / "counts-final.csv").write_text("campaign,count\n")
    assert verify(copy, PUBLIC).failures == ["counts-final.csv does not belong there"]


def test_every_single_byte_of_the_public_key(january: Path, tmp_path: Path) -> None:
    """A key file that was changed verifies nothing, wherever it was."""
    path = tmp_path / "key.pub"
    path.write_bytes(PUBLIC_PEM)
    assert verify(january, public_key(path)).failures == []
    for at in changed(path, iter(range(len(PUBLIC_PEM)))):
        assert verify(january, public_key(path)).failures, f"byte {at}"
    for other in (b"", PUBLIC_PEM[:-1], PUBLIC_PEM + b"\n", PUBLIC_PEM.replace(b"\n", b"\r\n")):
        path.write_bytes(other)
        assert verify(january, public_key(path)).failures


def test_another_kind_of_key(january: Path, tmp_path: Path) -> None:
    """Is no key."""
    key = generate_private_key(SECP256R1()).public_key()
    (tmp_path / "key.pub").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert verify(january, public_key(tmp_path / "key.pub")).failures


def test_signed_again_by_another(copy: Path) -> None:
    """Whoever changes a statement and signs it with a key of his own is found out, whichever key the manifest names."""
    other = Ed25519PrivateKey.generate()
    (copy / "counts.csv").write_bytes((copy / "counts.csv").read_bytes().replace(b",1\r\n", b",2\r\n"))
    for public in (PUBLIC, other.public_key().public_bytes_raw()):
        sign(copy, lambda said, public=public: said.update(public_key=public.hex()), other)  # type: ignore[misc]
        assert verify(copy, PUBLIC).failures == [NOT_SIGNED]


def test_a_manifest_that_names_another_key(copy: Path) -> None:
    """Than the one that it is signed with."""
    sign(copy, lambda said: said.update(public_key="00" * 32))
    assert verify(copy, PUBLIC).failures == ["manifest.json names another key than the one that it is signed with"]


# --- what a signer made up


def test_signing_again_what_is_true(copy: Path) -> None:
    """The means of these tests are no forgery by themselves."""
    rewrite(copy, "ids.parquet", "SELECT * FROM old")
    sign(copy)
    assert verify(copy, PUBLIC).failures == []


IDS = "out of order, or one stands twice"
ROOT = "the Merkle root"


@pytest.mark.parametrize(
    ("query", "failure"),
    [
        ("SELECT * FROM old LIMIT 41", ROOT),
        ("SELECT * FROM old UNION ALL (SELECT * FROM old OFFSET 41)", IDS),
        ("SELECT * FROM old ORDER BY campaign DESC, id", IDS),
        ("SELECT * REPLACE (second + 31 * 86400 AS second) FROM old", "is not in the period"),
        ('SELECT * REPLACE ("offset" + 1000 AS "offset") FROM old', "not before the checkpoint"),
        ("SELECT * REPLACE (partition + 2 AS partition) FROM old", "not before the checkpoint"),
        ("SELECT * REPLACE ('hacks' AS kpi) FROM old", "has no KPI"),
        ("SELECT * REPLACE (CASE WHEN kpi = 'visits' THEN 'clicks' ELSE kpi END AS kpi) FROM old", ROOT),
        ("SELECT * REPLACE (second + 1 AS second) FROM old WHERE kpi <> 'visits'", ROOT),
        ("SELECT * EXCLUDE (kpi) FROM old", "not those of a statement"),
        ("SELECT * REPLACE (CAST(NULL AS VARCHAR) AS id) FROM old", "not those of a statement"),
        ("SELECT * REPLACE ('x' AS campaign) FROM old", "not those of a statement"),
    ],
)
def test_ids_that_are_not_those_of_the_manifest(copy: Path, query: str, failure: str) -> None:
    """Signed by the right key, and still not a statement that adds up."""
    rewrite(copy, "ids.parquet", query)
    sign(copy)
    failures = verify(copy, PUBLIC).failures
    assert any(failure in each for each in failures), failures


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({"root": "00" * 32}, ROOT),
        ({"leaves": 43}, ROOT),
        ({"totals": {"visits": 1, "impressions": 2, "clicks": 3, "conversions": 4}}, "the totals"),
        ({"campaigns": 4}, "number of campaigns"),
        ({"checkpoint": {"0": 3, "1": 3}}, "not before the checkpoint"),
        ({"period_from": "2026-01-02T00:00:00Z"}, "not in the period"),
        ({"period_to": "2026-01-02T00:00:00Z"}, "not in the period"),
        ({"period_to": "2026-02-01"}, "not as this program writes"),
        ({"period_to": "2020-01-01T00:00:00Z"}, "not as this program writes"),
        ({"version": 2}, "not as this program writes"),
        ({"more": 1}, "not as this program writes"),
        ({"leaves": "42"}, "not as this program writes"),
        ({"files": {}}, "does not name the files"),
    ],
)
def test_a_manifest_that_says_what_is_not_so(copy: Path, change: dict[str, Any], failure: str) -> None:
    """Each claim of it that the files can bear out is held against them."""
    sign(copy, lambda said: said.update(change))
    failures = verify(copy, PUBLIC).failures
    assert any(failure in each for each in failures), failures


@pytest.mark.parametrize(
    ("query", "failure"),
    [
        ("SELECT * REPLACE (count + 1 AS count) FROM old", "do not say the same"),
        ("SELECT * REPLACE ('Evil' AS name) FROM old", "do not say the same"),
        ("SELECT * FROM old LIMIT 11", "do not say the same"),
        ("SELECT * EXCLUDE (count) FROM old", "not those of a statement"),
    ],
)
def test_counts_that_are_not_those_of_the_ids(copy: Path, query: str, failure: str) -> None:
    """CSV against Parquet, and both against the ids."""
    rewrite(copy, "counts.parquet", query)
    sign(copy)
    failures = verify(copy, PUBLIC).failures
    assert any(failure in each for each in failures), failures


def test_both_counts_changed_alike(copy: Path) -> None:
    """Still not those of the ids."""
    rewrite(copy, "counts.parquet", "SELECT * REPLACE (count + 1 AS count) FROM old")
    lines = (copy / "counts.csv").read_bytes().decode().split("\r\n")
    raised = [
        line[: line.rindex(",") + 1] + str(int(line.rsplit(",", 1)[1]) + 1) if line[-1:].isdigit() else line
        for line in lines
    ]
    (copy / "counts.csv").write_bytes("\r\n".join(raised).encode())
    sign(copy)
    assert verify(copy, PUBLIC).failures == ["the counts in counts.parquet are not those of ids.parquet"]


def test_a_campaign_left_out_of_both_counts(copy: Path) -> None:
    """Its ids are still there."""
    rewrite(copy, "counts.parquet", "SELECT * FROM old WHERE campaign <> 4")
    lines = (copy / "counts.csv").read_bytes().decode().split("\r\n")
    (copy / "counts.csv").write_bytes("\r\n".join(line for line in lines if not line.startswith("4,")).encode())
    sign(copy, lambda said: said.update(campaigns=2))
    assert verify(copy, PUBLIC).failures == ["the counts in counts.parquet are not those of ids.parquet"]


@pytest.mark.parametrize("name", ["counts.csv", "counts.parquet", "ids.parquet"])
def test_a_file_of_nonsense_is_a_failure_and_no_crash(copy: Path, name: str) -> None:
    """Whatever was signed."""
    for content in (b"", b"PAR1", b"\xff\xfe\0", b"campaign,name,kpi,count\r\n\xff"):
        (copy / name).write_bytes(content)
        sign(copy)
        assert verify(copy, PUBLIC).failures


def test_a_manifest_of_nonsense(copy: Path) -> None:
    """Is no manifest; one that differs by a blank is none either."""
    content = (copy / "manifest.json").read_bytes()
    assert parsed(content) is not None
    for other in (b"", b"{}", b"null", b"\xff", content + b" ", json.dumps(json.loads(content)).encode()):
        assert parsed(other) is None
        (copy / "manifest.json").write_bytes(other)
        (copy / "manifest.sig").write_bytes(KEY.sign(other))
        assert verify(copy, PUBLIC).failures == ["manifest.json is not as this program writes one"]


def test_other_commands_refuse_what_is_not_intact(january: Path, copy: Path) -> None:
    """Nothing is proven from, or compared with, files that are not those of the manifest."""
    with (copy / "ids.parquet").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(Refused, match=r"ids\.parquet was changed"):
        prove(copy, number(0))
    with pytest.raises(Refused, match=r"ids\.parquet was changed"), compared(january, copy):
        pass


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """Is a mistake of the caller's."""
    with pytest.raises(Misconfigured):
        verify(tmp_path / "none", PUBLIC)


# --- keys


def test_keygen(tmp_path: Path) -> None:
    """A pair that belongs together, the private one for its owner alone; neither file is ever overwritten."""
    public = generate(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    key = private_key(tmp_path / "key.pem")
    assert public_key(public) == key.public_key().public_bytes_raw()
    kept = (tmp_path / "key.pem").read_bytes()
    with pytest.raises(Refused):
        generate(tmp_path / "key.pem")
    public.rename(tmp_path / "other.pub")
    with pytest.raises(Refused):
        generate(tmp_path / "key.pem")
    with pytest.raises(Refused):
        generate(tmp_path / "other")
    assert (tmp_path / "key.pem").read_bytes() == kept
    assert not (tmp_path / "other").exists()
    with pytest.raises(Misconfigured):
        generate(tmp_path / "no" / "where")


def test_what_is_no_private_key(tmp_path: Path) -> None:
    """A public one, another kind, nonsense, nothing: each named with the way out."""
    for content in (PUBLIC_PEM, b"", b"nonsense"):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(Misconfigured, match="projector statement keygen"):
            private_key(tmp_path / "key")
    with pytest.raises(Misconfigured, match="cannot read"):
        private_key(tmp_path / "none")
