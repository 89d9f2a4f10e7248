"""What the report of a masked run says of its masking."""

from __future__ import annotations

from types import SimpleNamespace

from fedhealth.report.masking import masking
from fedhealth.report.page import lost
from fedhealth.report.plots import draw

STUDY = SimpleNamespace(secagg={"min_cohort": 3, "colluders": 1})


def exchange(purpose, answered, *lost_ones, took_s=1.0):
    return {"purpose": purpose, "answered": answered, "lost": list(lost_ones), "bytes_up": 10, "bytes_down": 20,
            "took_s": took_s}  # fmt: skip


def found():
    rounds = [
        {"round": 1, "trained_by": ["ash", "elm", "oak"], "exchanges": [exchange("train", 4), exchange("query.mask", 3, "fir")]},
        {"round": 2, "trained_by": ["ash", "elm", "fir", "oak"], "exchanges": [
            exchange("train", 4), exchange("query.mask", 4, took_s=3.0), exchange("evaluate", 3, "fir")]},
    ]  # fmt: skip
    results = {"counted": ["ash", "elm", "fir", "oak"], "exchanges": [exchange("evaluate", 3, "elm")]}
    return masking(STUDY, rounds, results)


def test_a_stage_adds_up_over_questions_and_training_and_scoring_are_one_stage():
    work, _, mask, *_ = found()["stages"]
    assert (work["questions"], work["lost"], work["hospitals"]) == (4, 2, 3.5)
    assert (mask["questions"], mask["lost"], mask["hospitals"], mask["took_s"]) == (2, 1, 3.5, 4.0)
    assert (work["bytes_up"], work["bytes_down"]) == (40, 80)


def test_the_sum_of_a_round_is_of_those_it_counted():
    assert [row["hospitals"] for row in found()["rounds"]] == [3, 4]


def test_each_loss_is_told_by_hospital_and_stage_and_the_last_evaluation_by_name():
    report = {"sites": [{"name": "fir", "title": "Fir Clinic"}, {"name": "elm", "title": "Elm"}], "masking": found()}
    assert lost(report) == [
        ("Fir Clinic", "mask", "1"), ("Fir Clinic", "work", "2"), ("Elm", "work", "the last evaluation"),
    ]  # fmt: skip


def test_a_run_that_was_not_masked_says_nothing_of_it():
    assert masking(STUDY, [], {"sums": {}}) is None


def test_the_figures_say_the_cohort_and_the_seconds():
    pictures = draw({"study": {}, "sites": [], "masking": found()})
    assert "from 3 to 4; at least 3 must be" in pictures["cohorts"].svg
    assert "work 1.000" in pictures["stages"].svg
