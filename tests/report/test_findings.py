"""What a report withholds can't be worked out from what it shows."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fedhealth.core.features import Feature, FeatureSpec, Group
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.evaluation.moments import MomentLayout, global_moments
from fedhealth.evaluation.scores import ScoreSums, SummaryLayout
from fedhealth.report import findings
from fedhealth.simulate import checked, roster_table


class Study:
    features = FeatureSpec(
        name="s",
        features=(Feature(name="age"),),
        groups={"band": Group(column="age", label="Age", cuts=(40.0, 60.0))},
    )


def scores(n: int, events: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    y = np.zeros(n)
    y[:events] = 1
    return np.clip(rng.random(n) * 0.5 + 0.3 * y, 0, 1), y


def rows(*sizes: tuple[int, int], ungrouped: tuple[int, int] = (0, 0), cell: int = 10, at: int = 4):
    """The report's rows of three age bands and of those whose age nobody knows, spread over `at` hospitals."""
    layout = SummaryLayout(groups=Study.features.group_names)
    parts = [scores(n, events) for n, events in (*sizes, ungrouped)]
    p, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    band = np.repeat(range(4), [n for n, _ in (*sizes, ungrouped)])
    by_site = []
    for k in range(at):
        own = np.arange(len(p)) % at == k
        members = {name: band[own] == place for place, name in enumerate(layout.groups)}
        by_site.append(layout.unpack(layout.summarise(p[own], y[own], members)))
    return findings._groups(Study, by_site, findings.Floor(cell, 3), seed=1)


def test_a_group_with_enough_patients_of_both_classes_is_shown():
    found = rows((100, 20), (100, 30), (100, 40))
    assert [row["n"] for row in found] == [100, 100, 100]
    assert all(row["sensitivity_at_specificity"]["low"] is not None for row in found)


def test_a_group_with_few_events_is_withheld_whole_and_another_with_it_for_the_same_words():
    found = rows((100, 3), (100, 30), (100, 40))
    assert [row["n"] for row in found] == [None, None, 100]
    assert found[0]["auroc"]["value"] is None
    assert found[0]["note"] == found[1]["note"]


def test_two_small_groups_do_not_hide_each_other():
    assert [row["n"] for row in rows((100, 6), (100, 7), (100, 40))] == [None, None, None]


def test_those_in_no_group_are_a_row_and_hide_with_the_others():
    found = rows((100, 20), (100, 30), (100, 40), ungrouped=(50, 15))
    assert [(row["level"], row["n"], row["events"]) for row in found[3:]] == [("not recorded", 50, 15)]
    found = rows((100, 20), (100, 30), (100, 40), ungrouped=(3, 1))
    assert [row["n"] for row in found] == [None, 100, 100, None]


def test_a_group_that_only_two_hospitals_have_is_withheld():
    assert [row["n"] for row in rows((100, 20), (100, 30), (100, 40), at=2)] == [None, None, None]


# --- whole reports, and a reader who subtracts ---


NOTHING = {"value": 0.7, "low": 0.6, "high": 0.8, "method": "", "note": ""}


@pytest.fixture
def report(smoke):
    """The hospitals' rows and the report, of hospitals with so many test patients and events each."""

    def made(
        sizes: dict[str, tuple[int, int]],
        policy: dict | None = None,
        missing: tuple[str, ...] = (),
        floor=10,
        oracle=(),
    ):
        simulation = checked(smoke("experiment=demo", "run.folder=null"))
        names = dict(zip(simulation.study.roster, sizes, strict=False))
        study = replace(simulation.study, roster=tuple(names))
        about = {
            hospital: row
            | {"title": names[hospital], "min_cell": floor, "shared": True}
            | (policy or {}).get(names[hospital], {})
            for hospital, row in roster_table(simulation).items()
            if hospital in names
        }
        layout, moments = SummaryLayout(groups=study.features.group_names), MomentLayout(study.features)
        vectors = {
            h: layout.summarise(*scores(*sizes[name])).tolist() for h, name in names.items() if name not in missing
        }
        first, second = np.zeros(len(moments.names)), np.zeros(len(moments.numeric))
        whole = {hospital: vector[: ScoreSums.width()] for hospital, vector in vectors.items()}
        cost = dict.fromkeys(("bytes_up", "bytes_down", "messages"), 0)
        keys = (
            "code_version",
            "started",
            "config_sha256",
            "weights_sha256",
            "packages",
            "python",
            "platform",
            "threads",
        )
        found = findings.findings(
            study,
            results={
                **dict.fromkeys(("study", "stopped_because", "privacy", "secagg"), ""),
                **dict.fromkeys(("rounds_done", "best_round", "parameters"), 1),
                "sums": vectors,
                "failed_last": [],
                "is_personal": False,
            },
            baselines={"local": whole, "pooled": whole}
            | ({"oracle": {h: v for h, v in whole.items() if names[h] in oracle}} if oracle else {}),
            statistics={
                "shapes": {hospital: [6 * n, 2 * n, n] for hospital, name in names.items() for n in [sizes[name][0]]},
                "first": {hospital: first.tolist() for hospital in vectors},
                "second": {hospital: second.tolist() for hospital in vectors},
                "preprocessor": Preprocessor.from_moments(
                    study.features, global_moments(moments, first, second)
                ).to_json(),
            },
            manifest={"sites": about, "wall_s": 1.0, "cpu_s": 1.0, "peak_memory_bytes": 1} | dict.fromkeys(keys, ""),
            history=[
                {
                    "round": 1,
                    "scored_by": sorted(vectors),
                    "answered": len(vectors),
                    "events": 90,
                    "others": 500,
                    "failed": [],
                    "took_s": 1.0,
                    **dict.fromkeys(("train_loss", "watched"), 0.5),
                    **dict.fromkeys(("auroc", "log_loss"), NOTHING),
                }
                | cost
            ],
        )
        json.dumps(found, allow_nan=False)
        return {row["title"]: row for row in found["sites"]}, found

    return made


