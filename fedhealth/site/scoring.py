"""Scoring: what a hospital tells of a network's predictions, and how a hazard ratio becomes a risk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from fedhealth.core.risk_sets import LOWEST, RiskSets, strata
from fedhealth.evaluation.scores import ScoreSums, SummaryLayout
from fedhealth.evaluation.survival import SurvivalSums, status_at, steps_to
from fedhealth.models.over_intervals import OverIntervals
from fedhealth.site.discrete_hazards import risk_by
from fedhealth.site.trainer import engine_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.preprocessor import Preprocessor
    from fedhealth.core.risk_sets import Outcome
    from fedhealth.core.study import Study
    from fedhealth.site.cohort import Cohort, Part


class Predicts(Protocol):
    """As much of an engine as the scores of an event need."""

    def predict(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n] probabilities of the outcome."""
        ...


def summarised(
    study: Study,
    cohort: Cohort,
    preprocessor: Preprocessor,
    network: nn.Module,
    part: str,
    *,
    grouped: bool = False,
    engine: Predicts | None = None,
) -> NDArray[np.float64]:
    """[width] the sums of a network's predictions for one part of a hospital's patients (`SummaryLayout`).

    The predictions are those of `engine`, or of the study's where none is given.
    """
    own = cohort.part(part)
    x = own.matrix(preprocessor)
    if study.task.follow_up is None:
        return told(study, own, risk=(engine or engine_of(study)).predict(network, x), grouped=grouped)
    train = cohort.part("train")
    score = engine_of(study).score(network, x)
    times = steps_to(study.task.follow_up.horizon_days)
    course = risks_by(study, network, x, own.outcome, train.matrix(preprocessor), train.outcome, times)
    return told(study, own, risk=course[:, -1], score=score, course=course, grouped=grouped)


def told(
    study: Study,
    own: Part,
    *,
    risk: NDArray[np.float64],
    score: NDArray[np.float64] | None = None,
    course: NDArray[np.float64] | None = None,
    grouped: bool = False,
) -> NDArray[np.float64]:
    """[width] the sums of these patients' risks, [n]; where they are followed `score`, [n], orders them.

    `course`, [n, steps], is their risk over time, where it is known.
    """
    layout = SummaryLayout.of(study, grouped=grouped)
    members = members_of(study, own) if layout.groups else {}
    follow_up = study.task.follow_up
    if follow_up is None or own.days is None:
        return layout.summarise(risk, own.y, members)
    is_known, happened = status_at(own.y == 1, own.days, follow_up.horizon_days)
    return layout.summarise(
        risk[is_known],
        happened[is_known],
        {name: inside[is_known] for name, inside in members.items()},
        SurvivalSums.of(risk if score is None else score, risk, own.y, own.days, follow_up.horizon_days, course),
    )


def score_sums(study: Study, risk: NDArray[np.float64], outcome: Outcome) -> ScoreSums:
    """The score sums of these risks, [n]; of times, of the patients whose status at the horizon is known."""
    follow_up = study.task.follow_up
    if follow_up is None:
        return ScoreSums.of(risk, outcome)
    is_known, happened = status_at(outcome[:, 0] == 1, outcome[:, 1].astype(np.float64), follow_up.horizon_days)
    return ScoreSums.of(risk[is_known], happened[is_known])


def risks(
    study: Study,
    network: nn.Module,
    x: NDArray[np.float32],
    outcome: Outcome,
    x_train: NDArray[np.float32],
    trained_on: Outcome,
) -> NDArray[np.float64]:
    """[n] the probability of the outcome; of a time to an event, that it comes by the horizon (`risks_by`)."""
    follow_up = study.task.follow_up
    if follow_up is None:
        return engine_of(study).predict(network, x)
    return risks_by(study, network, x, outcome, x_train, trained_on, np.array([follow_up.horizon_days]))[:, 0]


def risks_by(
    study: Study,
    network: nn.Module,
    x: NDArray[np.float32],
    outcome: Outcome,
    x_train: NDArray[np.float32],
    trained_on: Outcome,
    times: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[n, times] the probability that the event comes by each of the times, in days.

    A score s gives the risk 1 - exp(-H exp(s)), H being the cumulative baseline hazard
    at the time in the patient's stratum. H is Breslow's estimate (1972, in the discussion
    of Cox's paper, J. R. Stat. Soc. B 34, 216-217) from the stratum's training patients,
    with tied events by Efron's way as in the fit. It is 0 where none of them had an event by then.
    A network over intervals has hazards of its own, and needs no training patients.

    Args:
        study: says the engine.
        network: gives the scores.
        x: [n, width] the patients' rows.
        outcome: [n], of which only the strata of times are read.
        x_train: [m, width] the rows of the training patients.
        trained_on: [m] their outcomes.
        times: in days.
    """
    engine = engine_of(study)
    score = engine.score(network, x)
    if isinstance(network, OverIntervals):
        return np.column_stack([risk_by(network, score, float(time)) for time in times])
    score_train, risk = engine.score(network, x_train), np.zeros((len(score), len(times)))
    for rows in strata(trained_on):
        event, days = trained_on[rows, 0], trained_on[rows, 1]
        sets, top = RiskSets.of(event, days), float(score_train[rows].max())
        below = sets.denominators(np.exp(np.maximum(score_train[rows] - top, LOWEST)))
        hazard = np.array([np.sum(1 / below[days[sets.events] <= time]) for time in times])
        inside = outcome[:, 2] == trained_on[rows[0], 2]
        with np.errstate(over="ignore"):  # infinite is a risk of 1
            risk[inside] = -np.expm1(-np.exp(np.minimum(score[inside] - top, -LOWEST))[:, None] * hazard)
    return risk


def members_of(study: Study, part: Part) -> dict[str, NDArray[np.bool_]]:
    """Who belongs to each group, by the names of `FeatureSpec.group_names`."""
    return {
        f"{name}={title}": part.groups[name] == place
        for name, group in study.features.groups.items()
        for place, title in enumerate(group.titles)
    }
