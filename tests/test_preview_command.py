"""What would leave is shown as it would leave, and nothing does; what did leave is listed."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from fedhealth import cli
from fedhealth.compose import composed, options, resolved
from fedhealth.core.study import study_from
from fedhealth.governance import summary
from fedhealth.governance.audit import verified
from fedhealth.governance.proposal import propose
from fedhealth.governance.signing import new_key, signing_key
from fedhealth.preview import previewed
from fedhealth.privacy.ledger import Ledger
from fedhealth.simulate import checked, clients, open_run, run
from fedhealth.stats_command import tabulated
from fedhealth.study_document import document_of
from fedhealth.synthetic.folders import write_sites

NAMES = ["hospital-01", "hospital-02", "hospital-03"]


@pytest.fixture
def drawn(tmp_path):
    """Three hospitals; the ledger of the first lies beside them."""
    write_sites(tmp_path / "drawn", h=1.0, n=3, seed=7)
    path = tmp_path / "drawn" / "hospital-01" / "site.yaml"
    path.write_text(path.read_text().replace("min_cohort: 3}", "min_cohort: 3, ledger: ../ledger.sqlite}"))
    return tmp_path / "drawn"


def config_of(drawn, *overrides):
    names = f"sites.names=[{','.join(NAMES)}]"
    return resolved(composed(["experiment=smoke", f"sites.folder={drawn}", names, "run.report=false", *overrides]))


def said(capsys, *words):
    code = cli.main([str(word) for word in words])
    found = capsys.readouterr()
    return code, found.out, found.err


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left(folder, name):
    return [event for event in verified(folder / "audit" / name).events if event["event"] == "left"]


def logged(drawn, folder, *overrides):
    """A run of two rounds with logs."""
    simulation = checked(config_of(drawn, "rounds=2", "run.audit=true", f"run.folder={folder}", *overrides))
    run(simulation, open_run(simulation), lambda row: None)
    return simulation


def shapes(event):
    """The arrays and the numbers of a receipt, by name."""
    parts = [(place.partition("/")[2], kind, tuple(shape)) for place, kind, shape, _ in event["parts"]]
    inside = [part for part, (place, *_) in zip(parts, event["parts"], strict=True) if not place.startswith("audit/")]
    arrays = sorted(part for part in inside if part[2])
    return arrays, {"patients" if name == "num-examples" else name for name, _, shape in inside if not shape}


def test_the_preview_is_what_the_receipts_of_the_study_say_then(drawn, tmp_path):
    simulation = logged(drawn, tmp_path / "run")
    found = previewed(simulation.document, drawn / "hospital-01")
    receipts = left(tmp_path / "run", "hospital-01")
    first = [event for event in receipts if event["round"] in (0, 1)] + [receipts[-1]]
    assert [one.purpose for one in found.leaving] == [event["purpose"] for event in first]
    for one, event in zip(found.leaving, first, strict=True):
        assert ([(part.name, part.kind, part.shape) for part in one.parts], set(one.numbers)) == shapes(event)
        assert all(part.size_bytes == np.dtype(part.kind).itemsize * np.prod(part.shape) for part in one.parts)
        # But for what says how far the log has come, and the digits of a number.
        along = sum(len(place) + size for place, _, _, size in event["parts"] if place.startswith("audit/"))
        assert abs(one.size_bytes - (event["bytes"] - along)) < 40
    # What depends on this hospital's patients alone is the very same.
    shape = clients(simulation)["hospital-01"].cohort.shape
    assert found.leaving[0].numbers == {"patients": shape.train}
    assert found.leaving[0].parts[0].norm == pytest.approx(
        np.sqrt(shape.train**2 + shape.validation**2 + shape.test**2)
    )


@pytest.mark.slow
def test_a_masked_preview_says_how_large_the_vector_is(drawn, tmp_path):
    simulation = logged(drawn, tmp_path / "run", "secagg=masked")
    asked, sizes = "", {}
    for event in left(tmp_path / "run", "hospital-01"):
        if event["purpose"] != "query.mask":
            asked = (
                event["purpose"] if event["purpose"] not in ("query.share", "query.confirm", "query.reveal") else asked
            )
        else:
            sizes[asked] = next(size for place, _, _, size in event["parts"] if place == "arrays/message")
    found = previewed(simulation.document, drawn / "hospital-01").leaving
    assert set(sizes) == {one.purpose for one in found}
    # The last evaluation is the one with groups. A header and a signature come on top.
    for one in {one.purpose: one for one in found}.values():
        assert 0 <= sizes[one.purpose] - one.size_bytes < 600


def test_a_preview_leaves_nothing_behind_and_charges_nothing(drawn):
    document = document_of(config_of(drawn, "privacy=dp_sgd"), NAMES)
    first = previewed(document, drawn / "hospital-01")
    assert not (drawn / "ledger.sqlite").exists()
    assert (first.before.epsilon, 0 < first.after.epsilon < 2) == (0, True)
    ledger = Ledger(drawn / "ledger.sqlite")
    from fedhealth.core.privacy_event import Gaussian
    from fedhealth.privacy.ledger import Entry

    entry = Entry("other", "ab" * 32, "train", Gaussian(noise_multiplier=2.0), "updates", "hospital-01")
    ledger.charge(entry, epsilon_cap=9.0, delta=1e-5)
    before = files(drawn)
    second = previewed(document, drawn / "hospital-01")
    assert files(drawn) == before
    assert second.before.epsilon == ledger.spent("hospital-01", delta=1e-5).epsilon
    assert second.after.epsilon > max(second.before.epsilon, first.after.epsilon)


@pytest.mark.parametrize("part", options("privacy"))
def test_a_clinician_is_told_of_a_bound_where_the_ledger_finds_one_and_nowhere_else(drawn, part):
    """Whatever mechanism there is: a new one is told of as none until `governance.summary` has words for it."""
    also = ["secagg=masked", "strategy=fedsgd"] if part in ("distributed", "release") else []
    document = document_of(config_of(drawn, f"privacy={part}", *also), NAMES)
    found = previewed(document, drawn / "hospital-01")
    words = dict(summary.protection(study_from(document)))["privacy"]
    assert words.startswith("none") == math.isinf(found.after.epsilon)
    asked = {(one.purpose, one.of) for one in found.leaving}
    told = " ".join(line for _, line in summary.leaves(study_from(document)))
    assert ("query.moments" in {purpose for purpose, _ in asked}) == ("for scaling" in told)
    assert (("evaluate", "validation") in asked) == ("validation patients" in told)
    assert any("loss" in one.numbers for one in found.leaving) == ("mean loss" in told)


@pytest.fixture
def study(drawn, tmp_path):
    """A function that proposes a study with some overrides."""
    new_key(tmp_path / "anna.key")

    def proposed(*overrides):
        document = document_of(config_of(drawn, *overrides), NAMES)
        key = signing_key(tmp_path / "anna.key")
        signed = propose(document, purpose="A test", expires="2999-01-01", name="Anna", key=key)
        (tmp_path / "smoke.study").write_text(signed.text)
        return tmp_path / "smoke.study"

    return proposed


def test_a_clinician_reads_the_preview(capsys, drawn, study):
    code, out, err = said(capsys, "site", "preview-egress", study(), "--site", drawn / "hospital-01")
    assert (code, err) == (0, "")
    assert re.search(r"query\.shape +sum +float64 +3 +24 ", out)
    assert re.search(r"weight +float32 +1 × 54 +216 ", out)
    assert "no bound is given" in out
    assert "Training would be asked for 3 times" in out
    assert "Nothing was sent" in out


def test_a_private_preview_says_what_it_would_cost(capsys, drawn, study):
    _, out, _ = said(capsys, "site", "preview-egress", study("privacy=dp_sgd"), "--site", drawn / "hospital-01")
    assert "Privacy, spent before: (ε = 0, δ = 1e-05)" in out
    assert re.search(r"Privacy, with all of this: \(ε = [01]\.\d+, δ = 1e-05\)", out)


@pytest.mark.parametrize(
    ("policy", "overrides", "code", "line"),
    [
        ("min_patients: 9999", (), 3, "a round must have at least 9999 training patients"),
        ("min_patients: 20, epsilon_cap: 0.01", ("privacy=dp_sgd",), 3, "must stay within policy.epsilon_cap 0.01"),
        ("min_patients: 20, paused: true", (), 3, "the client must not be paused"),
    ],
)
def test_what_the_hospital_would_refuse_its_preview_refuses(capsys, drawn, study, policy, overrides, code, line):
    path = drawn / "hospital-01" / "site.yaml"
    path.write_text(path.read_text().replace("min_patients: 20", policy))
    found, _, err = said(capsys, "site", "preview-egress", study(*overrides), "--site", drawn / "hospital-01")
    assert (found, line in err, err.count("\n")) == (code, True, 1), err


def test_a_changed_study_is_not_even_previewed(capsys, drawn, study):
    path = study()
    path.write_text(path.read_text().replace("A test", "A rest"))
    code, _, err = said(capsys, "site", "preview-egress", path, "--site", drawn / "hospital-01")
    assert (code, "as its proposer signed it" in err) == (4, True)


def test_receipts_are_listed_and_counted(capsys, drawn, tmp_path):
    simulation = logged(drawn, tmp_path / "run")
    log = tmp_path / "run" / "audit" / "hospital-01"
    words = ["site", "receipts", "--site", drawn / "hospital-01", "--log", log]
    code, out, _ = said(capsys, *words)
    assert code == 0
    assert re.search(r"train +[\d,]+ +bias \[1\], weight \[1 × 54\];", out)
    total = sum(event["bytes"] for event in left(tmp_path / "run", "hospital-01"))
    assert f"8 messages left, 8 of them with content: {total:,} bytes" in out
    assert "8 messages left" in said(capsys, *words, "--study", simulation.digest[:6])[1]
    assert "0 messages left" in said(capsys, *words, "--study", "0" * 64)[1]
    assert "nothing ever left hospital-01" in said(capsys, *words[:4])[1]
    (log / "log.jsonl").write_bytes((log / "log.jsonl").read_bytes().replace(b'"bytes":', b'"bytes":1'))
    assert said(capsys, *words)[0] == 4
    code, _, err = said(capsys, *words[:5], "/nowhere")
    assert (code, "--log must name the folder of a log" in err) == (2, True)


def test_of_a_study_of_tables_its_one_answer_is_previewed_and_named_and_nothing_is_noted(drawn):
    simulation = tabulated(checked(config_of(drawn)), {"tables": [["age", "female"], ["sodium"]]})
    before = files(drawn.parent)
    (found,) = previewed(simulation.document, drawn / "hospital-01").leaving
    assert found.purpose == "query.table"
    # By hand: 10 bins of 2 and 8 of 1 with their missing, who is withheld in each, and of moments two numbers and four sums of two words each.
    assert found.parts[0].shape == (10 * 2 + 1 + 11 + 8 + 1 + 9 + 2 + 4 * 2,)
    assert files(drawn.parent) == before
    ((_, what), _) = summary.leaves(simulation.study)
    assert what.endswith("min_cell withheld: age by female; sodium")
