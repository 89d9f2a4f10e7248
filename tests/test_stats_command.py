"""`fedhealth stats`: tables over hospitals from the command line, exact, masked and with noise."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fedhealth.cli import main
from fedhealth.core.errors import QuorumError, Refused
from fedhealth.core.privacy_event import event_from
from fedhealth.core.study import digest, packed, study_from, unpacked
from fedhealth.privacy.accountant import epsilon
from fedhealth.privacy.ledger import Ledger
from fedhealth.runtime.codec import Request
from fedhealth.server.store import Store
from fedhealth.simulate import checked, clients, open_run
from fedhealth.site.memory import Memory
from fedhealth.stats_command import tabulated, told

MASKED = "secagg=masked"
AGE = {"tables": [["age"]]}


@pytest.fixture
def printed(capsys):
    def run(*words: str) -> dict:
        assert main(["stats", "experiment=smoke", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def everyone(simulation, column):
    return np.concatenate([client.cohort.everyone.columns[column] for client in clients(simulation).values()])


@pytest.mark.parametrize("masks", [[], [MASKED]], ids=["plain", "masked"])
def test_counts_and_moments_are_those_of_all_patients_in_one_place(printed, smoke, masks):
    sodium = everyone(checked(smoke()), "sodium")
    known = sodium[~np.isnan(sodium)]
    (found,) = printed(*masks, "--features", "sodium")["tables"]
    assert found["moments"]["n"] == len(known)
    assert found["moments"]["mean"] == pytest.approx(known.mean(), rel=1e-12)
    assert found["moments"]["variance"] == pytest.approx(known.var(), rel=1e-12)
    oracle = np.histogram(known, [-np.inf, 125, 130, 135, 138, 141, 145, 150, np.inf])[0]
    silent = found["withheld_by"]
    whole = [place for place in range(8) if not silent[place]]
    assert whole
    assert [found["counts"][place] for place in whole] == [[oracle[place]] for place in whole]
    # A row that a hospital withheld is of fewer than three: it is shown to nobody.
    assert all(found["counts"][place] is None for place in range(8) if silent[place])


def test_a_contingency_of_all_hospitals_has_its_test(printed, smoke):
    (found,) = printed("--features", "admission", "--by", "female")["tables"]
    counts = np.array(found["counts"])
    assert not any(found["withheld_by"])
    assert counts.sum() + found["missing"] == len(everyone(checked(smoke()), "female"))
    assert found["chi_squared"]["freedom"] == 2


@pytest.mark.parametrize("masks", [[], [MASKED]], ids=["plain", "masked"])
def test_noise_moves_counts_no_further_than_it_says_and_is_charged_to_each_hospital(smoke, tmp_path, masks):
    simulation = checked(smoke(*masks))
    wanted = tabulated(simulation, {"tables": [["female"], ["age"]]}, epsilon=3.0)
    store = Store(tmp_path)
    found = told(wanted, store)
    truth = np.bincount(everyone(simulation, "female").astype(int))
    counts = found.told[0].counts[:, 0]
    assert found.noise > 1
    assert not np.array_equal(counts, truth)
    assert np.abs(counts - truth).max() < 7 * found.noise
    for name in simulation.study.roster:
        rows = Ledger(store.folder / "ledgers" / name / "ledger.sqlite").rows()
        assert [(row.what, row.view) for row in rows] == [("query.table", "sums" if masks else "updates")]
        event = event_from(rows[0].event)
        assert epsilon([event], 1e-5) == pytest.approx(3.0, rel=2e-3)
        # Three hospitals' own noise; or three shares, of which two make the whole.
        whole = found.layout.reach * event.noise_multiplier
        assert found.noise == pytest.approx(whole * (1.5 if masks else 3) ** 0.5, rel=1e-2)


def test_a_study_of_tables_lets_nothing_else_out_and_another_study_no_table(smoke, tmp_path):
    simulation = checked(smoke())
    for study, purpose in ((tabulated(simulation, AGE), "query.moments"), (simulation, "query.table")):
        client = clients(study)["galen-heart"]
        with pytest.raises(Refused) as refusal:
            client.answer(Request(purpose, 0, {}, {}), Memory(tmp_path))
        assert refusal.value.code == "not_asked_for"


@pytest.mark.parametrize("weak", [{"insecure_seed": 1}, {"statistics_noise": 0.1}, {"statistics_noise": 1e-3}])
def test_tables_whose_noise_hides_nothing_are_refused_where_a_hospital_has_no_cap_too(smoke, tmp_path, weak):
    wanted = tabulated(checked(smoke()), {"tables": [["sodium"]]}, epsilon=1.0)
    document = unpacked(packed({**wanted.document, "privacy": {**wanted.document["privacy"], **weak}}))
    client = clients(replace(wanted, document=document, study=study_from(document, where="t")))["galen-heart"]
    assert client.manifest.policy.epsilon_cap is None
    with pytest.raises(Refused, match="epsilon of at most 10") as refusal:
        client.answer(Request("query.table", 0, {}, {}), Memory(tmp_path))
    assert refusal.value.code == "not_private"


def test_noisy_tables_are_let_out_once(smoke, tmp_path):
    wanted = tabulated(checked(smoke(MASKED)), AGE, epsilon=1.0)
    told(wanted, Store(tmp_path))
    with pytest.raises(QuorumError, match="as often as its epsilon"):
        told(wanted, Store(tmp_path))


def test_an_exact_table_is_answered_again_and_refused_once_it_is_cut_otherwise(smoke, tmp_path):
    simulation = checked(smoke())
    first = told(tabulated(simulation, AGE), Store(tmp_path)).findings()
    assert told(tabulated(simulation, AGE), Store(tmp_path)).findings() == first
    with pytest.raises(QuorumError, match="told a column of these tables before"):
        told(tabulated(simulation, {"tables": [["age", "female"]]}), Store(tmp_path))


def test_under_masks_no_second_table_is_a_sum_over_other_hospitals(smoke, tmp_path):
    four = "sites.names=[galen-heart,harrow-fen,norrvik,port-amity]"
    simulation = checked(smoke(four, MASKED, "rules.quorum=3"))
    store = Store(tmp_path)
    assert told(tabulated(simulation, AGE), store).hospitals == 4
    fewer = checked(smoke("sites.names=[galen-heart,harrow-fen,port-amity]", MASKED, "rules.quorum=3"))
    assert digest(fewer.document) != digest(simulation.document)
    # Another column, and yet the same question: a study's tables are of the same patients.
    with pytest.raises(QuorumError, match="asked again of other sites"):
        told(tabulated(fewer, {"tables": [["female"]]}), store)


def test_the_tables_of_a_run_are_asked_of_its_hospitals(smoke, tmp_path, capsys):
    store = open_run(checked(smoke()))
    assert main(["stats", str(store.folder), "--features", "female,age", "--by", "died_in_hospital"]) == 0
    out = capsys.readouterr().out
    assert "Female sex by Death in hospital" in out
    assert "3 hospitals" in out
    assert (store.folder / "ledgers").is_dir()


def test_survival_is_told_at_declared_times(capsys):
    words = ["stats", "experiment=survival", "sites=smoke", "--features", "follow_up_days", "--by", "female"]
    assert main([*words, "--times", "100,365", "--epsilon", "4"]) == 0
    out = capsys.readouterr().out
    assert out.count(" 100 ") == out.count(" 365 ") == 2
    assert "(ε = 4, δ = 1e-05)" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--features", "agee"], "Did you mean age?"),
        (["--features", ","], "must name a column"),
        (["--features", "age", "--times", "soon"], "must be numbers"),
        (["--features", "age", "--times", "90,365"], "follows nobody over time: leave the times out"),
        (["--features", "age", "--epsilon", "-1"], "above 0"),
        (["--features", "age", "--by", "age"], "must be of one column or of two"),
        (["privacy=dp_sgd", "--features", "age"], "must have noise"),
    ],
)
def test_what_can_not_be_told_is_refused_in_one_line(words, complaint, capsys):
    assert main(["stats", "experiment=smoke", *words]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert len(said.strip().splitlines()) == 1
