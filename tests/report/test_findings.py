"""What a report withholds can't be worked out from what it shows."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fedhealth.core.features import Feature, FeatureSpec, Group
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.evaluation.heterogeneity import intraclass_of_shares
from fedhealth.evaluation.moments import MomentLayout, first_pass, global_means, global_moments, second_pass
from fedhealth.evaluation.scores import ScoreSums, SummaryLayout
from fedhealth.evaluation.survival import SurvivalSums
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
    assert [row["n"] for row in found] == [100, None, 100, None]  # "40 to under 60" is the first by name


def test_a_group_that_only_two_hospitals_have_is_withheld():
    assert [row["n"] for row in rows((100, 20), (100, 30), (100, 40), at=2)] == [None, None, None]


def test_a_group_whose_events_are_one_hospitals_is_withheld():
    layout = SummaryLayout(groups=Study.features.group_names)

    def at(*events: int):
        """A hospital with 100 patients of each age and so many events among them."""
        p, y = (np.concatenate(each) for each in zip(*(scores(100, k) for k in events), strict=True))
        band = np.repeat(range(3), 100)
        return layout.unpack(layout.summarise(p, y, {n: band == k for k, n in enumerate(layout.groups)}))

    def shown(*by_site):
        return [row["n"] for row in findings._groups(Study, list(by_site), findings.Floor(10, 3), seed=1)]

    assert shown(at(60, 20, 20), at(4, 20, 20), at(3, 20, 20)) == [None, None, 300]
    # Of 14 events at three hospitals none has most.
    assert shown(at(5, 20, 20), at(5, 20, 20), at(4, 20, 20)) == [300, 300, 300]


# --- whole reports, and a reader who subtracts ---


def survival(n: int, events: int, lost: int) -> SurvivalSums:
    """The sums of n patients of known status and of others who were lost halfway to the horizon, with scores of no use."""
    days = np.concatenate([np.linspace(1, 364, events), np.full(n - events, 365.0), np.full(lost, 182.0)])
    event = np.arange(n + lost) < events
    return SurvivalSums.of(np.full(n + lost, 0.1), np.full(n + lost, 0.2), event, days, 365.0)


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
        lost: dict[str, int] | None = None,
    ):
        simulation = checked(smoke(f"experiment={'survival' if lost else 'demo'}", "run.folder=null"))
        names = dict(zip(simulation.study.roster, sizes, strict=False))
        study = replace(simulation.study, roster=tuple(names))
        about = {
            hospital: row
            | {"title": names[hospital], "min_cell": floor, "shared": True}
            | (policy or {}).get(names[hospital], {})
            for hospital, row in roster_table(simulation).items()
            if hospital in names
        }
        layout, moments = SummaryLayout.of(study, grouped=True), MomentLayout(study.features)
        vectors = {
            h: layout.summarise(
                *scores(*sizes[name]), survival=survival(*sizes[name], lost[name]) if lost else None
            ).tolist()
            for h, name in names.items()
            if name not in missing
        }
        first, second = np.zeros(len(moments.names)), np.zeros(len(moments.numeric))
        whole = {
            h: vector[: ScoreSums.width()] + (vector[-SurvivalSums.width() :] if lost else [])
            for h, vector in vectors.items()
        }
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
                "shapes": {
                    hospital: [6 * n, 2 * n, n + (lost or {}).get(name, 0)]
                    for hospital, name in names.items()
                    for n in [sizes[name][0]]
                },
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
                    "trained_by": sorted(vectors),
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
    ("lone", "why", "other"), [("oak", {"shared": False}, "ash"), ("ash", {"min_cell": 41}, "oak")]
)
def test_a_hospital_withheld_alone_takes_with_it_another_that_reaches_the_floor(report, lone, why, other):
    sites, found = report(ENOUGH, {lone: why}, floor=15)
    assert hidden(sites) == {lone, other}
    assert sites[other]["federated"]["note"] == FEW
    for name in (lone, other):
        assert all(sites[name][count] is None for count in ("train", "validation", "test", "events"))
        assert all(m["value"] is None for m in sites[name]["measures"].values())
        assert sites[name]["local"] is None or sites[name]["local"]["value"] is None
    assert "Withheld: ash, oak. " in " ".join(found["notes"])


def test_a_hospital_with_hardly_a_patient_hides_nobody(report):
    # Beside oak there would be 14 patients without an event: what is left would be oak's own results.
    sites, _ = report({**ENOUGH, "fir": (14, 0)}, {"oak": {"shared": False}})
    assert hidden(sites) == {"oak", "fir", "ash"}


def test_the_small_one_and_those_that_hide_it_are_not_told_apart(report):
    sites, _ = report({**ENOUGH, "fir": (90, 3)})
    assert hidden(sites) == {"fir", "ash"}
    assert sites["fir"]["federated"] == sites["ash"]["federated"]


def test_a_mean_over_hospitals_leaves_the_withheld_out_and_says_so(report):
    sites, found = report(ENOUGH, {"oak": {"shared": False}})
    federated = next(row for row in found["comparison"] if row["who"] == "federated")
    shown = [sites[name]["federated"]["value"] for name in ("elm", "yew")]
    assert federated["mean_site_auroc"]["value"] == pytest.approx(np.mean(shown), abs=1e-4)
    assert federated["mean_site_auroc"]["note"] == "mean of 2 of 4 hospitals"
    worst = min(("elm", "yew"), key=lambda name: sites[name]["federated"]["value"])
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
        None,
        None,
        60,
        30,
    ]  # ash comes first by name


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


def of_training(*yes: int, n: int = 200):
    """The report's rows of preprocessing and of differences, of hospitals with so many patients who have a trait."""
    spec = FeatureSpec(name="s", features=(Feature(name="age"), Feature(name="trait", kind="binary")))
    study, layout, names = SimpleNamespace(features=spec), MomentLayout(spec), [f"h{k}" for k in range(len(yes))]
    columns = [{"age": np.linspace(30, 80 + k, n), "trait": np.repeat([1.0, 0.0], [k, n - k])} for k in yes]
    first = [first_pass(layout, each, np.arange(n) % 2, min_cell=10) for each in columns]
    means = global_means(layout, sum(first))
    second = [second_pass(layout, each, means, min_cell=10) for each in columns]
    statistics = {
        "shapes": {name: [n, n, n] for name in names},
        "first": dict(zip(names, first, strict=True)),
        "second": dict(zip(names, second, strict=True)),
        "preprocessor": Preprocessor.from_moments(spec, global_moments(layout, sum(first), sum(second))).to_json(),
    }
    manifest = {"sites": {name: {"title": name, "shared": True} for name in names}}
    floor = findings.Floor(10, 3)
    _, trait = findings._preprocessing(study, statistics, floor)
    return trait, findings._heterogeneity(study, statistics, manifest, {}, floor)["rows"][1]


