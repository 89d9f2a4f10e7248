"""What a report withholds can't be worked out from what it shows."""

import numpy as np
import pytest

from fedhealth.core.features import Feature, FeatureSpec, Group
from fedhealth.evaluation.scores import GROUP_BINS, ScoreSums
from fedhealth.report import findings


def sums(n: int, events: int) -> ScoreSums:
    rng = np.random.default_rng(n)
    y = np.zeros(n)
    y[:events] = 1
    return ScoreSums.of(np.clip(rng.random(n) * 0.5 + 0.3 * y, 0, 1), y, bins=GROUP_BINS)


class Study:
    features = FeatureSpec(
        name="s",
        features=(Feature(name="age"),),
        groups={"band": Group(column="age", label="Age", cuts=(40.0, 60.0))},
    )


def rows(*sizes: tuple[int, int], floor: int = 10):
    titles = Study.features.groups["band"].titles
    by_site = [{f"band={title}": sums(n, events) for title, (n, events) in zip(titles, sizes, strict=True)}]
    return findings._groups(Study, by_site, floor, seed=1)


def test_a_group_with_enough_patients_of_both_classes_is_shown():
    found = rows((100, 20), (100, 30), (100, 40))
    assert [row["n"] for row in found] == [100, 100, 100]
    assert all(row["sensitivity_at_specificity"]["low"] is not None for row in found)


def test_a_group_with_few_events_is_withheld_whole_and_another_with_it():
    found = rows((100, 3), (100, 30), (100, 40))
    assert [row["n"] for row in found] == [None, None, 100]
    assert found[0]["auroc"]["value"] is None
    assert found[1]["note"] == "withheld: it would give away another group"


def test_two_small_groups_hide_each_other():
    found = rows((100, 3), (100, 4), (100, 40))
    assert [row["n"] for row in found] == [None, None, 100]


@pytest.mark.parametrize("small", [0, 1, 2])
def test_no_single_count_follows_from_the_total(small):
    table = [{"train": 10, "validation": 5, "test": 7, "events": 20 + k} for k in range(3)]
    table[small]["events"] = None
    shown = [row["events"] for row in findings._without_lone_gaps(table)]
    assert shown.count(None) == 2
    assert shown[small] is None


def test_where_all_or_nobody_shares_nothing_more_is_withheld():
    table = [{"train": 10, "validation": 5, "test": 7, "events": 20 + k} for k in range(3)]
    assert [row["events"] for row in findings._without_lone_gaps(table)] == [20, 21, 22]
    hidden = [dict.fromkeys(row) for row in table]
    assert all(row["events"] is None for row in findings._without_lone_gaps(hidden))


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
