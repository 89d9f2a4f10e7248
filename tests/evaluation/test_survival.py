"""What hospitals tell of patients who are followed, against every pair looked at and estimates worked out by hand."""

import numpy as np
import pytest

from fedhealth.core.errors import DataError
from fedhealth.evaluation.scores import ScoreSums, SummaryLayout
from fedhealth.evaluation.survival import SurvivalSums, c_index, integrated_brier, observed_to_expected, status_at


def people(n=60, seed=1):
    """Scores and whole weeks with ties, half of them censored."""
    rng = np.random.default_rng(seed)
    score = np.round(rng.normal(size=n), 1)
    until, end = np.ceil(8 * rng.exponential(np.exp(-score))), np.ceil(8 * rng.exponential(size=n))
    return score, (until <= end).astype(float), np.minimum(until, end)


def sums_of(score, event, days, horizon=10.0):
    return SurvivalSums.of(
        np.asarray(score, float), np.full(len(days), 0.25), np.asarray(event), np.asarray(days, float), horizon
    )


def pair(score, event, days, i, j):
    """1, 1/2 or 0 where i had the event while j was in follow-up; None where that is not known."""
    if not event[i] or days[i] > days[j] or i == j or (days[i] == days[j] and event[j]):
        return None
    return (score[i] > score[j]) + (score[i] == score[j]) / 2


def weighted_c(score, event, days, weight):
    found = [
        (weight[i] * weight[j], c)
        for i in range(len(days))
        for j in range(len(days))
        if (c := pair(score, event, days, i, j)) is not None
    ]
    return sum(w * c for w, c in found) / sum(w for w, _ in found)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pairs_are_those_that_a_look_at_each_of_them_finds(seed, monkeypatch):
    monkeypatch.setattr("fedhealth.evaluation.survival.PAIRS", 150)  # so that it takes several turns
    score, event, days = people(seed=seed)
    each = [c for i in range(60) for j in range(60) if (c := pair(score, event, days, i, j)) is not None]
    found = sums_of(score, event, days)
    assert (found.concordant, found.tied, found.comparable) == (each.count(1), each.count(0.5), len(each))
    assert 0 < found.tied < found.concordant
    assert c_index(found).value == pytest.approx(weighted_c(score, event, days, np.ones(60)))


def test_four_patients_by_hand():
    # The event of day 1 beats all three; that of day 3 comes before the two who left on day 3 and on day 9.
    found = sums_of([2, 1, 5, 1], [1, 1, 0, 0], [1, 3, 3, 9])
    assert (found.concordant, found.tied, found.comparable) == (2, 1, 5)
    assert c_index(found).value == pytest.approx(0.5)


def test_the_interval_is_the_infinitesimal_jackknifes():
    # Its variance is the sum of the squared slopes of C in each patient's weight (Efron 1982, chapter 6).
    score, event, days = people(n=40)
    slopes = []
    for i in range(40):
        up, down = np.ones(40), np.ones(40)
        up[i], down[i] = 1 + 1e-5, 1 - 1e-5
        slopes.append((weighted_c(score, event, days, up) - weighted_c(score, event, days, down)) / 2e-5)
    found = c_index(sums_of(score, event, days))
    half = 1.959963985 * np.sqrt(np.sum(np.square(slopes))) / (found.value * (1 - found.value))
    logit = np.log(found.value / (1 - found.value))
    assert [found.low, found.high] == pytest.approx([1 / (1 + np.exp(half - logit)), 1 / (1 + np.exp(-half - logit))])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth = c_index(sums_of(*people(n=6000, seed=0))).value
    found = [c_index(sums_of(*people(n=50, seed=seed))) for seed in range(1, 401)]
    covered = np.mean([m.low <= truth <= m.high for m in found])
    assert 0.91 <= covered <= 0.99


def test_hospitals_add_up_and_never_compare_a_patient_across_their_doors():
    one, other = people(seed=1), people(seed=2)
    total = sums_of(*one) + sums_of(*other)
    # In one table, with scores and weeks so far apart that every pair across the doors would be in order.
    shifted = (other[0] - 100, other[1], other[2] + 1000)
    mixed = sums_of(*(np.concatenate(part) for part in zip(one, shifted, strict=True)))
    assert total.comparable < mixed.comparable
    assert c_index(total).value < c_index(mixed).value
    a, b = sums_of(*one), sums_of(*other)
    assert total.comparable == a.comparable + b.comparable
    expected = (a.concordant + b.concordant + (a.tied + b.tied) / 2) / total.comparable
    assert c_index(total).value == pytest.approx(expected)


@pytest.mark.parametrize(("score", "event"), [([3, 2, 1], [0, 0, 0]), ([3], [1]), ([], [])])
def test_without_a_comparable_pair_there_is_no_c(score, event):
    assert not c_index(sums_of(score, event, np.arange(len(score)))).is_estimable


def test_a_score_that_is_never_wrong_has_no_interval():
    found = c_index(sums_of([3, 2, 1], [1, 1, 1], [1, 2, 3]))
    assert (found.value, np.isnan(found.low)) == (1, True)


def test_a_status_is_known_once_the_event_or_the_horizon_has_come():
    event, days = np.array([1, 1, 1, 0, 0, 0], dtype=bool), np.array([9.0, 10, 11, 9, 10, 11])
    is_known, happened = status_at(event, days, 10)
    assert is_known.tolist() == [True, True, True, False, True, True]
    assert happened.tolist() == [True, True, False, False, False, False]


