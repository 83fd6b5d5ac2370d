"""The proof of one id: it holds for what was counted, and cannot be made or bent for anything else."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from projector.errors import Misconfigured
from projector.statement.leaf import leaves
from projector.statement.merkle import leaf_hash
from projector.statement.period import Period
from projector.statement.proof import prove, verify_proof
from tests.statements import BEGIN, END, KEY, PUBLIC, Place, Sent, a_month, number


@pytest.fixture(scope="module")
def january(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A statement, and beside it `december`, of one id."""
    directory = tmp_path_factory.mktemp("made")
    place = Place(directory)
    place.send(*a_month())
    place.send(Sent(number(700), 1, "hack"), Sent(number(701), 9))
    place.count()
    place.state(directory / "january")
    place.state(directory / "december", Period(BEGIN - 86_400, BEGIN))
    place.close()
    return directory / "january"


def proof_file(january: Path, event_id: str, path: Path) -> Path:
    """The proof, in a file."""
    proof = prove(january, event_id)
    assert proof is not None
    path.write_bytes(proof.encoded())
    return path


def test_every_counted_id_is_proven(january: Path, tmp_path: Path) -> None:
    """As what it was counted, from a file that is all that the verifier has."""
    held = list(leaves(january / "ids.parquet"))
    assert len(held) == 42
    for leaf in held:
        found = verify_proof(proof_file(january, leaf.id, tmp_path / "proof.json"), PUBLIC)
        assert found.verification.failures == []
        assert found.proof is not None
        assert leaf in [each.leaf for each in found.proof.leaves]
        assert all(each.id == leaf.id for each in found.proof.leaves)


def test_an_id_of_two_campaigns_has_two_leaves(january: Path) -> None:
    """Each is given."""
    proof = prove(january, number(0))
    assert proof is not None
    assert [(each.campaign, each.kpi) for each in proof.leaves] == [(1, "impressions"), (2, "impressions")]


def test_any_spelling_of_a_uuid(january: Path) -> None:
    """Gives the same proof; any other text is taken as it is."""
    for spelling in (number(3).upper(), number(3).replace("-", ""), number(3).upper().replace("-", "")):
        assert prove(january, spelling) == prove(january, number(3))
    assert prove(january, "a text, no uuid \U0001f4b6") is not None
    assert prove(january, "A text, no uuid \U0001f4b6") is None
    assert prove(january, number(3)[:-1]) is None
    assert prove(january, number(3).replace("-", " ")) is None


@pytest.mark.parametrize("n", [100, 101, 700, 701, 9_999])
def test_what_was_not_counted_has_no_proof(january: Path, n: int) -> None:
    """The second before the period, the one after it, a kind and a tag that were parked, an id never sent."""
    assert prove(january, number(n)) is None


def test_every_single_byte_of_a_proof(january: Path, tmp_path: Path) -> None:
    """Changed, it does not hold."""
    path = proof_file(january, number(5), tmp_path / "proof.json")
    content = path.read_bytes()
    choose = random.Random(5)
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ choose.randrange(1, 256)]) + content[at + 1 :])
        assert verify_proof(path, PUBLIC).verification.failures, f"byte {at}"
    for other in (b"", b"{}", content[:-1], content + b"\n", json.dumps(json.loads(content)).encode()):
        path.write_bytes(other)
        assert verify_proof(path, PUBLIC).verification.failures


def _other_id(said: dict[str, Any]) -> None:
    said["id"] = said["leaves"][0]["id"] = number(9_999)


def _only_the_head(said: dict[str, Any]) -> None:
    said["id"] = number(9_999)


def _none(said: dict[str, Any]) -> None:
    said["leaves"] = []


def _twice(said: dict[str, Any]) -> None:
    said["leaves"] *= 2


