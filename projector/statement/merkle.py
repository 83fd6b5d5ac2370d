"""A Merkle tree as in RFC 6962, section 2.1 (RFC 9162, section 2.1, is the same), with SHA-256.

    leaf   SHA-256(0x00 || data)
    node   SHA-256(0x01 || left || right), the left subtree being the largest power of two of leaves below their number
    empty  SHA-256 of nothing

The two first bytes keep a node from passing for a leaf. Leaves are taken one by one: what is held is one hash per
level, and the paths that are asked for.
"""

from collections.abc import Collection, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY = sha256().digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of two subtrees."""
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that grows to the right. `paths` holds, by index of a leaf in `wanted`, its inclusion proof so far."""

    def __init__(self, wanted: Collection[int] = ()) -> None:
        """`wanted`: indexes, from 0, of the leaves to prove."""
        self.size = 0
        self._paths: dict[int, list[bytes]] = {index: [] for index in wanted}
        self._subtrees: list[bytes] = []
        """Complete subtrees from left to right, one for each bit that is set in `size`."""

    def add(self, data: bytes) -> None:
        """Append a leaf."""
        hashed, level, number = sha256(b"\x00" + data).digest(), 0, self.size
        while number & 1:
            left = self._subtrees.pop()
            if self._paths:
                middle = number << level
                _extend(self._paths, middle - (1 << level), middle, self.size + 1, left, hashed)
            hashed = sha256(b"\x01" + left + hashed).digest()
            number >>= 1
            level += 1
        self._subtrees.append(hashed)
        self.size += 1

    def finished(self) -> tuple[bytes, dict[int, list[bytes]]]:
        """The root hash of the leaves so far, and for each leaf wanted its inclusion proof, from the leaf up."""
        if not self._subtrees:
            return EMPTY, {}
        paths = {index: list(path) for index, path in self._paths.items() if index < self.size}
        levels = [level for level in range(self.size.bit_length()) if self.size >> level & 1]  # right to left
        begin = self.size - (1 << levels[0])
        hashed = self._subtrees[-1]
        for level, left in zip(levels[1:], self._subtrees[-2::-1], strict=True):
            middle, begin = begin, begin - (1 << level)
            _extend(paths, begin, middle, self.size, left, hashed)
            hashed = node_hash(left, hashed)
        return hashed, paths


def _extend(paths: dict[int, list[bytes]], begin: int, middle: int, end: int, left: bytes, right: bytes) -> None:
    """Two subtrees, of leaves `begin` to `middle` and `middle` to `end`, are joined."""
    for index, path in paths.items():
        if begin <= index < middle:
            path.append(right)
        elif middle <= index < end:
            path.append(left)


def proves(data: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` shows that leaf `index` of the `size` leaves under `root` is `data` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    number, last = index, size - 1
    hashed = leaf_hash(data)
    for sibling in path:
        if last == 0 or len(sibling) != HASH_BYTES:
            return False
        if number & 1 or number == last:
            hashed = node_hash(sibling, hashed)
            while not number & 1 and number:
                number >>= 1
                last >>= 1
        else:
            hashed = node_hash(hashed, sibling)
        number >>= 1
        last >>= 1
    return last == 0 and hashed == root