def test_events_that_would_have_been_seen_follow_kaplan_and_meier():
    # Alive after day 1: 4/5; after day 3: 4/5 * 2/3 = 8/15. So 5 * 7/15 events, whose variance by Greenwood is
    # 25 (8/15)^2 (1 / (5 * 4) + 1 / (3 * 2)).
    found = sums_of([0] * 5, [1, 0, 1, 0, 1], [1, 2, 3, 4, 5], horizon=4)
    assert found.observed == pytest.approx(7 / 3, abs=1e-5)
    assert found.variance == pytest.approx(25 * (8 / 15) ** 2 * (1 / 20 + 1 / 6), abs=1e-5)
    assert (found.patients, found.censored, found.expected) == (5, 1, 1.25)
    ratio = observed_to_expected(found)
    spread = np.exp(1.959963985 * np.sqrt(found.variance) / found.observed)
    assert [ratio.value, ratio.low, ratio.high] == pytest.approx(
        [7 / 3 / 1.25, 7 / 3 / 1.25 / spread, 7 / 3 / 1.25 * spread], rel=1e-5
    )


def test_without_loss_the_observed_are_those_counted():
    found = sums_of([0] * 4, [1, 1, 1, 0], [1, 2, 30, 40])
    assert found.observed == pytest.approx(2, abs=1e-6)


def test_when_nobody_is_left_or_nothing_is_predicted_it_is_said():
    assert np.isnan(observed_to_expected(sums_of([0, 0], [1, 1], [1, 2])).low)
    assert not observed_to_expected(SurvivalSums()).is_estimable


def test_the_vector_holds_the_sums():
    found = sums_of(*people())
    assert SurvivalSums.from_vector(found.to_vector()) == found
    assert found + SurvivalSums() == found


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, -1.0), (0, 0.5), (0, 1e9), (1, np.nan), (3, -1.0), (7, 61.0), (8, 90.0), (9, 90.0), (10, -1.0)],
)
def test_what_can_not_be_such_sums_is_refused(place, value):
    vector = sums_of(*people()).to_vector()
    vector[place] = value
    with pytest.raises(DataError, match="survival sums must be 14 finite numbers"):
        SurvivalSums.from_vector(vector)


def test_a_layout_keeps_them_beside_the_histograms_and_counts_each_patient_once():
    score, event, days = people()
    layout = SummaryLayout(groups=("sex=f", "sex=m"), bins=50, group_bins=10, is_followed=True)
    is_known, happened = status_at(event == 1, days, 10)
    members = {"sex=f": np.arange(is_known.sum()) % 2 == 0}
    vector = layout.summarise(np.full(is_known.sum(), 0.25), happened[is_known], members, sums_of(score, event, days))
    layout.check(vector)
    assert len(vector) == layout.width
    assert layout.survival(vector) == sums_of(score, event, days)
    overall, groups = layout.unpack(vector)
    assert overall.n == is_known.sum()
    assert groups["sex=f"].n == members["sex=f"].sum()
    vector[-7] += 1  # somebody censored more
    with pytest.raises(DataError, match="known and of unknown status"):
        layout.check(vector)
    assert SummaryLayout(bins=5).survival(ScoreSums.empty(5).to_vector()) is None


def integrated_by_loops(course, event, days, horizon):
    """Graf's score patient by patient: the chance of being followed worked out anew at each time."""

    def followed(time, *, through):
        chance = 1.0
        for when in sorted(set(days[event == 0])):
            if when < time or (through and when == time):
                lost = sum((days == when) & (event == 0))
                at_risk = sum((days > when) | ((days == when) & (event == 0)))
                chance *= 1 - lost / at_risk
        return chance

    total = 0.0
    for k in range(10):
        time = horizon * (k + 1) / 10
        for i in range(len(days)):
            if event[i] and days[i] <= time:
                total += (course[i, k] - 1) ** 2 / followed(days[i], through=False)
            elif days[i] > time:
                total += course[i, k] ** 2 / followed(time, through=True)
    return total / 10 / len(days)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_integrated_brier_score_is_grafs(seed):
    score, event, days = people(seed=seed)
    course = np.sort(np.random.default_rng(seed).uniform(size=(60, 10)), axis=1)
    found = SurvivalSums.of(score, course[:, -1], event, days, 10.0, course)
    measure = integrated_brier(found)
    assert measure.value == pytest.approx(integrated_by_loops(course, event, days, 10.0), abs=1e-5)
    assert 0 < measure.low < measure.value < measure.high
    assert found.courses == 60


def test_without_loss_the_integrated_brier_score_is_the_mean_square_over_time():
    days = np.array([2.5, 7.5, 20.0])
    course = np.tile(np.linspace(0.1, 0.9, 10), (3, 1))
    found = SurvivalSums.of(np.zeros(3), course[:, -1], np.ones(3), days, 10.0, course)
    happened = days[:, None] <= np.arange(1, 11)[None, :]
    assert integrated_brier(found).value == pytest.approx(np.mean((course - happened) ** 2), abs=1e-5)


def test_a_risk_at_the_horizon_alone_has_no_integrated_score():
    assert not integrated_brier(sums_of(*people())).is_estimable
