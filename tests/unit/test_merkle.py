"""The Merkle tree, against the published vectors and the definition itself."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.statement.merkle import Tree, leaf_hash, node_hash, proves

VECTORS = [
    bytes.fromhex(each)
    for each in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
"""Leaves of the test vectors of Certificate Transparency's reference implementation of RFC 6962."""
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def tree(leaves: list[bytes]) -> tuple[bytes, dict[int, list[bytes]]]:
    """Root and all proofs."""
    grown = Tree(range(len(leaves)))
    for leaf in leaves:
        grown.add(leaf)
    return grown.finished()


def root_by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it stands there."""
    if len(leaves) < 2:
        return sha256(b"\0" + leaves[0]).digest() if leaves else sha256().digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    parts = root_by_definition(leaves[:split]), root_by_definition(leaves[split:])
    return sha256(b"\1" + parts[0] + parts[1]).digest()


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_roots_of_the_published_vectors(size: int) -> None:
    """From no leaf to eight."""
    assert tree(VECTORS[:size])[0].hex() == ROOTS[size]


def test_a_published_path() -> None:
    """Of the first leaf among eight, and of the sixth."""
    paths = tree(VECTORS)[1]
    assert [each.hex() for each in paths[0]] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert [each.hex() for each in paths[5]] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("size", range(34))
def test_every_leaf_is_proven_and_no_other(size: int) -> None:
    """For any size: each path proves its leaf at its index, and no other leaf, index, size, path or root."""
    leaves = [b"leaf %d" % n for n in range(size)]
    root, paths = tree(leaves)
    assert root == root_by_definition(leaves)
    assert sorted(paths) == list(range(size))
    for index, path in paths.items():
        assert proves(leaves[index], index, size, path, root)
        for other in range(size):
            assert proves(leaves[other], index, size, path, root) == (other == index)
            assert proves(leaves[index], other, size, path, root) == (other == index)
        assert not proves(b"never added", index, size, path, root)
        assert not proves(leaves[index], index, size, [*path, root], root)
        assert not proves(leaves[index], index, size, path, leaf_hash(b""))
        assert not proves(leaves[index], index - size, size, path, root)
        for level, sibling in enumerate(path):
            for instead in ([], [root], [sibling + b"\0"], [sibling, sibling]):
                assert not proves(leaves[index], index, size, [*path[:level], *instead, *path[level + 1 :]], root)


def test_a_node_is_no_leaf() -> None:
    """The two children of a node do not pass for the data of a leaf, whatever size is claimed."""
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    root = node_hash(left, right)
    assert not any(proves(left + right, 0, size, [], root) for size in range(4))


@given(st.lists(st.binary(max_size=40), max_size=80), st.data())
def test_any_leaves(leaves: list[bytes], data: st.DataObject) -> None:
    """The root of the definition; a proof holds, a changed bit anywhere in it does not."""
    wanted = data.draw(st.sets(st.integers(0, 90), max_size=5))
    grown = Tree(wanted)
    for leaf in leaves:
        grown.add(leaf)
    root, paths = grown.finished()
    assert root == root_by_definition(leaves)
    assert paths.keys() == {index for index in wanted if index < len(leaves)}
    for index, path in paths.items():
        assert proves(leaves[index], index, len(leaves), path, root)
        if path:
            level, bit = data.draw(st.tuples(st.integers(0, len(path) - 1), st.integers(0, 255)))
            changed = bytearray(path[level])
            changed[bit // 8] ^= 1 << bit % 8
            assert not proves(
                leaves[index], index, len(leaves), [*path[:level], bytes(changed), *path[level + 1 :]], root
            )
