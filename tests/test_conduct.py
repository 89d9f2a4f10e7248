"""What a run's process makes of a study that asks once, over hospitals in this process; with real ones: test_federation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fedhealth import conduct
from fedhealth.asked_once import release_words
from fedhealth.core.errors import IntegrityError, QuorumError, Refused
from fedhealth.release import fit
from fedhealth.server.store import CONFIG, Store
from fedhealth.simulate import asked_here, checked, fresh_folder, identified
from fedhealth.stats_command import tabulated
from fedhealth.synthesize_command import planned

SMOKE = ["experiment=smoke", "source=synthetic"]
SITES = {"elm": SimpleNamespace(card={"min_cohort": 3}), "oak": SimpleNamespace(card={"min_cohort": 2})}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A small mixture will do."""
    monkeypatch.setattr(fit, "ROWS", 60)
    monkeypatch.setattr(fit, "STEPS", 20)


def begun(simulation):
    """The run's folder and study, as hospitals get it."""
    store = Store(fresh_folder(simulation))
    made = identified(simulation, store)
    store.write_config(made.document)
    return made, store


def answers(simulation, store):
    with asked_here(simulation, store, least=1) as grid:
        return conduct._answers(simulation.study, simulation.document, grid, store, SITES)


@pytest.mark.slow
def test_a_process_that_is_started_again_asks_for_no_noise_twice_and_makes_the_same_patients(tmp_path):
    simulation, store = begun(
        planned(release_words([*SMOKE, "source.size=1200", f"run.folder={tmp_path / 'run'}"], 3.0))
    )
    files = answers(simulation, store)
    assert files == ("counts.json", "release/patients.csv", "release/card.json", "release/card.md")
    patients = (store.folder / "release" / "patients.csv").read_bytes()
    assert patients.count(b"\n") > 2000
    assert "Compared with no real patient" in (store.folder / "release" / "card.md").read_text()
    (store.folder / "release" / "patients.csv").unlink()
    # Hospitals would refuse: their ledgers have it once.
    assert answers(simulation, store) == files
    assert (store.folder / "release" / "patients.csv").read_bytes() == patients
    store.write_manifest({}, sources=(CONFIG, *files))
    (store.folder / "release" / "patients.csv").write_bytes(patients[:-1])
    with pytest.raises(IntegrityError, match=r"patients\.csv"):
        store.read_manifest()


def test_below_two_thousand_patients_the_sum_stays_and_no_release_is_written(tmp_path):
    simulation, store = begun(
        planned(release_words([*SMOKE, "source.size=300", f"run.folder={tmp_path / 'run'}"], 8.0))
    )
    with pytest.raises(Refused, match="at least 2,000 training patients"):
        answers(simulation, store)
    assert (store.folder / "counts.json").exists()
    assert not (store.folder / "release").exists()


def test_a_row_that_fewer_told_than_the_strictest_hospital_asks_for_is_not_shown(smoke, monkeypatch):
    simulation, store = begun(tabulated(checked(smoke()), {"tables": [["female"]]}))
    monkeypatch.setitem(SITES, "elm", SimpleNamespace(card={"min_cohort": 4}))
    answers(simulation, store)
    (table,) = store.read_json("tables.json")["tables"]
    assert (table["withheld_by"][:2], table["counts"]) == ([0, 0], [None, None])


def test_exact_tables_of_a_column_that_was_told_in_another_table_are_refused_by_that_reason(smoke):
    first, store = begun(tabulated(checked(smoke()), {"tables": [["age"]]}))
    assert answers(first, store) == ("tables.json",)
    told = store.read_json("tables.json")
    assert (told["hospitals"], told["noise_sd"], told["failed"]) == (3, 0.0, [])
    assert np.sum([row or [0] for row in told["tables"][0]["counts"]]) > 0
    (store.folder / "tables.json").unlink()
    second = tabulated(checked(smoke()), {"tables": [["age", "female"]]})
    with pytest.raises(QuorumError, match="told a column of these tables before"):
        answers(second, store)


def test_a_study_that_trains_asks_nothing_here(smoke):
    simulation, store = begun(checked(smoke()))
    assert answers(simulation, store) == ()
