"""A study that asks once, on its way to a hospital: what its options mean, and what people there read of it."""

from __future__ import annotations

import argparse
import re

import pytest

from fedhealth import cli
from fedhealth.asked_once import add_questions, asks_once, document_asked, words_of
from fedhealth.compose import composed, resolved
from fedhealth.core.errors import SettingError
from fedhealth.core.study import digest, study_from
from fedhealth.governance.proposal import propose, read
from fedhealth.governance.signing import new_key, signing_key
from fedhealth.study_document import document_of
from fedhealth.synthetic.folders import write_sites

NAMES = ["hospital-01", "hospital-02", "hospital-03"]


def chosen(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("overrides", nargs="*")
    add_questions(parser)
    return parser.parse_args([*words])


def asked(*words: str) -> dict:
    found = chosen("experiment=smoke", *words)
    return document_asked(document_of(resolved(composed(words_of(found))), NAMES), found)


@pytest.fixture
def inspected(tmp_path, capsys):
    """What a hospital's people read of a proposed study, on one line."""
    write_sites(tmp_path / "drawn", h=1.0, n=3, seed=7)
    new_key(tmp_path / "key")
    assert cli.main(["site", "keys", "init", "--site", str(tmp_path / "drawn" / "hospital-01")]) == 0
    capsys.readouterr()

    manifest = tmp_path / "drawn" / "hospital-01" / "site.yaml"
    manifest.write_text(re.sub(r"min_cell: \d+", "min_cell: 7", manifest.read_text()))

    def read(document: dict, command: str = "inspect") -> str:
        key = signing_key(tmp_path / "key")
        signed = propose(document, purpose="To know who comes.", expires="2999-06-30", name="fed", key=key)
        (tmp_path / "asked.study").write_text(signed.text)
        cli.main(["site", command, str(tmp_path / "asked.study"), "--site", str(tmp_path / "drawn" / "hospital-01")])
        found = capsys.readouterr()
        return " ".join(found.out.split()) or found.err

    return read


def test_without_a_question_the_study_is_the_one_that_trains():
    assert asked() == document_of(resolved(composed(["experiment=smoke"])), NAMES)
    assert not asks_once(asked())


def test_all_hospitals_of_a_release_are_in_its_sum_unless_the_words_say_otherwise():
    document = asked("--synthesize", "--epsilon", "2", "--delta", "1e-7")
    assert asks_once(document)
    assert document["secagg"]["min_cohort"] == 3
    assert (document["privacy"]["epsilon"], document["privacy"]["delta"]) == (2.0, 1e-7)


@pytest.mark.parametrize(
    "words",
    [
        ("--features", "sodium", "--beside", "female"),
        ("secagg=masked", "--features", "age", "--epsilon", "1"),
        ("--synthesize", "--epsilon", "3"),
    ],
    ids=" ".join,
)
def test_a_researcher_proposes_by_the_options_of_a_coordinator_the_study_that_it_submits(words, tmp_path, capsys):
    new_key(tmp_path / "anna.key")
    keys = {name: new_key(tmp_path / name) for name in NAMES}
    expected = asked(*words)
    is_masked = expected["secagg"]["_target_"].endswith("Masked")
    hospitals = [f"--hospital={name}={key}" for name, key in keys.items() if is_masked]
    signed = f"--until=2999-06-30 --by=Anna --key={tmp_path / 'anna.key'} --purpose=Words"
    out = tmp_path / "asked.study"
    names = f"sites.names=[{','.join(NAMES)}]"
    code = cli.main(
        ["study", "propose", "experiment=smoke", names, *words, *hospitals, *signed.split(), "--out", str(out)]
    )
    assert (code, capsys.readouterr().err) == (0, "")
    found = read(out.read_bytes()).proposal
    assert found.digest == digest({**expected, **({"identities": keys} if is_masked else {})})
    assert found.proposer.name == "Anna"


def test_noise_on_tables_is_shared_where_the_study_is_masked():
    plain, masked = (asked(*masks, "--features", "age", "--epsilon", "1") for masks in ([], ["secagg=masked"]))
    assert plain["privacy"]["_target_"].endswith(".DpSgd")
    assert masked["privacy"]["_target_"].endswith(".Distributed")
    assert study_from(masked).tabulation.tables == (("age",),)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--synthesize"], "must have an epsilon"),
        (["--synthesize", "--features", "age", "--epsilon", "1"], "Make two studies"),
        (["--epsilon", "1"], "found it with neither"),
        (["--by", "age"], "--beside must go with tables or a release, found it with neither"),
        (["--features", "agee"], "Did you mean age?"),
        (["privacy=dp_sgd", "--features", "age"], "must have noise"),
    ],
)
def test_options_that_ask_for_nothing_whole_are_refused(words, complaint):
    with pytest.raises(SettingError) as refusal:
        asked(*words)
    assert complaint in str(refusal.value)


def test_a_hospital_reads_which_bins_would_be_counted_and_its_own_floors(inspected):
    out = inspected(asked("--features", "sodium", "--by", "female"))
    for words in (
        "no model: tables of patients are counted, once", "sodium by female", "beside: no, yes", "125",
        "no noise; a row with a count below 7 is withheld whole", "at least 3 hospitals in the study",
        "patient may spend over all studies: ε none",
    ):  # fmt: skip
        assert words in out, words


def test_a_hospital_reads_how_much_of_the_noise_is_its_own(inspected):
    out = inspected(asked("--features", "female", "--epsilon", "1"))
    assert "ε = 1, but for a chance δ = 1e-05" in out
    # By hand: a patient moves one count by 1, so reach is 1 and the noise that of epsilon 1 at delta 1e-5, some 3.7.
    assert "noise of 3.7" in out
    assert "nothing is withheld" in out
    release = inspected(asked("--synthesize", "--epsilon", "3"))
    assert "synthetic patients are made from counts, once" in release
    assert "counts in all" in release


def test_the_preview_of_tables_says_that_they_are_asked_for_once(inspected):
    out = inspected(asked("--features", "age", "--epsilon", "1"), "preview-egress")
    assert "query.table" in out
    assert "It would be asked for once. Nothing was sent, charged or kept." in out
    assert "first round" not in out
