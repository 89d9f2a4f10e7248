"""What a hospital computes for a study: each piece is a permit and a request in, an update out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.parts import build
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.core.seeds import rng_of
from fedhealth.core.study import unpacked
from fedhealth.core.update import Update
from fedhealth.evaluation.moments import MomentLayout, first_pass, second_pass
from fedhealth.evaluation.scores import SummaryLayout
from fedhealth.models.weights import load_weights, weights_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.study import Study
    from fedhealth.runtime.codec import Request
    from fedhealth.site.cohort import Part
    from fedhealth.site.engines import Engine
    from fedhealth.site.gate import Permit

#: The name under which a vector to be summed travels.
SUM = "sum"


def shape(permit: Permit, request: Request) -> Update:
    """How many patients train, validate and test: [3]."""
    del request
    found = permit.cohort.shape
    return Update(found.train, {SUM: np.array([found.train, found.validation, found.test], dtype=np.float64)})


def moments(permit: Permit, request: Request) -> Update:
    """The first pass over the training rows: counts and sums (`evaluation.moments`)."""
    del request
    part, layout = permit.cohort.part("train"), MomentLayout(permit.study.features)
    vector = first_pass(layout, part.columns, part.y, min_cell=permit.manifest.policy.min_cell)
    return Update(len(part.y), {SUM: vector})


def spread(permit: Permit, request: Request) -> Update:
    """The second pass: sums of squares about the means that came with the request."""
    part, layout = permit.cohort.part("train"), MomentLayout(permit.study.features)
    means = np.asarray(request.arrays["means"], dtype=np.float64)
    vector = second_pass(layout, part.columns, means, min_cell=permit.manifest.policy.min_cell)
    return Update(len(part.y), {SUM: vector})


def train(permit: Permit, request: Request) -> Update:
    """The model after this hospital's share of the round."""
    study, part = permit.study, permit.cohort.part("train")
    network, x = _ready(study, part, request)
    rng = rng_of(study.seed, round_=permit.round_, site=permit.manifest.name, purpose="batches")
    loss = engine_of(study).fit(network, x, part.y, study.training, rng)
    return Update(len(part.y), weights_of(network), {"loss": loss})


def evaluate(permit: Permit, request: Request) -> Update:
    """The score sums of the model on one part of the split, groups included where asked for."""
    study, name = permit.study, str(request.config["part"])
    part = permit.cohort.part(name)
    network, x = _ready(study, part, request)
    probability = engine_of(study).predict(network, x)
    layout = summary_layout(study, grouped=bool(request.config.get("grouped", False)))
    vector = layout.summarise(probability, part.y, _members(study, part) if layout.groups else {})
    shared = float(permit.manifest.policy.share_site_results)
    return Update(len(part.y), {SUM: vector}, {"shared": shared, "min-cell": permit.manifest.policy.min_cell})


WORK: dict[str, Callable[[Permit, Request], Update]] = {
    "query.shape": shape,
    "query.moments": moments,
    "query.spread": spread,
    "train": train,
    "evaluate": evaluate,
}


def work_for(purpose: str) -> Callable[[Permit, Request], Update]:
    """The piece of work with that name.

    Raises:
        SettingError: there is none.
    """
    if purpose not in WORK:
        raise SettingError(f"a request must have a known purpose, found {purpose!r}. {did_you_mean(purpose, WORK)}")
    return WORK[purpose]


def summary_layout(study: Study, *, grouped: bool) -> SummaryLayout:
    """Where the cohort and its groups lie in the vector of an evaluation."""
    return SummaryLayout(groups=study.features.group_names if grouped else ())


def engine_of(study: Study) -> Engine:
    """The study's engine, from the installed package only."""
    return build(study.engine, where="engine", room="fedhealth.site.engines")  # type: ignore[no-any-return]


def network_of(study: Study, width: int) -> nn.Module:
    """The study's network, from the installed package only."""
    return build(study.model, where="model", room="fedhealth.models").network(width)  # type: ignore[no-any-return]


def _members(study: Study, part: Part) -> dict[str, NDArray[np.bool_]]:
    """Who belongs to each group, by the names of `FeatureSpec.group_names`."""
    return {
        f"{name}={title}": part.groups[name] == place
        for name, group in study.features.groups.items()
        for place, title in enumerate(group.titles)
    }


def _ready(study: Study, part: Part, request: Request) -> tuple[nn.Module, NDArray[np.float32]]:
    """The network with the request's weights, and the part's patients as its input."""
    preprocessor = Preprocessor.from_json(unpacked(str(request.config["preprocessor"])))
    network = network_of(study, preprocessor.width)
    load_weights(network, request.arrays)
    return network, preprocessor.apply(part.columns)
