"""What a synthetic release is worth and gives away, measured against real patients.

Only whoever holds patients can measure it: a hospital on its own, or in a simulation the process that holds
all of them. Everything here comes from real records WITHOUT noise and is covered by no epsilon, so it is for
the hospitals to decide by and no part of the release.

Real patients are those the release was made from (`train`) and as many it never saw (`held_out`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

from fedhealth.core.seeds import rng_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from fedhealth.core.study import Study
    from fedhealth.evaluation.margins import MarginLayout
    from fedhealth.site.cohort import Cohort

    Cells = NDArray[np.int64]

#: Records of each kind that distances are taken between: more only sharpens the second digit.
MOST_COMPARED = 4000
#: A group with fewer patients of either outcome gets no AUROC.
LEAST_OF_A_CLASS = 10
#: A combination of quasi-identifiers that fewer real patients have is rare.
RARE = 5
RIDGE = 3.0
NEWTON_STEPS = 10


@dataclass(frozen=True, slots=True)
class Real:
    """Real patients as cells, [n, attributes], and of those held out the group by grouping, each [n]."""

    train: Cells
    held_out: Cells
    groups: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, layout: MarginLayout, cohorts: Iterable[Cohort]) -> Real:
        """The patients of cohorts: those of validation and test are the ones held out."""
        parts: dict[str, list[Cells]] = {"train": [], "held_out": []}
        groups: dict[str, list[Cells]] = defaultdict(list)
        for cohort in cohorts:
            for name in ("train", "validation", "test"):
                part = cohort.part(name)
                parts["train" if name == "train" else "held_out"].append(layout.cells(part.columns, part.y))
                if name != "train":
                    for group, codes in part.groups.items():
                        groups[group].append(codes)
        whole = {name: np.vstack(each) for name, each in parts.items()}
        return cls(whole["train"], whole["held_out"], {name: np.concatenate(each) for name, each in groups.items()})


def checked(study: Study, layout: MarginLayout, real: Real, synthetic: Cells) -> dict[str, Any]:
    """The findings, as JSON.

    Args:
        study: of the release; its seed chooses who is compared.
        layout: of the cells.
        real: the patients.
        synthetic: the release as cells, [n, attributes].
    """
    rng = rng_of(study.seed, purpose="release check")
    models = {"synthetic": _fitted(layout, synthetic), "real": _fitted(layout, real.train)}
    scores = {name: _scores(layout, weights, real.held_out) for name, weights in models.items()}
    outcome = real.held_out[:, -1] == 1
    return {
        "only_for": "the hospitals: worked out from real records without noise, and covered by no epsilon",
        "patients": {"train": len(real.train), "held_out": len(real.held_out), "synthetic": len(synthetic)},
        "total_variation": _variation(layout, real, synthetic),
        "auroc": {name: _auroc(found, outcome) for name, found in scores.items()},
        "auroc_by_group": _by_group(study, real, scores, outcome),
        **_nearness(layout, real, synthetic, rng),
        "k_map": k_map(study, layout, np.vstack([real.train, real.held_out]), synthetic),
    }


def k_map(study: Study, layout: MarginLayout, real: Cells, synthetic: Cells) -> dict[str, Any]:
    """How many real patients have each synthetic patient's combination of quasi-identifiers.

    Attributes that the spec calls `quasi`, cut as in the release. A rare combination is one of 1 to `RARE` - 1 real
    patients; one of none is of nobody.
    """
    names = [feature.name for feature in study.features.features if feature.sensitivity == "quasi"]
    places = [layout.names.index(name) for name in names]
    combined, inverse = np.unique(np.vstack([real, synthetic])[:, places], axis=0, return_inverse=True)
    each = np.bincount(inverse.ravel()[: len(real)], minlength=len(combined))
    of_synthetic = each[inverse.ravel()[len(real) :]]
    there = of_synthetic[of_synthetic > 0]
    return {
        "quasi_identifiers": names,
        "least": int(there.min()) if len(there) else 0,
        "median": float(np.median(of_synthetic)),
        "rare_share": float(np.mean((of_synthetic > 0) & (of_synthetic < RARE))),
        "of_nobody_share": float(np.mean(of_synthetic == 0)),
    }


def _variation(layout: MarginLayout, real: Real, synthetic: Cells) -> dict[str, Any]:
    """Half the sum of differences between shares, of each attribute and each pair; of held-out patients beside it."""
    exact = layout.counts(real.train)
    found: dict[str, Any] = {}
    for who, cells in (("synthetic", synthetic), ("held_out", real.held_out)):
        counts = layout.counts(cells)
        one = [
            _half(a / len(real.train), b / len(cells))
            for a, b in zip(layout.one_way(exact), layout.one_way(counts), strict=True)
        ]
        both = layout.two_way(counts)
        two = [_half(a / len(real.train), both[pair] / len(cells)) for pair, a in layout.two_way(exact).items()]
        found[who] = {
            "one_way_mean": float(np.mean(one)),
            "one_way_worst": float(np.max(one)),
            "one_way_worst_of": layout.names[int(np.argmax(one))],
            "two_way_mean": float(np.mean(two)),
            "two_way_worst": float(np.max(two)),
        }
    return found


def _half(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.abs(one - other).sum() / 2)


def _one_hot(layout: MarginLayout, cells: Cells) -> NDArray[np.float64]:
    """The features as zeros and ones with a column of ones, [n, cells + 1]."""
    found = np.zeros((len(cells), layout.starts[-2] + 1))
    found[np.arange(len(cells))[:, None], np.array(layout.starts[:-2]) + cells[:, :-1]] = 1
    found[:, -1] = 1
    return found


def _fitted(layout: MarginLayout, cells: Cells) -> NDArray[np.float64]:
    """A logistic regression on the cells, by Newton's steps with a ridge."""
    x, y = _one_hot(layout, cells), cells[:, -1].astype(np.float64)
    weights, ridge = np.zeros(x.shape[1]), RIDGE * np.eye(x.shape[1])
    for _ in range(NEWTON_STEPS):
        risk = expit(x @ weights)
        slope = x.T @ (risk - y) + RIDGE * weights
        weights -= np.linalg.solve((x.T * (risk * (1 - risk))) @ x + ridge, slope)
    return weights


