"""Proof: that an id was counted in a statement's period, checked with the signer's public key and nothing else."""

import json
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from projector.errors import Misconfigured, Refused
from projector.event import KPIS, id_of, spelled
from projector.statement import merkle
from projector.statement.leaf import Leaf, leaves
from projector.statement.manifest import Hex32, Manifest, parsed
from projector.statement.signature import signed
from projector.statement.verification import NOT_SIGNED, Verification, opened


class ProvenLeaf(BaseModel):
    """A leaf, its index in the tree, and the hashes that lead from it to the root, in hex, from the leaf up."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    campaign: int
    kpi: str
    id: str
    second: int
    partition: int
    offset: int
    index: int
    path: list[Hex32]

    @property
    def leaf(self) -> Leaf:
        """The leaf alone."""
        return Leaf(self.campaign, self.kpi, self.id, self.second, self.partition, self.offset)


class Proof(BaseModel):
    """Where an id was counted: a leaf for each campaign that did. `encoded` is its file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["projector-statement-proof"] = "projector-statement-proof"
    version: Literal[1] = 1
    id: str
    leaves: list[ProvenLeaf]
    manifest: str
    """The statement's manifest, to the byte."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]

    def encoded(self) -> bytes:
        """The bytes of its file."""
        return (json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n").encode()


class _Place(NamedTuple):
    number: int
    leaf: Leaf


def prove(directory: Path, event_id: str) -> Proof | None:
    """The proof for an id, in any spelling; None if it was not counted in the period.

    Raises `Refused` where the statement is not intact, `Misconfigured`.
    """
    statement = opened(directory)
    wanted = spelled(id_of(event_id) or event_id)
    found = [_Place(number, leaf) for number, leaf in enumerate(leaves(statement.ids)) if leaf.id == wanted]
    if not found:
        return None
    tree = merkle.Tree([place.number for place in found])
    for leaf in leaves(statement.ids):
        tree.add(leaf.data)
    root, paths = tree.finished()
    if root.hex() != statement.manifest.root:
        raise Refused(f"{directory} is no intact statement: its ids do not have the Merkle root of its manifest")
    proven = [
        ProvenLeaf(**leaf._asdict(), index=index, path=[each.hex() for each in paths[index]]) for index, leaf in found
    ]
    content, signature = statement.content.decode(), statement.signature.hex()
    return Proof(id=wanted, leaves=proven, manifest=content, signature=signature)


class Proven(NamedTuple):
    """What a proof shows; `proof` None: its file is none."""

    verification: Verification
    proof: Proof | None


def verify_proof(path: Path, key: bytes | None) -> Proven:
    """Check a proof's file with the 32 bytes of the public key. Raises `Misconfigured` if it cannot be read.

    The file is exactly what `prove` writes, its manifest is signed with the key, and each leaf is of this id, in the
    period, before the checkpoint, and under the manifest's root.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"cannot read {path}: {error.strerror}") from None
    if key is None:
        return Proven(Verification(None, ["the public key is not one: no Ed25519 key, or not as PEM writes it"]), None)
    try:
        proof = Proof.model_validate_json(content)
        written = proof.encoded()
    except (ValidationError, ValueError):
        return Proven(Verification(None, [f"{path} is no proof"]), None)
    if written != content:
        return Proven(Verification(None, [f"{path} is not as this program writes a proof"]), None)
    if not signed(proof.manifest.encode(), bytes.fromhex(proof.signature), key):
        return Proven(Verification(None, [NOT_SIGNED]), proof)
    manifest = parsed(proof.manifest.encode())
    if manifest is None or manifest.public_key != key.hex():
        return Proven(Verification(None, ["its manifest is not as this program writes one"]), proof)
    failures = [] if proof.leaves else ["it proves nothing: it has no leaves"]
    if len({each.index for each in proof.leaves}) < len(proof.leaves):
        failures.append("it has a leaf twice")
    failures += [
        f"campaign {each.campaign}, {each.kpi}: this leaf is not one of the statement's"
        for each in proof.leaves
        if each.id != proof.id or not _holds(each, manifest)
    ]
    return Proven(Verification(manifest, failures), proof)


def _holds(proven: ProvenLeaf, manifest: Manifest) -> bool:
    leaf, period = proven.leaf, manifest.period
    path = [bytes.fromhex(each) for each in proven.path]
    return (
        leaf.kpi in KPIS  # a field with a blank in it could take in its neighbours: the same bytes, another id
        and period.begin <= leaf.second < period.end
        and leaf.offset < manifest.checkpoint.get(leaf.partition, 0)
        and merkle.proves(leaf.data, proven.index, manifest.leaves, path, bytes.fromhex(manifest.root))
    )
