"""What a report of patients followed over time shows, withholds and says."""

import copy

import pytest

from fedhealth.core.measure import Measure, not_estimable
from fedhealth.core.task import FollowUp
from fedhealth.evaluation import measures
from fedhealth.evaluation.survival import SurvivalSums
from fedhealth.report import findings, page, words


class Study:
    class task:  # noqa: N801
        name, follow_up = "survival", FollowUp(time="t", horizon=365)


def sums(patients, censored) -> SurvivalSums:
    return SurvivalSums(
        comparable=100,
        concordant=70,
        lead_sq=900,
        lead_by_pairs=300,
        pairs_sq=2500,
        patients=patients,
        censored=censored,
    )


@pytest.mark.parametrize(
    ("each", "shown"),
    [
        ([(100, 20), (100, 30), (100, 10)], (300, 60)),
        ([(100, 0), (100, 0), (100, 0)], (300, 0)),
        ([(100, 2), (100, 3), (100, 1)], (None, None)),  # six patients are fewer than the floor
        ([(100, 20), (100, 30)], (None, None)),  # each of two hospitals finds the other's
    ],
)
def test_who_was_lost_is_counted_where_they_are_many_and_of_many_hospitals(each, shown):
    found = findings._follow_up(Study, [sums(*one) for one in each], findings.Floor(10, 3))
    assert (found["patients"], found["censored"]) == shown
    assert found["horizon"] == "365 days"


def test_what_is_withheld_of_a_hospital_takes_harrells_c_with_it():
    hidden = dict.fromkeys(measures.MEASURES, not_estimable("withheld: few"))
    found = findings._timed([sums(100, 20)], hidden, hides_lost=False)
    assert list(found)[:2] == ["c_index", "observed_to_expected"]
    assert {m.note for m in found.values()} == {"withheld: few"}
    assert not any(m.is_estimable for m in found.values())


def test_what_is_shown_is_harrells_c_of_the_hospitals_counts_together():
    shown = dict.fromkeys(measures.MEASURES, Measure(0.5))
    found = findings._timed([sums(100, 20), sums(80, 20)], shown, hides_lost=False)
    assert found["c_index"].value == pytest.approx(140 / 200)
    assert found["auroc"] == Measure(0.5)


@pytest.mark.slow
def test_the_page_names_the_horizon_and_who_was_left_out(report):
    over_time = copy.deepcopy(report)
    over_time["follow_up"] = {"horizon": "365 days", "patients": 1566, "censored": 103}
    c = Measure(0.753, 0.724, 0.781, method="infinitesimal jackknife, logit scale").to_json()
    over_time["union"]["federated"] = {"c_index": c, **over_time["union"]["federated"]}
    text = page.html(over_time)
    assert "of 1,566 test patients, 103 were lost before then without one" in text
    assert "Test patients are those whose status at 365 days is known, events those with the outcome by then." in text
    assert "AUROC at 365 days, federated" in text
    said = words.finding(over_time)
    assert "Harrell’s C 0.753 [0.724, 0.781] within hospitals" in said
    assert "for an event by 365 days on the 1,463 held-out patients of known status then" in said
    over_time["follow_up"] |= {"patients": None, "censored": None}
    assert "held-out" not in words.finding(over_time)
    assert "lost before then" not in page.html(over_time)


def test_a_study_of_what_happens_says_nothing_of_time(report):
    text = page.html(report)
    assert "Harrell" not in text
    assert "Follow-up" not in text