def _scores(layout: MarginLayout, weights: NDArray[np.float64], cells: Cells) -> NDArray[np.float64]:
    found: NDArray[np.float64] = _one_hot(layout, cells) @ weights
    return found


def _auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """The area under the ROC curve, ties half; None without either class."""
    n = int(positive.sum())
    if not 0 < n < len(positive):
        return None
    above = rankdata(scores)[positive].sum() - n * (n + 1) / 2
    return float(above / (n * (len(positive) - n)))


def _by_group(
    study: Study, real: Real, scores: Mapping[str, NDArray[np.float64]], outcome: NDArray[np.bool_]
) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for name, group in study.features.groups.items():
        for place, title in enumerate(group.titles):
            inside = real.groups[name] == place
            few = min(int(outcome[inside].sum()), int((~outcome[inside]).sum())) < LEAST_OF_A_CLASS
            found[f"{group.label or name}: {title}"] = {
                who: None if few else _auroc(each[inside], outcome[inside]) for who, each in scores.items()
            }
    return found


def _nearness(layout: MarginLayout, real: Real, synthetic: Cells, rng: np.random.Generator) -> dict[str, Any]:
    """Whether a synthetic patient is nearer to those it was made from, and whether those are nearer to it.

    Both are one half where nothing was copied. As many patients of either kind are compared, a tie is half.
    """
    n = min(len(real.train), len(real.held_out), MOST_COMPARED)
    made = _some(synthetic, MOST_COMPARED, rng)
    train, other = _some(real.train, n, rng), _some(real.held_out, n, rng)
    by_made: list[NDArray[np.float64]] = []
    by_real: list[NDArray[np.float64]] = []
    for patients in (train, other):
        one, two = _nearest(_points(layout, made), _points(layout, patients))
        by_made.append(one)
        by_real.append(two)
    wins = (by_made[0] < by_made[1]) + 0.5 * (by_made[0] == by_made[1])
    member = np.repeat([True, False], n)
    return {
        "nearest_record_share": float(wins.mean()),
        "nearest_record_error": float(1.96 * wins.std() / np.sqrt(len(wins))),
        "membership_auroc": _auroc(-np.concatenate(by_real), member),
    }


def _some(cells: Cells, most: int, rng: np.random.Generator) -> Cells:
    return cells if len(cells) <= most else cells[rng.choice(len(cells), most, replace=False)]


def _points(layout: MarginLayout, cells: Cells) -> NDArray[np.float32]:
    """Where patients lie, so that the L1 distance is Gower's: by attribute from 0 for one cell to 1 for the farthest.

    Levels, and a value and none, are 1 apart; ordered cells by how many lie between.
    """
    columns: list[NDArray[np.float64]] = []
    for a, attribute in enumerate(layout.attributes):
        found, known = cells[:, a], cells[:, a] < attribute.known
        if attribute.levels:
            columns += [0.5 * (found == cell) for cell in range(attribute.size)]
            continue
        # A missing one lies in the middle, and half apart from all in the second coordinate.
        columns.append(np.where(known, found / max(attribute.known - 1, 1), 0.5))
        columns.append(np.where(known, 0.0, 0.5))
    return np.column_stack(columns).astype(np.float32)


def _nearest(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[len(one)] and [len(other)] how far the nearest of the others is."""
    import torch

    others, nearest, back = torch.from_numpy(other), [], torch.full((len(other),), torch.inf)
    for chunk in torch.split(torch.from_numpy(one), 500):
        apart = torch.cdist(chunk, others, p=1)
        nearest.append(apart.min(dim=1).values)
        back = torch.minimum(back, apart.min(dim=0).values)
    # Sums in float32 differ in their last digits where distances tie.
    return tuple(np.round(found.numpy().astype(np.float64), 4) for found in (torch.cat(nearest), back))  # type: ignore[return-value]
