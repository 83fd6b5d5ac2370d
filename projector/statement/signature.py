"""Signature: Ed25519 (RFC 8032) over the exact bytes of a manifest, 64 bytes; keys in PEM files.

Without this program: openssl pkeyutl -verify -pubin -inkey KEY.pub -rawin -in manifest.json -sigfile manifest.sig
"""

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from projector.errors import Misconfigured, Refused

KEYGEN = "projector statement keygen FILE makes one"


def generate(path: Path) -> Path:
    """Write a new private key to `path`, readable by its owner alone, and its public key beside it; answers that path.

    Raises `Refused` if either file is there, `Misconfigured` if one cannot be written.
    """
    key, public = Ed25519PrivateKey.generate(), path.with_name(path.name + ".pub")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for file in (path, public):
        if file.exists():
            raise Refused(f"{file} is there already: a key is never overwritten")
    _create(path, private, 0o600)
    _create(public, _public_pem(key.public_key()), 0o644)
    return public


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
    except FileExistsError:
        raise Refused(f"{path} is there already: a key is never overwritten") from None
    except OSError as error:
        raise Misconfigured(f"cannot write {path}: {error.strerror}") from None


def private_key(path: Path) -> Ed25519PrivateKey:
    """The key to sign with. Raises `Misconfigured`."""
    try:
        key = load_pem_private_key(_content(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a password
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise Misconfigured(f"{path} is no Ed25519 private key in PEM without a password: {KEYGEN}")
    return key


def public_key(path: Path) -> bytes | None:
    """The 32 bytes of the public key in a PEM file; None if that is not, byte for byte, the PEM form of one.

    Raises `Misconfigured` if the file cannot be read.
    """
    content = _content(path)
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, Ed25519PublicKey) or _public_pem(key) != content:
        return None
    return raw(key)


def raw(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of a public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def signed(message: bytes, signature: bytes, key: bytes) -> bool:
    """Whether `signature` is that of `message` by the owner of the public key `key`."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"cannot read the key {path}: {error.strerror}") from None
