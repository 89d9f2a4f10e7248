"""Messages: one form each, and nothing else is read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_round import STEPS, MaskedRound, refusal, terms_of

import fedhealth.secagg.protocol
from fedhealth.secagg.protocol.messages import KINDS, unpack


def every_message() -> dict[str, bytes]:
    masked, found = MaskedRound(terms_of(4, d=3)), {}
    for step in STEPS:
        for told in masked.asked["site-000"]:
            found[type(told).__name__] = told.pack()
        masked.one(step, ["site-003"] if step == "mask" else ())
    for packed in masked.transcript:
        found[type(unpack(packed)).__name__] = packed
    return found


MESSAGES = every_message()


def test_every_kind_of_message_is_seen_here():
    assert set(MESSAGES) == {kind.__name__ for kind in KINDS.values()}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_cut_or_followed_by_anything_is_refused(name):
    packed = MESSAGES[name]
    for cut in range(len(packed)):
        assert refusal(unpack, packed[:cut]) == "malformed"
    assert refusal(unpack, packed + b"\0") == "malformed"


@pytest.mark.parametrize("name", MESSAGES)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_message_with_other_bytes_is_refused_or_says_exactly_those_bytes(name, data):
    packed = bytearray(MESSAGES[name])
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    if refusal(unpack, bytes(packed)) != "malformed":
        assert unpack(bytes(packed)).pack() == bytes(packed)


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"fhs1", *(b"fhs1" + kind for kind in KINDS)]))
def test_any_bytes_are_refused_or_are_a_message(data, head):
    if refusal(unpack, head + data) != "malformed":
        assert unpack(head + data).pack() == head + data


def test_sites_out_of_order_or_twice_are_refused():
    survivors = b"fhs1F\0\3\0\0\0\1\0\2"
    assert unpack(survivors).sites == (0, 1, 2)
    assert refusal(unpack, b"fhs1F\0\3\0\0\0\2\0\1") == "malformed"
    assert refusal(unpack, b"fhs1F\0\3\0\0\0\1\0\1") == "malformed"


@pytest.mark.parametrize(
    ("name", "head", "size"), [("Cohort", 39, 162), ("Shares", 41, 84), ("Quorum", 7, 66), ("Reveal", 9, 35)]
)
def test_entries_of_sites_in_another_order_are_refused(name, head, size):
    packed = MESSAGES[name]
    one, other = (packed[at : at + size] for at in (head, head + size))
    swapped = packed[:head] + other + one + packed[head + 2 * size :]
    assert one[:2] < other[:2] <= b"\0\3"  # two whole entries, of two of the four sites
    assert refusal(unpack, swapped) == "malformed"


ALLOWED = {
    *("__future__", "collections", "concurrent", "contextlib", "dataclasses", "enum", "functools", "hashlib"),
    *("itertools", "math", "struct", "typing", "numpy", "cryptography", "fedhealth"),
}


PROTOCOL = sorted(Path(fedhealth.secagg.protocol.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", PROTOCOL, ids=lambda path: path.stem)
def test_the_protocol_has_no_clock_no_disk_no_network_and_no_randomness_of_its_own(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= ALLOWED
        assert not (isinstance(node, ast.Name) and node.id in ("open", "input"))
        assert not (isinstance(node, ast.Attribute) and node.attr in ("random", "generate", "generate_key"))
