"""A proposal is what its proposer signed, to the byte."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

import fedhealth
from fedhealth.core.errors import FedHealthError, IntegrityError, Refused, SettingError
from fedhealth.core.study import canonical, digest
from fedhealth.governance.installed import code_hash, packages
from fedhealth.governance.proposal import CONTEXT, read

PACKAGE = Path(fedhealth.__file__).parent


def test_a_proposal_reads_back_whole(scene):
    signed = scene.proposed()
    found = read(signed.text.encode())
    assert found == signed
    assert found.proposal.study == json.loads(canonical(scene.document))
    assert found.proposal.digest == digest(scene.document)


def test_what_is_signed_is_the_canonical_text_and_what_it_is_for(scene):
    found = json.loads(scene.proposed().text)
    text = json.dumps(found["proposal"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    scene.anna.public_key().verify(bytes.fromhex(found["signature"]), CONTEXT + text.encode())


def test_no_byte_of_it_can_be_changed_added_or_left_out(scene):
    content, rng = scene.proposed().text.encode(), random.Random(1)
    for at in [*rng.sample(range(len(content)), 150), 0, len(content) - 1]:
        for changed in (
            content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
            content[:at] + content[at + 1 :],
            content[:at] + b" " + content[at:],
        ):
            with pytest.raises(FedHealthError) as refusal:
                read(changed)
            assert refusal.value.exit_code in (2, 3, 4)
            assert "\n" not in str(refusal.value)


def test_a_changed_word_is_an_integrity_failure(scene):
    with pytest.raises(IntegrityError, match="as its proposer signed it"):
        read(scene.proposed().text.replace("care first", "care last_").encode())


@pytest.mark.parametrize("signature", ["", None, "missing"])
def test_an_unsigned_study_is_refused_by_its_code(scene, signature):
    found = json.loads(scene.proposed().text)
    if signature == "missing":
        del found["signature"]
    else:
        found["signature"] = signature
    with pytest.raises(Refused) as refusal:
        read((canonical(found) + "\n").encode())
    assert refusal.value.code == "unsigned"


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"proposal":[]}', b"[" * 100_000, b"name: smoke\n"]
)
def test_what_is_no_proposal_is_bad_input(content):
    with pytest.raises(SettingError, match="a study must be a file that fedhealth study propose wrote"):
        read(content)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"expires": "2026-11-24"}, "must not be over"),
        ({"expires": "30 June"}, "must be a day as YYYY-MM-DD"),
        ({"expires": "20270630"}, "must be a day as YYYY-MM-DD"),
        ({"purpose": "  "}, "must say what the study is for"),
        ({"rounds": 0}, "`rounds` must be at least 1"),
    ],
)
def test_nothing_wrong_is_signed(scene, changes, found):
    with pytest.raises(SettingError, match=found):
        scene.proposed(**changes)


def test_the_hash_of_the_code_is_what_a_shell_makes_of_it(tmp_path):
    words = "find . -name '*.py' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    found = subprocess.run(["sh", "-c", words], cwd=PACKAGE, capture_output=True, text=True, check=True).stdout
    assert code_hash() == found.split()[0]
    copy = tmp_path / "fedhealth"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert code_hash(copy) == code_hash()
    renamed = copy.rename(tmp_path / "renamed")
    (renamed / "cli.py").rename(renamed / "command_line.py")
    assert code_hash(renamed) != code_hash()


def test_the_packages_are_those_that_fedhealth_stands_on():
    found = packages()
    assert {"flwr", "torch", "numpy", "cryptography", "pydantic-core"} <= found.keys()
    assert not {"pytest", "ruff", "ray", "fedhealth"} & found.keys()