def _set(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(said: dict[str, Any]) -> None:
        said["leaves"][0][name] = value

    return change


def _root_alone(said: dict[str, Any]) -> None:
    """The tree of one leaf that the manifest does not have."""
    said["leaves"][0] |= {"index": 0, "path": []}


@pytest.mark.parametrize(
    "change",
    [
        _other_id,
        _only_the_head,
        _none,
        _twice,
        _root_alone,
        _set("campaign", 3),
        _set("kpi", "conversions"),
        _set("second", BEGIN + 1),
        _set("second", END),
        _set("partition", 0),
        _set("offset", 1),
        _set("offset", 1_000),
        _set("index", 1),
        _set("index", -1),
        _set("index", 42),
        _set("path", [leaf_hash(b"").hex()]),
    ],
)
def test_a_proof_that_was_bent(january: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Written as a proof is written, it still does not hold."""
    path = proof_file(january, number(5), tmp_path / "proof.json")
    said = json.loads(path.read_bytes())
    change(said)
    path.write_bytes((json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode())
    assert verify_proof(path, PUBLIC).verification.failures


def test_a_leaf_under_the_manifest_of_another_period(january: Path, tmp_path: Path) -> None:
    """Signed with the same key: not its root."""
    path = proof_file(january, number(5), tmp_path / "proof.json")
    said = json.loads(path.read_bytes())
    for name in ("manifest.json", "manifest.sig"):
        content = (january.parent / "december" / name).read_bytes()
        said["manifest" if name == "manifest.json" else "signature"] = (
            content.decode() if name == "manifest.json" else content.hex()
        )
    path.write_bytes((json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode())
    (failure,) = verify_proof(path, PUBLIC).verification.failures
    assert "is not one of the statement's" in failure


def test_an_id_that_holds_the_fields_of_a_leaf(tmp_path: Path) -> None:
    """Ids come from outside: one with blanks in it must not prove another that was never counted, by the same bytes."""
    place = Place(tmp_path)
    victim = number(900)
    place.send(Sent(f"{BEGIN + 1} 0 0 {victim}", 1, "click", BEGIN))
    place.count()
    place.state(tmp_path / "january")
    place.close()
    proof = proof_file(tmp_path / "january", f"{BEGIN + 1} 0 0 {victim}", tmp_path / "proof.json")
    assert verify_proof(proof, PUBLIC).verification.failures == []
    found = verify_proof(proof, PUBLIC).proof
    assert found is not None
    (own,) = found.leaves
    shifted = {"kpi": f"clicks {own.second} 0 {own.offset}", "second": BEGIN + 1, "offset": 0, "id": victim}
    forged = found.model_copy(update={"id": victim, "leaves": [own.model_copy(update=shifted)]})
    assert forged.leaves[0].leaf.data == own.leaf.data
    bent = tmp_path / "bent.json"
    bent.write_bytes(forged.encoded())
    assert verify_proof(bent, PUBLIC).verification.failures


def test_a_proof_by_another_signer(january: Path, tmp_path: Path) -> None:
    """Whoever makes up a manifest must sign it himself."""
    path = proof_file(january, number(5), tmp_path / "proof.json")
    other = Ed25519PrivateKey.generate()
    said = json.loads(path.read_bytes())
    manifest = said["manifest"].replace(PUBLIC.hex(), other.public_key().public_bytes_raw().hex())
    said |= {"manifest": manifest, "signature": other.sign(manifest.encode()).hex()}
    path.write_bytes((json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode())
    assert verify_proof(path, other.public_key().public_bytes_raw()).verification.failures == []
    assert verify_proof(path, PUBLIC).verification.failures
    said["signature"] = KEY.sign(manifest.encode()).hex()
    path.write_bytes((json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode())
    assert verify_proof(path, PUBLIC).verification.failures
    assert verify_proof(path, None).verification.failures


def test_a_proof_that_is_not_there(tmp_path: Path) -> None:
    """Is a mistake of the caller's."""
    with pytest.raises(Misconfigured):
        verify_proof(tmp_path / "none", PUBLIC)
