"""The numbers of a comparison, against scipy and by hand on reports written by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from fedhealth.core.errors import SettingError
from fedhealth.report.comparison import compared, coverage

AVG, ADAM, YOGI = "strategy=fedavg", "strategy=fedadam", "strategy=fedyogi"
#: Union AUROC by strategy and seed; the third has no seed 4.
AREAS = {"FedAvg": (0.70, 0.72, 0.75, 0.71), "FedAdam": (0.74, 0.75, 0.80, 0.74), "FedYogi": (0.71, 0.70, 0.77)}


@pytest.fixture
def study(run_of):
    return [
        run_of(seed, strategy=strategy, union=area)
        for strategy, areas in AREAS.items()
        for seed, area in enumerate(areas, 1)
    ]


def group(found, label):
    return next(group for group in found["groups"] if group["label"] == label)


def numbers(measure):
    return [measure["value"], measure["low"], measure["high"]]


def test_a_groups_mean_has_students_interval_over_its_seeds(study):
    found = compared(study)
    for label, areas in zip((AVG, ADAM, YOGI), AREAS.values(), strict=True):
        ends = stats.t.interval(0.95, len(areas) - 1, np.mean(areas), stats.sem(areas))
        assert numbers(group(found, label)["outcomes"]["union_auroc"]) == pytest.approx([np.mean(areas), *ends])


def test_differences_are_taken_seed_by_seed_from_the_first_group(study):
    rows = compared(study)["differences"]["union_auroc"]
    assert [(row["label"], row["pairs"]) for row in rows] == [(ADAM, 4), (YOGI, 3)]
    for row, (ours, theirs) in zip(
        rows, ((AREAS["FedAdam"], AREAS["FedAvg"]), (AREAS["FedYogi"], AREAS["FedAvg"][:3])), strict=True
    ):
        test = stats.ttest_rel(ours, theirs)
        ends = test.confidence_interval(0.95)
        assert numbers(row["difference"]) == pytest.approx([np.mean(np.subtract(ours, theirs)), ends.low, ends.high])
        assert row["p"] == pytest.approx(test.pvalue)


def test_p_values_are_adjusted_by_holm_over_the_groups(study):
    small, large = sorted(compared(study)["differences"]["union_auroc"], key=lambda row: row["p"])
    assert small["p_holm"] == pytest.approx(2 * small["p"])
    assert large["p_holm"] == pytest.approx(large["p"])


def test_differences_may_be_taken_from_another_group(study):
    rows = compared(study, against=ADAM)["differences"]["union_auroc"]
    assert [row["label"] for row in rows] == [AVG, YOGI]
    assert rows[0]["difference"]["value"] == pytest.approx(-0.0375)


def test_the_best_is_named_only_where_it_is_told_from_the_next(run_of, study):
    assert compared(study)["best"]["union_auroc"] == ADAM
    close = [run_of(s, strategy=k, union=v) for k, v3 in {"FedAvg": (0.7, 0.8), "FedAdam": (0.72, 0.79)}.items()
             for s, v in enumerate(v3)]  # fmt: skip
    assert compared(close)["best"]["union_auroc"] is None


def test_the_best_must_be_told_from_the_next_and_not_from_the_last(run_of):
    values = {"FedAvg": (0.70, 0.71, 0.73), "FedAdam": (0.80, 0.82, 0.85), "FedYogi": (0.82, 0.81, 0.86)}
    runs = [run_of(seed, strategy=s, union=v) for s, found in values.items() for seed, v in enumerate(found, 1)]
    assert compared(runs)["best"]["union_auroc"] is None


def test_a_value_withheld_in_the_group_that_is_held_against_leaves_no_difference(run_of):
    runs = [run_of(s, strategy=k, union=0.7 + s / 90) for k in ("FedAvg", "FedAdam") for s in (1, 2, 3)]
    runs[0].report["union"]["federated"]["auroc"] = None
    (row,) = compared(runs)["differences"]["union_auroc"]
    assert (row["pairs"], row["p"], row["difference"]["note"]) == (0, None, "withheld, in 1 of 6 runs")


@pytest.mark.parametrize(("outcome", "sign"), [("union", 1), ("log_loss", -1)])
def test_a_group_that_loses_on_the_seeds_in_common_is_not_the_best(run_of, outcome, sign):
    # Three easy seeds that only FedAvg ran lift its mean; on the three that both ran, FedAdam wins by about 0.05.
    values = {"FedAvg": (0.50, 0.51, 0.52, 0.75, 0.75, 0.76), "FedAdam": (0.55, 0.562, 0.571)}
    runs = [
        run_of(seed, strategy=strategy, **{outcome: value if sign > 0 else 1 - value})
        for strategy, found in values.items()
        for seed, value in enumerate(found, 1)
    ]
    assert compared(runs)["best"]["union_auroc" if sign > 0 else "log_loss"] is None


def test_of_log_losses_the_lowest_is_best_and_no_slope_is(run_of):
    runs = [
        run_of(seed, strategy=strategy, log_loss=0.4 + seed / 50 - shift, slope=1 + seed / 9 + shift)
        for strategy, shift in (("FedAvg", 0.0), ("FedAdam", 0.05))
        for seed in (1, 2, 3)
    ]
    # The shift is not quite the same at every seed, as it never is.
    runs[0].report["union"]["federated"]["log_loss"]["value"] += 0.001
    best = compared(runs)["best"]
    assert (best["log_loss"], best["calibration_slope"]) == (ADAM, None)


def test_runs_over_time_are_compared_by_harrells_c_before_all_else_and_others_have_none(run_of, study):
    found = compared(
        [
            run_of(s, strategy=k, c=v + s * step)
            for k, v, step in (("FedAvg", 0.6, 0.01), ("FedAdam", 0.7, 0.02))
            for s in (1, 2, 3)
        ]
    )
    assert next(iter(found["outcomes"])) == "c_index"
    # By hand: 0.61, 0.62, 0.63 and 0.72, 0.74, 0.76.
    assert [each["outcomes"]["c_index"]["value"] for each in found["groups"]] == pytest.approx([0.62, 0.74])
    (row,) = found["differences"]["c_index"]
    assert (row["difference"]["value"], row["pairs"]) == (pytest.approx(0.12), 3)
    assert found["best"]["c_index"] == ADAM
    assert "c_index" not in compared(study)["outcomes"]


def test_harrells_c_that_one_run_withholds_is_withheld_for_its_group(run_of):
    runs = [run_of(s, strategy=k, c=0.6) for k in ("FedAvg", "FedAdam") for s in (1, 2)]
    runs[1].report["union"]["federated"]["c_index"] = None
    found = compared(runs)
    assert found["groups"][0]["outcomes"]["c_index"]["note"] == "withheld, in 1 of 2 runs"
    assert (found["best"]["c_index"], found["differences"]["c_index"][0]["difference"]["value"]) == (None, None)


def test_one_seed_has_no_interval_no_test_and_no_best(run_of):
    found = compared([run_of(1, union=0.7), run_of(1, strategy="FedAdam", union=0.8)])
    mean, row = found["groups"][0]["outcomes"]["union_auroc"], found["differences"]["union_auroc"][0]
    assert (numbers(mean), mean["note"]) == ([0.7, None, None], "no interval: one run")
    assert (row["difference"]["value"], row["difference"]["low"], row["p"], row["p_holm"]) == (
        pytest.approx(0.1), None, None, None,
    )  # fmt: skip
    assert found["best"]["union_auroc"] is None
    assert found["coverage"][0].startswith("All runs have one seed, so there is no interval")


def test_groups_without_a_seed_in_common_have_no_difference(run_of):
    row = compared([run_of(1), run_of(2, strategy="FedAdam")])["differences"]["union_auroc"][0]
    assert (row["pairs"], row["difference"]["note"]) == (0, "no seed in common")


def test_a_value_withheld_at_one_seed_is_withheld_for_its_group_and_its_differences(run_of):
    runs = [
        run_of(seed, strategy=s, union=0.7 + seed / 90) for s in ("FedAvg", "FedAdam", "FedYogi") for seed in (1, 2)
    ]
    runs[3].report["union"]["federated"]["auroc"] = None
    found = compared(runs)

    gone = group(found, ADAM)["outcomes"]["union_auroc"]
    assert (numbers(gone), gone["note"]) == ([None] * 3, "withheld, in 1 of 2 runs")
    row = found["differences"]["union_auroc"][0]
    assert (row["pairs"], row["difference"]["value"], row["p"]) == (0, None, None)
    assert found["best"]["union_auroc"] is None
    assert group(found, YOGI)["outcomes"]["union_auroc"]["value"] is not None


def test_a_worst_hospital_that_is_not_shown_is_withheld(run_of):
    hidden = run_of(1)
    hidden.report["comparison"][0]["worst_site"] = None
    worst = compared([hidden])["groups"][0]
    assert worst["outcomes"]["worst_site_auroc"]["note"] == "withheld"
    assert worst["worst_sites"] == {}


def test_a_mean_over_fewer_hospitals_says_so(run_of):
    runs = [run_of(seed, mean=0.6 + seed / 50) for seed in (1, 2, 3)]
    runs[1].report["comparison"][0]["mean_site_auroc"]["note"] = "mean of 1 of 2 hospitals"
    found = compared(runs)["groups"][0]["outcomes"]["mean_site_auroc"]
    assert found["note"] == "mean of 1 of 2 hospitals, in 1 of 3 runs"


def test_the_worst_hospitals_are_counted_over_seeds_by_title(run_of):
    runs = [run_of(seed, worst_name=name) for seed, name in enumerate(("elm", "oak", "elm"))]
    assert compared(runs)["groups"][0]["worst_sites"] == {"Elm": 2, "Oak": 1}


def test_a_target_counts_rounds_and_bytes_to_the_first_round_that_reaches_it(run_of):
    curves = {1: (0.6, 0.70, 0.8), 2: (0.6, 0.69, 0.7), 3: (0.75, 0.6, 0.6)}
    reach = compared([run_of(s, curve=curve) for s, curve in curves.items()], target=0.7)["groups"][0]["reach"]
    # Rounds 2, 3 and 1, a hundred bytes each; 4.3027 standard errors of 1 / sqrt(3) either way, cut at 0.
    assert reach["seeds"] == 3
    assert numbers(reach["rounds"]) == pytest.approx([2, 0, 2 + 4.30265273 / 3**0.5])
    assert reach["bytes_up"]["value"] == 200


def test_a_seed_that_never_reaches_the_target_is_counted_and_never_a_number(run_of):
    curves = {1: (0.6, 0.70), 2: (0.6, 0.69), 3: (0.75, 0.6)}
    runs = [run_of(s, curve=curve) for s, curve in curves.items()]
    some, none = (compared(runs, target=target)["groups"][0]["reach"] for target in (0.7, 0.9))
    assert (some["seeds"], numbers(some["rounds"])) == (2, [1.5, None, None])
    assert some["rounds"]["note"] == "no interval: reached by 2 of 3 seeds"
    assert (none["seeds"], numbers(none["rounds"]), none["bytes_up"]["note"]) == (0, [None] * 3, "not reached")


def test_without_validation_patients_nothing_is_known_of_the_target(run_of):
    reach = compared([run_of(1), run_of(2, curve=(None, None))])["groups"][0]["reach"]
    assert (reach["seeds"], reach["rounds"]["note"]) == (None, "no validation AUROC")


def test_bytes_and_time_are_those_of_all_rounds(run_of):
    runs = [run_of(1, curve=(0.6,) * 2), run_of(2, curve=(0.6,) * 4)]
    runs[0].report["rounds"][0]["took_s"] = 1.5
    found = compared(runs)["groups"][0]
    assert found["bytes"]["value"] == (2 * 150 + 4 * 150) / 2
    assert found["round_s"]["value"] == pytest.approx((1.0 + 0.5) / 2)


def test_a_curve_goes_as_far_as_every_seeds_run(run_of):
    curve = compared([run_of(1, curve=(0.6, 0.7, 0.8)), run_of(2, curve=(0.7, None))])["groups"][0]["curve"]
    assert [row["round"] for row in curve] == [1, 2]
    assert [row["auroc"]["value"] for row in curve] == [pytest.approx(0.65), None]


def test_all_that_differs_is_kept_beside_the_label(run_of):
    tuned = run_of(1, strategy="FedAdam", config={"training": {"learning_rate": 0.01}})
    found = compared([run_of(1), tuned])
    assert found["groups"][1]["settings"] == {"training.learning_rate": 0.01, "strategy": "fedadam"}


def test_the_document_is_json_without_a_nan(study, run_of):
    for found in (compared(study), compared([run_of(1, union=None), run_of(1, strategy="FedAdam")])):
        assert json.loads(json.dumps(found, allow_nan=False))["groups"]


@pytest.mark.parametrize("target", [0, 1, -0.5, 75, float("nan")])
def test_a_target_that_is_no_area_is_refused(run_of, target):
    with pytest.raises(SettingError, match="`--target` must be an AUROC between 0 and 1, found"):
        compared([run_of(1)], target=target)


def test_an_unknown_group_is_refused_with_the_nearest(study):
    with pytest.raises(SettingError, match="found 'fedadam'. Did you mean strategy=fedadam?"):
        compared(study, against="fedadam")


@pytest.mark.parametrize(
    ("simulated", "cohort", "said"),
    [
        (True, "", ["draws the simulated patients anew", "covers other simulated patients, splits and trainings;"]),
        (False, "", ["parts the same patients anew", "covers other splits and trainings;", "Real patients are the same"]),
        (False, "same", ["leaves the patients and their parts", "covers other trainings;", "Real patients are the same"]),
    ],
)  # fmt: skip
def test_what_a_seed_draws_anew_is_said_of_the_runs_at_hand(run_of, simulated, cohort, said):
    sentences = coverage([run_of(seed, simulated=simulated, cohort=cohort) for seed in (1, 2)])
    assert len(sentences) == len(said)
    assert all(words in sentence for words, sentence in zip(said, sentences, strict=True))


def test_groups_of_other_seeds_are_said_to_be_so(study):
    said = "Not all groups have the same seeds"
    assert compared(study)["coverage"][-1].startswith(said)
    assert not any(sentence.startswith(said) for sentence in compared(study[:8])["coverage"])


def test_hospitals_of_both_kinds_are_counted(run_of):
    runs = [run_of(seed) for seed in (1, 2)]
    for run in runs:
        run.report["sites"][0]["simulated"] = False
    found = coverage(runs)
    assert "draws the simulated patients anew" in found[0]
    assert "at 1 of 2 hospitals" in found[0]
    assert "at 1 of 2 hospitals" in found[1]
