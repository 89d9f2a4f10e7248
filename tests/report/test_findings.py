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


def rows(*sizes: tuple[int, int], ungrouped: tuple[int, int] = (0, 0), floor: int = 10):
    """The report's rows of three age bands, and of those whose age nobody knows."""
    layout = SummaryLayout(groups=Study.features.group_names)
    parts = [scores(n, events) for n, events in (*sizes, ungrouped)]
    p, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    band = np.repeat(range(4), [n for n, _ in (*sizes, ungrouped)])
    members = {name: band == k for k, name in enumerate(layout.groups)}
    union, groups = layout.unpack(layout.summarise(p, y, members))
    return findings._groups(Study, union, [groups], floor, seed=1)


def test_a_group_with_enough_patients_of_both_classes_is_shown():
    found = rows((100, 20), (100, 30), (100, 40))
    assert [row["n"] for row in found] == [100, 100, 100]
    assert all(row["sensitivity_at_specificity"]["low"] is not None for row in found)


def test_a_group_with_few_events_is_withheld_whole_and_another_with_it():
    found = rows((100, 3), (100, 30), (100, 40))
    assert [row["n"] for row in found] == [None, None, 100]
    assert found[0]["auroc"]["value"] is None
    assert found[1]["note"] == "withheld: it would give away another group"


def test_two_small_groups_hide_each_other_only_where_they_are_not_few_together():
    assert [row["n"] for row in rows((100, 6), (100, 7), (100, 40))] == [None, None, 100]
    assert [row["n"] for row in rows((100, 3), (100, 4), (100, 40))] == [None, None, None]


def test_those_in_no_group_are_a_row_and_hide_with_the_others():
    found = rows((100, 20), (100, 30), (100, 40), ungrouped=(50, 15))
    assert [(row["level"], row["n"], row["events"]) for row in found[3:]] == [("not recorded", 50, 15)]
    found = rows((100, 20), (100, 30), (100, 40), ungrouped=(3, 1))
    assert [row["n"] for row in found] == [None, 100, 100, None]


# --- whole reports, and a reader who subtracts ---


NOTHING = {"value": 0.7, "low": 0.6, "high": 0.8, "method": "", "note": ""}


@pytest.fixture
def report(smoke):
    """The hospitals' rows and the report, of hospitals with so many test patients and events each."""

    def made(sizes: dict[str, tuple[int, int]], policy: dict | None = None, missing: tuple[str, ...] = ()):
        simulation = checked(smoke("experiment=demo", "run.folder=null"))
        names = dict(zip(simulation.study.roster, sizes, strict=False))
        study = replace(simulation.study, roster=tuple(names))
        about = {
            hospital: row
            | {"title": names[hospital], "min_cell": 10, "shared": True}
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
            },
            baselines={"local": whole, "pooled": whole},
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
                    "failed": [],
                    "took_s": 1.0,
                    "auroc": NOTHING,
                    "log_loss": NOTHING,
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


@pytest.mark.parametrize("why", [{"shared": False}, {"min_cell": 60}])
def test_a_hospital_withheld_alone_takes_the_smallest_other_with_it(report, why):
    sites, found = report(ENOUGH, {"oak": why} if "shared" in why else {"ash": why})
    lone = "oak" if "shared" in why else "ash"
    assert hidden(sites) == {lone, "yew"}
    assert sites["yew"]["federated"]["note"] == "withheld: it would give away another hospital's"
    for name in (lone, "yew"):
        assert all(sites[name][count] is None for count in ("train", "validation", "test", "events"))
        assert all(m["value"] is None for m in sites[name]["measures"].values())
        assert sites[name]["local"] is None or sites[name]["local"]["value"] is None
    assert f"Withheld: {lone}, yew." in " ".join(found["notes"])


def test_the_rest_of_a_report_is_never_one_hospital_nor_few_patients(report):
    # What a reader who subtracts gets: all together less those shown.
    sites, _ = report({"ash": (200, 40), "elm": (120, 4), "oak": (300, 70), "yew": (100, 5), "fir": (90, 30)})
    assert hidden(sites) == {"elm", "yew", "fir"}  # 4 + 5 events are few, so a third goes too


def test_a_mean_over_hospitals_leaves_the_withheld_out_and_says_so(report):
    sites, found = report(ENOUGH, {"oak": {"shared": False}})
    federated = next(row for row in found["comparison"] if row["who"] == "federated")
    shown = [sites[name]["federated"]["value"] for name in ("ash", "elm")]
    assert federated["mean_site_auroc"]["value"] == pytest.approx(np.mean(shown))
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
    assert [row["validation"] for row in findings._without_gaps(table, counts, 10)] == [50, None, 60, None]


def test_a_part_that_is_empty_everywhere_is_shown_as_empty():
    counts = {"validation": dict.fromkeys(("ash", "elm", "oak"), 0)}
    table = [{"name": "ash", "validation": None}, {"name": "elm", "validation": 0}, {"name": "oak", "validation": 0}]
    assert [row["validation"] for row in findings._without_gaps(table, counts, 10)] == [None, 0, 0]


def test_results_of_fewer_hospitals_than_one_of_them_asks_for_are_withheld(report):
    _, found = report(ENOUGH, missing=("ash", "elm"))
    assert all(m["value"] is None for m in found["union"]["federated"].values())
    assert found["union"]["federated"]["auroc"]["note"].startswith("withheld: 2 hospitals answered")
    assert found["curves"]["federated"] == {}
    assert found["groups"] == []
    assert found["rounds"][0]["auroc"]["value"] is None
    assert found["comparison"][0]["union_auroc"]["value"] is None


def test_bins_of_risk_with_few_patients_are_left_out_of_the_reliability_diagram(report):
    _, found = report(ENOUGH)
    assert min(found["curves"]["federated"]["reliability"]["n"]) >= 10


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, None), (4, None), (5, 5), (None, None)])
def test_a_count_of_a_few_patients_is_withheld(count, shown):
    assert findings._shown(count, 5) == shown
