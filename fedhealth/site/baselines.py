"""What a federation is compared with: each hospital alone, and all patients in one place.

Both are for simulation only. Pooling is what hospitals can't do in life; a process that
may pool holds every hospital's patients already.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.parts import build
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.core.seeds import rng_of
from fedhealth.evaluation.measures import watched
from fedhealth.evaluation.moments import MomentLayout, first_pass, global_means, global_moments, second_pass
from fedhealth.models.weights import first_network, load_weights, weights_of
from fedhealth.site.engines.batched import Batched, fit_alone
from fedhealth.site.kernels.fit import FitJob
from fedhealth.site.scoring import risks, score_sums, summarised, told
from fedhealth.site.trainer import engine_of, training_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.risk_sets import Outcome
    from fedhealth.core.study import Study
    from fedhealth.site.client import Client

#: Hospitals that train alone beside one another: more take more memory, and are no faster.
AT_ONCE = 64


def local(study: Study, clients: Mapping[str, Client]) -> dict[str, tuple[Preprocessor, nn.Module]]:
    """By hospital its model where each trains alone: its own scaling, as many rounds, its own best round."""
    found: dict[str, tuple[Preprocessor, nn.Module]] = {}
    for start in range(0, len(clients), AT_ONCE):
        some = {name: clients[name] for name in list(clients)[start : start + AT_ONCE]}
        scaling = {name: _own_scaling(study, client) for name, client in some.items()}
        learners = [_Learner(name, scaling[name], [client]) for name, client in some.items()]
        found |= {name: (scaling[name], model) for name, model in _trained(study, learners).items()}
    return found


def pooled(study: Study, clients: Mapping[str, Client], preprocessor: Preprocessor) -> nn.Module:
    """The model of all training patients in one place, after as many passes, with the federation's scaling."""
    # Steps are counted at each hospital, so in one place there are as many for each.
    steps = study.training.steps
    training = study.training if steps is None else replace(study.training, steps=steps * len(clients))
    learner = _Learner("pooled", preprocessor, list(clients.values()))
    return _trained(replace(study, training=training), [learner])[learner.name]


def scored(study: Study, client: Client, preprocessor: Preprocessor, network: nn.Module) -> NDArray[np.float64]:
    """A model's sums on a hospital's test patients, as `SummaryLayout` lays them out without groups."""
    return summarised(study, client.cohort, preprocessor, network, "test")


def against_truth(study: Study, client: Client, risk_of: Callable[[], dict[str, float]]) -> NDArray[np.float64]:
    """The sums of the true risk itself, by pseudonym, on a hospital's test patients."""
    risk = risk_of()
    true = np.array([risk[patient] for patient in client.cohort.patients[client.cohort.inside("test")].tolist()])
    return told(study, client.cohort.part("test"), risk=true)


class _Learner:
    """Whoever trains without the federation: its patients, and how far it has come."""

    def __init__(self, name: str, preprocessor: Preprocessor, clients: Sequence[Client]) -> None:
        self.name, self.width = name, preprocessor.width
        self.x, self.y = _together(preprocessor, clients, "train")
        self.x_validation, self.y_validation = _together(preprocessor, clients, "validation")
        self.weights: Mapping[str, NDArray[np.generic]] = {}
        self.best: Mapping[str, NDArray[np.generic]] = {}
        self.lowest, self.at, self.is_done = np.inf, 0, False

    def job(self, study: Study, network: nn.Module, round_: int) -> FitJob:
        """Its training of one round."""
        rng = rng_of(study.seed, round_=round_, site=self.name, purpose="batches")
        return FitJob(network, self.weights, self.x, self.y, training_of(study, round_, len(self.y)), rng)

    def judge(self, study: Study, network: nn.Module, round_: int) -> None:
        """Whether this round is the best, and the last, by the federation's own rules."""
        if len(self.y_validation):
            load_weights(network, self.weights)
            risk = risks(study, network, self.x_validation, self.y_validation, self.x, self.y)
            found = watched(score_sums(study, risk, self.y_validation), study.rules.watch)
            if found is not None and found < self.lowest:
                self.best, self.lowest, self.at = self.weights, found, round_
        patience = study.rules.patience
        self.is_done = bool(self.at) and patience is not None and round_ - self.at >= patience


def _trained(study: Study, learners: Sequence[_Learner]) -> dict[str, nn.Module]:
    """By name the network at its best round on the validation patients, or after the last where there are none.

    All train at once where the study's engine can; each as it would by itself, bit for bit.
    """
    model, engine = build(study.model, where="model", room="fedhealth.models"), engine_of(study)
    networks = {width: first_network(model, width, seed=study.seed) for width in {one.width for one in learners}}
    first = {width: weights_of(network) for width, network in networks.items()}
    for one in learners:
        one.weights = first[one.width]
    for round_ in range(1, study.rounds + 1):
        if not (going := [one for one in learners if not one.is_done]):
            break
        jobs = [one.job(study, networks[one.width], round_) for one in going]
        fitted = engine.fit_all(jobs) if isinstance(engine, Batched) else [fit_alone(engine, job) for job in jobs]
        for one, found in zip(going, fitted, strict=True):
            one.weights = found.weights
            one.judge(study, networks[one.width], round_)
    models: dict[str, nn.Module] = {}
    for one in learners:
        models[one.name] = copy.deepcopy(networks[one.width])
        load_weights(models[one.name], one.best or one.weights)
    return models


def _own_scaling(study: Study, client: Client) -> Preprocessor:
    """The scaling of a hospital's own training patients, without a floor."""
    part, layout = client.cohort.part("train"), MomentLayout(study.features)
    first = first_pass(layout, part.columns, part.y, min_cell=1)
    second = second_pass(layout, part.columns, global_means(layout, first), min_cell=1)
    return Preprocessor.from_moments(study.features, global_moments(layout, first, second))


def _together(preprocessor: Preprocessor, clients: Sequence[Client], name: str) -> tuple[NDArray[np.float32], Outcome]:
    """The rows and outcomes of one part of these hospitals' patients; of times, each hospital is a stratum."""
    parts = [client.cohort.part(name) for client in clients]
    columns = {key: np.concatenate([part.columns[key] for part in parts]) for key in parts[0].columns}
    outcomes = [part.outcome for part in parts]
    outcome = np.concatenate(outcomes)
    if outcome.ndim > 1:
        outcome[:, 2] = np.repeat(np.arange(len(parts)), [len(each) for each in outcomes])
    return preprocessor.apply(columns), outcome
