"""From a log hazard ratio to a risk at the horizon, worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedhealth.compose import composed, resolved
from fedhealth.core.study import study_from
from fedhealth.core.task import FollowUp
from fedhealth.models.cox import Cox
from fedhealth.site.scoring import risks
from fedhealth.study_document import STUDY_KEYS


@pytest.fixture(scope="module")
def study():
    config = resolved(composed(["experiment=smoke", "task=survival", "model=cox"]))
    return study_from({**{key: config[key] for key in STUDY_KEYS}, "roster": config["sites"]["names"]})


def at(study, horizon):
    return replace(study, task=replace(study.task, follow_up=FollowUp(time="t", horizon=horizon)))


def network(weight):
    found = Cox().network(1)
    torch.nn.init.constant_(found.weight, weight)
    return found


TRAIN = np.array([[1, 10, 0], [0, 15, 0], [1, 20, 0], [0, 30, 0]], dtype=float)
X = np.array([[0], [0], [1], [1]], dtype=np.float32)


@pytest.mark.parametrize(
    ("horizon", "hazard"),
    # At risk on day 10: 1 + 1 + 3 + 3; on day 20: 3 + 3.
    [(9, 0), (10, 1 / 8), (19, 1 / 8), (20, 1 / 8 + 1 / 6), (1000, 1 / 8 + 1 / 6)],
)
def test_the_baseline_is_breslows_and_a_hazard_ratio_multiplies_it(study, horizon, hazard):
    found = risks(at(study, horizon), network(np.log(3)), X, TRAIN, X, TRAIN)
    np.testing.assert_allclose(found, 1 - np.exp(-hazard * np.array([1, 1, 3, 3])), rtol=1e-6)


def test_each_hospital_has_a_baseline_of_its_own(study):
    other = TRAIN * [1, 0.5, 1] + [0, 0, 7]
    both, x = np.concatenate([TRAIN, other]), np.concatenate([X, X])
    found = risks(at(study, 10), network(np.log(3)), x, both, x, both)
    np.testing.assert_allclose(found[:4], 1 - np.exp(-1 / 8 * np.array([1, 1, 3, 3])), rtol=1e-6)
    np.testing.assert_allclose(found[4:], 1 - np.exp(-(1 / 8 + 1 / 6) * np.array([1, 1, 3, 3])), rtol=1e-6)


def test_a_hospital_whose_training_patients_had_no_event_predicts_none(study):
    found = risks(at(study, 100), network(1.0), X, TRAIN, X, TRAIN * [0, 1, 1])
    assert found.tolist() == [0, 0, 0, 0]


def test_a_score_beyond_all_bounds_is_a_risk_of_one_or_none(study):
    far = np.array([[2000], [-2000]], dtype=np.float32)
    assert risks(at(study, 20), network(1.0), far, TRAIN[:2], X, TRAIN).tolist() == [1, 0]
