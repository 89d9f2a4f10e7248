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
from fedhealth.evaluation.scores import ScoreSums
from fedhealth.models.weights import first_network
from fedhealth.site.cohort import Part
from fedhealth.site.trainer import engine_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from fedhealth.core.study import Study
    from fedhealth.site.client import Client


def local(study: Study, client: Client) -> tuple[Preprocessor, nn.Module]:
    """The model of a hospital that trains alone: its own scaling, as many rounds, its own best round."""
    part = client.cohort.part("train")
    layout = MomentLayout(study.features)
    first = first_pass(layout, part.columns, part.y, min_cell=1)
    second = second_pass(layout, part.columns, global_means(layout, first), min_cell=1)
    preprocessor = Preprocessor.from_moments(study.features, global_moments(layout, first, second))
    return preprocessor, _trained(study, preprocessor, part, client.cohort.part("validation"), client.manifest.name)


def pooled(study: Study, clients: Mapping[str, Client], preprocessor: Preprocessor) -> nn.Module:
    """The model of all training patients in one place, after as many passes, with the federation's scaling."""
    train, validation = (
        _together([client.cohort.part(name) for client in clients.values()]) for name in ("train", "validation")
    )
    # Steps are counted at each hospital, so in one place there are as many for each.
    steps = study.training.steps
    training = study.training if steps is None else replace(study.training, steps=steps * len(clients))
    return _trained(replace(study, training=training), preprocessor, train, validation, "pooled")


def scored(study: Study, client: Client, preprocessor: Preprocessor, network: nn.Module) -> ScoreSums:
    """A model's score sums on a hospital's test patients."""
    part = client.cohort.part("test")
    return ScoreSums.of(engine_of(study).predict(network, preprocessor.apply(part.columns)), part.y)


def against_truth(client: Client, risk_of: Callable[[], dict[str, float]]) -> ScoreSums:
    """The score sums of the true risk itself, by pseudonym, on a hospital's test patients."""
    risk, is_test = risk_of(), client.cohort.split == "test"
    true = np.array([risk[patient] for patient in client.cohort.patients[is_test].tolist()])
    return ScoreSums.of(true, client.cohort.everyone.y[is_test])


def _trained(study: Study, preprocessor: Preprocessor, train: Part, validation: Part, name: str) -> nn.Module:
    """The network at its best round on the validation patients, or after the last where there are none.

    The round is chosen, and the rounds end early, by the federation's own rules.
    """
    model = build(study.model, where="model", room="fedhealth.models")
    network, engine = first_network(model, preprocessor.width, seed=study.seed), engine_of(study)
    x, x_validation = preprocessor.apply(train.columns), preprocessor.apply(validation.columns)
    best, lowest, at = network, np.inf, 0
    for round_ in range(1, study.rounds + 1):
        rng = rng_of(study.seed, round_=round_, site=name, purpose="batches")
        engine.fit(network, x, train.y, study.training.at(round_, study.rounds), rng)
        if len(validation):
            found = watched(ScoreSums.of(engine.predict(network, x_validation), validation.y), study.rules.watch)
            if found is not None and found < lowest:
                best, lowest, at = copy.deepcopy(network), found, round_
        if at and study.rules.patience is not None and round_ - at >= study.rules.patience:
            break
    return best


def _together(parts: list[Part]) -> Part:
    return Part(
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        y=np.concatenate([part.y for part in parts]),
        groups={},
    )