@pytest.mark.parametrize("yes", [(3, 0, 0), (9, 0, 1), (40, 4, 5), (200, 197, 200)])
def test_the_mean_of_a_trait_of_few_patients_or_of_one_hospitals_is_withheld_since_it_is_their_count(yes):
    trait, _ = of_training(*yes)
    assert (trait["mean"], trait["sd"]) == (None, None)


def test_the_mean_of_a_trait_of_many_patients_is_shown_but_not_how_hospitals_differ_where_one_of_them_has_few():
    trait, difference = of_training(60, 40, 4)
    assert trait["mean"] == pytest.approx(104 / 600)
    assert difference["icc_value"] is None
    _, difference = of_training(60, 40, 10)
    assert difference["icc_value"] == pytest.approx(
        intraclass_of_shares(np.full(3, 200.0), np.array([60.0, 40.0, 10.0]))
    )


def test_how_few_were_lost_at_a_hospital_is_in_no_count_and_in_no_interval(report):
    sites, found = report(ENOUGH, lost={"ash": 30, "elm": 4, "oak": 0, "yew": 20})
    # The patients that accuracy is of are those of known status: with all of them shown, the rest would be the lost.
    assert [row["test"] for row in sites.values()] == [n for n, _ in ENOUGH.values()]
    assert (found["follow_up"]["patients"], found["follow_up"]["censored"]) == (720 + 54, 54)
    ratio = {name: row["measures"]["observed_to_expected"] for name, row in sites.items()}
    assert all(each["value"] is not None for each in ratio.values())
    # Ash goes with elm: the total less what ash and yew tell of theirs would be elm's.
    assert [name for name, each in ratio.items() if each["low"] is None] == ["ash", "elm"]
    assert ratio["elm"]["note"].startswith("no interval: it would tell how few were lost")
    assert found["union"]["federated"]["observed_to_expected"]["low"] is not None