def hidden(sites) -> set[str]:
    return {name for name, row in sites.items() if row["federated"] is None or row["federated"]["value"] is None}


ENOUGH = {"ash": (200, 40), "elm": (120, 30), "oak": (300, 70), "yew": (100, 25)}


def test_no_hospital_is_withheld_where_each_has_enough(report):
    sites, found = report(ENOUGH)
    assert not hidden(sites)
    assert [row["test"] for row in sites.values()] == [200, 120, 300, 100]
    assert not any("Withheld" in note for note in found["notes"])


FEW = "withheld or not estimable: few patients with or without the outcome, here or at another hospital withheld"


@pytest.mark.parametrize(
    ("lone", "why", "other"), [("oak", {"shared": False}, "yew"), ("ash", {"min_cell": 60}, "oak")]
)
def test_a_hospital_withheld_alone_takes_with_it_the_smallest_other_that_hides_it(report, lone, why, other):
    sites, found = report(ENOUGH, {lone: why}, floor=15)
    assert hidden(sites) == {lone, other}
    assert sites[other]["federated"]["note"] == FEW
    for name in (lone, other):
        assert all(sites[name][count] is None for count in ("train", "validation", "test", "events"))
        assert all(m["value"] is None for m in sites[name]["measures"].values())
        assert sites[name]["local"] is None or sites[name]["local"]["value"] is None
    assert f"Withheld: {lone}, " in " ".join(found["notes"])


def test_a_hospital_with_hardly_a_patient_hides_nobody(report):
    # Beside oak there would be 14 patients without an event: what is left would be oak's own results.
    sites, _ = report({**ENOUGH, "fir": (14, 0)}, {"oak": {"shared": False}})
    assert hidden(sites) == {"oak", "fir", "yew"}


def test_the_small_one_and_those_that_hide_it_are_not_told_apart(report):
    sites, _ = report({**ENOUGH, "fir": (90, 3)})
    assert hidden(sites) == {"fir", "yew"}
    assert sites["fir"]["federated"] == sites["yew"]["federated"]


def test_a_mean_over_hospitals_leaves_the_withheld_out_and_says_so(report):
    sites, found = report(ENOUGH, {"oak": {"shared": False}})
    federated = next(row for row in found["comparison"] if row["who"] == "federated")
    shown = [sites[name]["federated"]["value"] for name in ("ash", "elm")]
    assert federated["mean_site_auroc"]["value"] == pytest.approx(np.mean(shown), abs=1e-4)
    assert federated["mean_site_auroc"]["note"] == "mean of 2 of 4 hospitals"
    worst = min(("ash", "elm"), key=lambda name: sites[name]["federated"]["value"])
    assert federated["worst_site"]["name"] == sites[worst]["name"]


@pytest.mark.parametrize("events", [0, 60])
def test_one_class_alone_is_not_told_from_a_few(report, events):
    sites, _ = report(ENOUGH | {"fir": (60, events)})
    few, _ = report(ENOUGH | {"fir": (60, 3)})
    assert sites["fir"]["federated"] == few["fir"]["federated"]
    assert sites["fir"]["events"] is None


def test_a_hospital_without_floor_is_told_that_one_class_is_not_estimable(report):
    sites, _ = report(ENOUGH | {"fir": (60, 0)}, {name: {"min_cell": 1} for name in (*ENOUGH, "fir")})
    assert sites["fir"]["federated"]["value"] is None
    assert sites["fir"]["federated"]["note"] == "nobody had the outcome"


def test_a_single_small_count_takes_another_hospitals_with_it():
    counts = {"validation": {"ash": 50, "elm": 4, "oak": 60, "yew": 30}}
    table = [{"name": name, "validation": n if n >= 10 else None} for name, n in counts["validation"].items()]
    assert [row["validation"] for row in findings._without_gaps(table, counts, 10)] == [
        50,
        None,
        60,
        None,
    ]  # yew is next


