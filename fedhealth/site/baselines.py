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
from fedhealth.models.weights import first_network
from fedhealth.site.scoring import risks, score_sums, summarised, told
from fedhealth.site.trainer import engine_of, training_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.risk_sets import Outcome
    from fedhealth.core.study import Study
    from fedhealth.site.client import Client


def local(study: Study, client: Client) -> tuple[Preprocessor, nn.Module]:
    """The model of a hospital that trains alone: its own scaling, as many rounds, its own best round."""
    part = client.cohort.part("train")
    layout = MomentLayout(study.features)
    first = first_pass(layout, part.columns, part.y, min_cell=1)
    second = second_pass(layout, part.columns, global_means(layout, first), min_cell=1)
    preprocessor = Preprocessor.from_moments(study.features, global_moments(layout, first, second))
    return preprocessor, _trained(study, preprocessor, [client], client.manifest.name)


def pooled(study: Study, clients: Mapping[str, Client], preprocessor: Preprocessor) -> nn.Module:
    """The model of all training patients in one place, after as many passes, with the federation's scaling."""
    # Steps are counted at each hospital, so in one place there are as many for each.
    steps = study.training.steps
    training = study.training if steps is None else replace(study.training, steps=steps * len(clients))
    return _trained(replace(study, training=training), preprocessor, list(clients.values()), "pooled")


def scored(study: Study, client: Client, preprocessor: Preprocessor, network: nn.Module) -> NDArray[np.float64]:
    """A model's sums on a hospital's test patients, as `SummaryLayout` lays them out without groups."""
    return summarised(study, client.cohort, preprocessor, network, "test")


def against_truth(study: Study, client: Client, risk_of: Callable[[], dict[str, float]]) -> NDArray[np.float64]:
    """The sums of the true risk itself, by pseudonym, on a hospital's test patients."""
    risk = risk_of()
    true = np.array([risk[patient] for patient in client.cohort.patients[client.cohort.inside("test")].tolist()])
    return told(study, client.cohort.part("test"), risk=true)


def _trained(study: Study, preprocessor: Preprocessor, clients: Sequence[Client], name: str) -> nn.Module:
    """The network at its best round on the validation patients, or after the last where there are none.

    The round is chosen, and the rounds end early, by the federation's own rules.
    """
    model = build(study.model, where="model", room="fedhealth.models")
    network, engine = first_network(model, preprocessor.width, seed=study.seed), engine_of(study)
    (x, y), (x_validation, y_validation) = (_together(preprocessor, clients, part) for part in ("train", "validation"))
    best, lowest, at = network, np.inf, 0
    for round_ in range(1, study.rounds + 1):
        rng = rng_of(study.seed, round_=round_, site=name, purpose="batches")
        engine.fit(network, x, y, training_of(study, round_, len(y)), rng)
        if len(y_validation):
            risk = risks(study, network, x_validation, y_validation, x, y)
            found = watched(score_sums(study, risk, y_validation), study.rules.watch)
            if found is not None and found < lowest:
                best, lowest, at = copy.deepcopy(network), found, round_
        if at and study.rules.patience is not None and round_ - at >= study.rules.patience:
            break
    return best


def _together(preprocessor: Preprocessor, clients: Sequence[Client], name: str) -> tuple[NDArray[np.float32], Outcome]:
    """The rows and outcomes of one part of these hospitals' patients; of times, each hospital is a stratum."""
    parts = [client.cohort.part(name) for client in clients]
    columns = {key: np.concatenate([part.columns[key] for part in parts]) for key in parts[0].columns}
    outcomes = [part.outcome for part in parts]
    outcome = np.concatenate(outcomes)
    if outcome.ndim > 1:
        outcome[:, 2] = np.repeat(np.arange(len(parts)), [len(each) for each in outcomes])
    return preprocessor.apply(columns), outcome
