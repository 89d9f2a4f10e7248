"""The tree against Certificate Transparency's reference roots, and proofs against a tree built by its definition."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.governance.merkle import EMPTY, Tree, is_consistent, is_included, leaf_hash

#: The inputs and roots with which implementations of Certificate Transparency test themselves.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
MOST = 40


def tree_of(leaves: list[bytes]) -> Tree:
    tree = Tree()
    for leaf in leaves:
        tree.add(leaf_hash(leaf))
    return tree


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it stands there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


@pytest.mark.parametrize("n", range(1, 9))
def test_the_roots_are_those_of_certificate_transparency(n):
    assert tree_of([bytes.fromhex(text) for text in INPUTS[:n]]).root().hex() == ROOTS[n - 1]


def test_a_list_without_leaves_has_the_hash_of_nothing():
    assert Tree().root() == EMPTY == by_definition([])


def test_every_prefix_has_the_root_of_its_definition():
    leaves = [bytes([i]) for i in range(MOST)]
    tree = tree_of(leaves)
    assert [tree.root(n) for n in range(MOST + 1)] == [by_definition(leaves[:n]) for n in range(MOST + 1)]


def test_every_leaf_is_proved_to_be_in_every_list_that_has_it():
    leaves = [bytes([i]) for i in range(MOST)]
    tree = tree_of(leaves)
    for size in range(1, MOST + 1):
        for index in range(size):
            proof = tree.inclusion(index, size)
            assert is_included(leaf_hash(leaves[index]), index, size, tree.root(size), proof)
            assert not is_included(leaf_hash(b"forged"), index, size, tree.root(size), proof)
            assert not is_included(leaf_hash(leaves[index]), index + 1, size, tree.root(size), proof)


def test_every_list_is_proved_to_begin_with_every_shorter_one():
    leaves = [bytes([i]) for i in range(MOST)]
    tree, other = tree_of(leaves), tree_of([b"rewritten", *leaves[1:]])
    for new in range(1, MOST + 1):
        for old in range(1, new + 1):
            proof = tree.consistency(old, new)
            assert is_consistent(old, new, tree.root(old), tree.root(new), proof)
            assert not is_consistent(old, new, other.root(old), tree.root(new), proof)
            assert not is_consistent(old, new, tree.root(old), other.root(new), proof)
    assert not is_consistent(3, 2, tree.root(3), tree.root(2), [])


@given(st.integers(1, 60), st.data())
def test_no_proof_holds_with_a_hash_changed_left_out_or_added(size, data):
    tree = tree_of([bytes([i]) for i in range(size)])
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    proofs = [
        (
            tree.inclusion(index, size),
            lambda p: is_included(leaf_hash(bytes([index])), index, size, tree.root(size), p),
        ),
        (tree.consistency(old, size), lambda p: is_consistent(old, size, tree.root(old), tree.root(size), p)),
    ]
    for proof, holds in proofs:
        assert holds(proof)
        assert not holds([*proof, EMPTY])
        if proof:
            at = data.draw(st.integers(0, len(proof) - 1))
            assert not holds(proof[:at] + proof[at + 1 :])
            assert not holds([*proof[:at], EMPTY, *proof[at + 1 :]])