def test_a_part_that_is_empty_everywhere_is_shown_as_empty():
    counts = {"validation": dict.fromkeys(("ash", "elm", "oak"), 0)}
    table = [{"name": "ash", "validation": None}, {"name": "elm", "validation": 0}, {"name": "oak", "validation": 0}]
    assert [row["validation"] for row in findings._without_gaps(table, counts, 10)] == [None, 0, 0]


def test_results_of_fewer_hospitals_than_one_of_them_asks_for_are_withheld(report):
    _, found = report(ENOUGH, missing=("ash", "elm"))
    assert all(m["value"] is None for m in found["union"]["federated"].values())
    assert found["union"]["federated"]["auroc"]["note"].startswith("withheld: it must be of at least 3 hospitals")
    assert found["curves"]["federated"] == {}
    assert found["groups"] == []
    assert found["rounds"][0]["auroc"]["value"] is None
    assert found["rounds"][0]["train_loss"] is None
    assert found["heterogeneity"] is None
    assert found["comparison"][0]["union_auroc"]["value"] is None


def test_a_total_that_is_nearly_one_hospitals_is_withheld(report):
    _, found = report({"ash": (200, 40), "elm": (4, 2), "oak": (0, 0), "yew": (3, 1)})
    assert found["union"]["federated"]["auroc"]["value"] is None


def history(*rounds):
    """Rounds as (who scored, events): patients without are many."""
    shown = {"failed": [], "answered": 4, "train_loss": 0.4, "watched": 0.3, "auroc": NOTHING, "log_loss": NOTHING}
    return [{"round": k, "scored_by": list(who), "events": events, "others": 300} | shown for k, (who, events) in enumerate(rounds, 1)]  # fmt: skip


def test_rounds_that_other_hospitals_scored_are_not_shown_since_their_difference_is_one_hospital():
    found = findings._rounds(history(("abcd", 40), ("abd", 35), ("abcd", 40)), findings.Floor(10, 3))
    assert [row["auroc"]["value"] for row in found] == [0.7, None, 0.7]
    assert not any(key in row for row in found for key in ("watched", "scored_by", "events", "others"))


@pytest.mark.parametrize(("who", "events"), [("abcd", 3), ("ab", 40)])
def test_rounds_of_few_events_or_hospitals_are_not_shown(who, events):
    (row,) = findings._rounds(history((who, events)), findings.Floor(10, 3))
    assert row["auroc"]["value"] is None


def test_no_float_of_a_report_has_more_than_four_digits(report):
    _, found = report(ENOUGH)

    def floats(document):
        if isinstance(document, dict | list):
            return [
                x for value in (document.values() if isinstance(document, dict) else document) for x in floats(value)
            ]
        return [document] if isinstance(document, float) else []

    assert all(x == float(f"{x:.4g}") for x in floats(found))


def test_the_true_risk_of_simulated_hospitals_alone_is_no_union(report):
    _, found = report(ENOUGH, oracle=("ash", "elm", "oak"))
    assert found["union"]["oracle"]["auroc"]["value"] is None
    assert found["union"]["oracle"]["auroc"]["note"] == "not of the same hospitals as the federation"


def test_bins_of_risk_with_few_patients_are_merged_in_the_reliability_diagram(report):
    _, found = report(ENOUGH)
    shown = found["curves"]["federated"]["reliability"]["n"]
    assert min(shown) >= 10
    assert sum(shown) == sum(n for n, _ in ENOUGH.values())


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, None), (4, None), (5, 5), (None, None)])
def test_a_count_of_a_few_patients_is_withheld(count, shown):
    assert findings._shown(count, 5) == shown


def row(number: int, *reasons: str) -> dict:
    return {"round": number, "failed": [{"site": "ash", "reason": reason} for reason in reasons]}


@pytest.mark.parametrize(
    ("history", "last", "status"),
    [
        ([row(1), row(2)], [], "took part"),
        ([row(1, "slow"), row(2)], [], "gave no answer in 1 of 2 rounds: slow"),
        ([row(1, "slow", "lost"), row(2)], [], "gave no answer in 1 of 2 rounds: lost"),
        (
            [row(1, "slow"), row(2, "slow")],
            ["slow"],
            "gave no answer in 2 of 2 rounds and in the last evaluation: slow",
        ),
        ([row(1), row(2)], ["lost"], "gave no answer in the last evaluation: lost"),
    ],
)
def test_a_hospitals_status_counts_rounds_and_says_the_last_evaluation_apart(history, last, status):
    failed = [{"site": "ash", "reason": reason} for reason in last] + [{"site": "oak", "reason": "other"}]
    assert findings._status("ash", history, {"failed_last": failed}) == status