def test_how_few_were_lost_in_all_is_in_no_interval(report):
    sites, found = report(ENOUGH, lost={"ash": 2, "elm": 4, "oak": 0, "yew": 1})
    assert found["follow_up"]["censored"] is None
    for each in (found["union"]["federated"], *(sites[name]["measures"] for name in ("ash", "elm", "yew"))):
        assert each["observed_to_expected"]["low"] is None


#: By hospital its patients of each part; the fifth has nearly all there are.
SHAPES = {name: [300, 100, 100] for name in "abcd"} | {"e": [9000, 3000, 3000], "f": [4, 1, 1], "g": [4, 1, 1]}


def test_a_total_whose_events_are_nearly_all_one_hospitals_is_withheld(report):
    sizes = {"ash": (500, 200), "elm": (43, 3), "oak": (54, 4), "yew": (60, 0)}
    _, found = report(sizes, {"ash": {"shared": False}})
    assert all(m["value"] is None for m in found["union"]["federated"].values())
    assert (found["curves"]["federated"], found["groups"]) == ({}, [])
    assert "Results over all hospitals are withheld" in " ".join(found["notes"])


def test_no_total_of_few_events_is_shown_where_every_hospital_is_withheld(report):
    _, found = report({"ash": (80, 5), "elm": (70, 5), "oak": (90, 5)})
    assert found["union"]["federated"]["auroc"]["value"] is None
    assert (found["curves"]["federated"], found["groups"]) == ({}, [])
    _, found = report({"ash": (80, 7), "elm": (70, 7), "oak": (90, 7)})
    assert found["union"]["federated"]["auroc"]["value"] is not None


def history(*rounds):
    """Rounds as (who trained and scored, events): patients without are many."""
    shown = {"failed": [], "answered": 4, "train_loss": 0.4, "watched": 0.3, "auroc": NOTHING, "log_loss": NOTHING}
    return [
        {"round": k, "scored_by": list(who), "trained_by": list(who), "events": events, "others": 300} | shown
        for k, (who, events) in enumerate(rounds, 1)
    ]


def rounds_of(*rounds, is_open=False):
    return findings._rounds(history(*rounds), SHAPES, findings.Floor(10, 3), is_open=is_open)


def test_rounds_that_other_hospitals_scored_are_not_shown_since_their_difference_is_one_hospital():
    found = rounds_of(("abcd", 40), ("abd", 35), ("abcd", 40))
    assert [row["auroc"]["value"] for row in found] == [0.7, None, 0.7]
    assert not any(key in row for row in found for key in ("watched", "scored_by", "trained_by", "events", "others"))


@pytest.mark.parametrize(("is_open", "losses"), [(False, [0.4, None, 0.4]), (True, [0.4, 0.4, 0.4])])
def test_the_loss_of_a_round_that_others_trained_is_shown_where_no_hospital_is_withheld(is_open, losses):
    found = rounds_of(("abcd", 40), ("abd", 35), ("abcd", 40), is_open=is_open)
    assert [row["train_loss"] for row in found] == losses


@pytest.mark.parametrize(("who", "events"), [("abcd", 3), ("ab", 40), ("efg", 40)])
def test_rounds_of_few_events_or_hospitals_or_of_hardly_more_than_one_are_not_shown(who, events):
    (row,) = rounds_of((who, events), is_open=True)
    assert row["auroc"]["value"] is None
    assert row["train_loss"] == (0.4 if who == "abcd" else None)


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


SHARED = """
import json, os, sys
from pathlib import Path
from fedhealth.cli import main
from fedhealth.report.findings import findings
from fedhealth.server.store import Store
from fedhealth.simulate import checked

folder, forked, fork = Path(sys.argv[1]), [], os.fork
main(["simulate", "experiment=demo", "rounds=1", "run.report=false", f"run.folder={folder}", "runtime.processes=1"])
os.fork = lambda: forked.append(fork()) or forked[-1]
store = Store(folder)
study = checked(store.read_config()).study
stored = {name: store.read_json(f"{name}.json") for name in ("results", "baselines", "statistics")}
said = [
    findings(study, history=store.read_history(), manifest=store.read_manifest(), processes=n, **stored) for n in (1, 2)
]
json.dump({"same": json.dumps(said[0]) == json.dumps(said[1]), "forked": len(forked)}, (folder / "said").open("w"))
"""


@pytest.mark.slow
def test_two_processes_find_the_numbers_that_one_finds(tmp_path):
    # In a process of its own: nothing is forked beside a thread that a test before may have left.
    words = [sys.executable, "-c", SHARED, str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "said").read_text()) == {"same": True, "forked": 1}
