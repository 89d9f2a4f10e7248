"""Scores of many hospitals' patients at once."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from fedhealth.models.weights import load_weights
from fedhealth.site.kernels.fit import LANE
from fedhealth.site.kernels.stack import Stack, blank_for
from fedhealth.site.private_engine import exact_scores, risks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

#: Tiles that go through the network at a time; what lies between layers then stays in the cache.
TILES = 256


class ScoreJob(NamedTuple):
    """One hospital's patients and the weights they are scored by.

    Attributes:
        network: gives the shape; its own weights are not read.
        weights: by name; hospitals that share a model best give the same arrays.
        x: [n, inputs].
        is_exact: whether by fixed point (`site.exact_network`), as a private study scores.
    """

    network: nn.Module
    weights: Mapping[str, NDArray[np.generic]]
    x: NDArray[np.floating[Any]]
    is_exact: bool = False


class Scores(NamedTuple):
    """What the network gives for each patient, and the probability: [n] each."""

    score: NDArray[np.float64]
    probability: NDArray[np.float64]


def score_all(jobs: Sequence[ScoreJob], device: str) -> list[Scores]:
    """The scores of each job's patients, in the order of the jobs; each is its job's own bit for bit.

    The patients lie in tiles of equally many rows, and no tile holds two hospitals' patients.
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    models: dict[int, tuple[tuple[str, int], ...]] = {}
    for place, job in enumerate(jobs):
        model = models.get(id(job.weights))
        if model is None:
            model = models[id(job.weights)] = tuple((name, id(array)) for name, array in job.weights.items())
        groups[id(job.network), model, job.x.dtype, job.is_exact].append(place)
    found: dict[int, Scores] = {}
    for places in groups.values():
        alike = [jobs[place] for place in places]
        scores = _score_exactly(alike) if alike[0].is_exact else _score_alike(alike, device)
        found |= zip(places, scores, strict=True)
    return [found[place] for place in range(len(jobs))]


def _score_exactly(jobs: Sequence[ScoreJob]) -> list[Scores]:
    """As `_score_alike`, in fixed point: no row's score depends on the rows beside it."""
    first = jobs[0]
    load_weights(first.network, first.weights)
    score = exact_scores(first.network, np.concatenate([job.x for job in jobs]))
    risk, ends = risks_of(score), np.cumsum([len(job.x) for job in jobs])[:-1]
    return [Scores(*own) for own in zip(np.split(score, ends), np.split(risk, ends), strict=True)]


def _score_alike(jobs: Sequence[ScoreJob], device: str) -> list[Scores]:
    """The scores by one network of all these jobs' patients."""
    first = jobs[0]
    tiles = np.array([-(-len(job.x) // LANE) for job in jobs])
    x = blank_for(first.network, int(tiles.sum()) * LANE, first.x.dtype)
    starts = (np.cumsum(tiles) - tiles) * LANE
    for job, start in zip(jobs, starts.tolist(), strict=True):
        x[start : start + len(job.x), : job.x.shape[1]] = job.x
    features = torch.from_numpy(x).to(device).view(-1, LANE, x.shape[1])
    stack = Stack(first.network, min(TILES, max(len(features), 1)), LANE, features)
    stack.load([first.weights])
    score = features.new_empty(len(features), LANE)
    for at in range(0, len(features), TILES):
        score[at : at + TILES] = stack.forward(features[at : at + TILES])[..., 0]
    exact = score.double().view(-1)
    scores, probabilities = exact.cpu().numpy(), torch.sigmoid(exact).cpu().numpy()
    return [
        Scores(scores[start : start + len(job.x)], probabilities[start : start + len(job.x)])
        for job, start in zip(jobs, starts.tolist(), strict=True)
    ]
