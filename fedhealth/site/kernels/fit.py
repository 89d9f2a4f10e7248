"""Training of many hospitals at once: who goes into a stack with whom, and the steps of a stack."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import softplus

from fedhealth.core.pull import Arrays, Pull
from fedhealth.site.kernels.layers import product
from fedhealth.site.kernels.stack import Stack, blank_for, copy_in, height
from fedhealth.site.steps import STEPS
from fedhealth.strategies.method import Fitted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.training import LocalTraining
    from fedhealth.site.kernels.layers import Slot

#: Rows are padded to a multiple of this, so that no row's place is at the odd end of an array, where a processor
#: works out exponentials another way.
LANE = 32
#: About as many numbers of patients' rows are gathered at a time: 1 MB of float32.
_BLOCK = 2**18


@dataclass(slots=True, eq=False)
class FitJob:
    """One hospital's training from given weights. Not to be written to; to be frozen takes longer than to be made.

    Attributes:
        network: gives the shape; its own weights are not read.
        weights: where training starts; hospitals that start alike best give the same object.
        x: [n, inputs], n being at least 1.
        y: [n] 0 or 1.
        training: the settings of this round.
        rng: draws the order of the patients.
        pull: what is added to each gradient.
        only: the parameters that move; None for all.
    """

    network: nn.Module
    weights: Mapping[str, NDArray[np.generic]]
    x: NDArray[np.floating[Any]]
    y: NDArray[np.floating[Any]]
    training: LocalTraining
    rng: np.random.Generator
    pull: Pull = field(default_factory=Pull)
    only: frozenset[str] | None = None

    @property
    def steps(self) -> int:
        """How many mini-batches it takes."""
        return self.training.steps_for(len(self.y))

    @property
    def rows(self) -> int:
        """How many rows a mini-batch is padded to: the hospital's own number, whoever is beside it."""
        largest = _lanes(self.training.batch_size)
        return min(LANE << (_lanes(len(self.y)) // LANE - 1).bit_length(), largest)

    @property
    def alike(self) -> tuple[object, ...]:
        """What jobs must have in common to be stacked."""
        pull = (self.pull.strength, frozenset(self.pull.shift))
        return (id(self.network), self.training, self.rows, self.only, pull, self.x.dtype)


def fit_all(jobs: Sequence[FitJob], device: str) -> list[Fitted]:
    """What training gave each job, in the order of the jobs; each result is its job's own bit for bit.

    The jobs' networks are known to be stackable.
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place, job in enumerate(jobs):
        groups[job.alike].append(place)
    found: dict[int, Fitted] = {}
    for places in groups.values():
        # The longest first: those who still train are then always the first of a stack.
        places.sort(key=lambda place: -jobs[place].steps)
        most = height(jobs[places[0]].network, jobs[places[0]].rows)
        for chunk in np.array_split(places, -(-len(places) // most)):
            found |= zip(chunk.tolist(), _fit_stack([jobs[place] for place in chunk], device), strict=True)
    return [found[place] for place in range(len(jobs))]


def _fit_stack(jobs: Sequence[FitJob], device: str) -> list[Fitted]:
    first = jobs[0]
    training = first.training
    batches = _Batches(jobs, device)
    stack = Stack(first.network, len(jobs), first.rows, batches.features)
    stack.load([job.weights for job in jobs])
    moving = {name: slot for name, slot in stack.slots.items() if first.only is None or name in first.only}
    slots = list(moving.values())
    steps = STEPS[training.optimiser]([slot.weight for slot in slots], training)
    force = Force([job.pull for job in jobs], moving) if first.pull.strength or first.pull.shift else None
    rows = _Rows(jobs, stack)
    k = len(jobs)
    for step in range(first.steps):
        still = batches.living(step)
        if still < k:
            rows.keep(still, k)
            k = still
            steps.narrow(k)
        score = stack.forward(batches.rows(step, k))[..., 0]
        stack.backward(batches.slope(step, score)[..., None])
        gradients = [slot.gradient[:k] for slot in slots]
        if training.clip_norm is not None:
            _clip(gradients, training.clip_norm)
        if force is not None:
            force.add(gradients, k)
        steps.take(gradients)
    rows.keep(0, k)
    losses = batches.losses()
    return [Fitted(weights, loss, job.steps) for job, weights, loss in zip(jobs, rows.by_job(), losses, strict=True)]


class _Batches:
    """The mini-batches of a stack: rows, outcomes and shares by step, hospital and place in the batch.

    A place that no patient fills has a share of 0 in the mean, and so in the gradient.
    """

    def __init__(self, jobs: Sequence[FitJob], device: str) -> None:
        first = jobs[0]
        counts = np.array([job.steps for job in jobs])
        self._counts = counts
        shape = (first.steps, len(jobs), first.rows)
        table, shares = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=first.x.dtype)
        # The first row is nobody's: it stands where a batch has no patient. 0 times what is no number would be none.
        features = blank_for(first.network, 1 + sum(len(job.y) for job in jobs), first.x.dtype)
        size, start = first.training.batch_size, 1
        for j, job in enumerate(jobs):
            n = len(job.y)
            features[start : start + n, : job.x.shape[1]] = job.x
            _deal(table[: job.steps, j], shares[: job.steps, j], job, min(size, first.rows), start)
            start += n
        outcome = np.concatenate([[0], *(job.y for job in jobs)]).astype(first.x.dtype, copy=False)
        self.features = torch.from_numpy(features).to(device)
        self._table, self._shares = torch.from_numpy(table).to(device), torch.from_numpy(shares).to(device)
        self._outcome = torch.from_numpy(outcome[table]).to(device)
        #: y / n, taken off sigmoid(score) / n.
        self._taken_off = self._shares * self._outcome
        self._scores = torch.zeros_like(self._shares)
        self._slope = torch.empty_like(self._shares[0])
        self._block = max(_BLOCK // (len(jobs) * first.rows * features.shape[1]), 1)
        self._gathered: tuple[int, int, torch.Tensor] | None = None

    def living(self, step: int) -> int:
        """How many hospitals still train; they are the first."""
        return int(np.count_nonzero(self._counts > step))

    def rows(self, step: int, k: int) -> torch.Tensor:
        """[k, rows, inputs and the ones] of a step."""
        if self._gathered is None or self._gathered[1] != k or step >= self._gathered[0] + len(self._gathered[2]):
            ahead = self._table[step : step + self._block, :k]
            found = self.features.index_select(0, ahead.reshape(-1))
            self._gathered = (step, k, found.view(*ahead.shape, -1))
        return self._gathered[2][step - self._gathered[0]]

    def slope(self, step: int, score: torch.Tensor) -> torch.Tensor:
        """[k, rows] the gradient of each hospital's mean log loss by its scores, which are kept for `losses`."""
        k = len(score)
        self._scores[step, :k] = score
        found = torch.sigmoid(self._scores[step, :k], out=self._slope[:k])
        return found.mul_(self._shares[step, :k]).sub_(self._taken_off[step, :k])

    def losses(self) -> list[float]:
        """Each hospital's mean over its steps of the mini-batch's mean log loss."""
        each = (softplus(self._scores) - self._scores * self._outcome).mul_(self._shares)
        by_job = np.ascontiguousarray(each.double().transpose(0, 1).cpu().numpy())
        # Of its own steps alone: zeros at the end would change how the others are added up.
        return [
            float(own[:count].sum()) / max(count, 1) for own, count in zip(by_job, self._counts.tolist(), strict=True)
        ]


class _Rows:
    """What each hospital's weights have become: rows of one array, written when the hospital is done."""

    def __init__(self, jobs: Sequence[FitJob], stack: Stack) -> None:
        self._slots, self._jobs = stack.slots, jobs
        names = {name: slot.weight.shape[1:] for name, slot in stack.slots.items()}
        sizes = np.cumsum([0, *(shape.numel() for shape in names.values())])
        any_weight = next(iter(stack.slots.values())).weight
        self._rows = any_weight.new_empty(len(jobs), int(sizes[-1]))
        self._views = {
            name: self._rows[:, a:b].view(len(jobs), *shape)
            for (name, shape), a, b in zip(names.items(), sizes, sizes[1:], strict=False)
        }

    def keep(self, start: int, end: int) -> None:
        """Write the rows of these hospitals."""
        for name, slot in self._slots.items():
            self._views[name][start:end] = slot.weight[start:end]

    def by_job(self) -> list[Arrays]:
        """By hospital its weights, views of the rows; nobody writes there again."""
        views = {name: view.cpu().numpy() for name, view in self._views.items()}
        return [{name: views[name][j] for name in job.weights} for j, job in enumerate(self._jobs)]


class Force:
    """The pulls on a stack's weights; where each hospital is pulled to is its own."""

    def __init__(self, pulls: Sequence[Pull], moving: Mapping[str, Slot]) -> None:
        first = pulls[0]
        self._strength, self._weights = first.strength, [slot.weight for slot in moving.values()]
        self._anchors = [_like(slot, [pull.anchor[name] for pull in pulls]) for name, slot in moving.items()] if first.strength else []  # fmt: skip
        self._shifts = [
            _like(slot, [pull.shift[name] for pull in pulls]) if name in first.shift else None
            for name, slot in moving.items()
        ]

    def add(self, gradients: Sequence[torch.Tensor], k: int) -> None:
        """Add what pulls the weights where they are."""
        for gradient, shift in zip(gradients, self._shifts, strict=True):
            if shift is not None:
                gradient.add_(shift[:k])
        for gradient, weight, anchor in zip(gradients, self._weights, self._anchors, strict=False):
            gradient.add_(weight[:k] - anchor[:k], alpha=self._strength)


def _like(slot: Slot, arrays: Sequence[NDArray[np.generic]]) -> torch.Tensor:
    found = torch.empty_like(slot.weight)
    copy_in(found, arrays)
    return found


def _clip(gradients: Sequence[torch.Tensor], norm: float) -> None:
    """Scale each hospital's gradients down together to at most that L2 norm."""
    k = len(gradients[0])
    total = gradients[0].new_zeros(k, 1, 1)
    for gradient in gradients:
        flat = gradient.reshape(k, 1, -1)
        total += product(flat, flat.transpose(1, 2), out=torch.empty_like(total))
    scale = torch.clamp(norm / (total.sqrt_() + 1e-6), max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(k, *[1] * (gradient.ndim - 1)))


def _deal(table: NDArray[np.int64], shares: NDArray[np.floating[Any]], job: FitJob, size: int, start: int) -> None:
    """Write a job's mini-batches, as `engines.plain.batches` deals them: whole passes in fresh order."""
    n, steps = len(job.y), len(table)
    # A mini-batch holds no more patients than there are.
    per_epoch = -(-n // job.training.batch_size)
    width = min(size, n)
    order, share = np.zeros((per_epoch, width), dtype=np.int64), np.zeros((per_epoch, width), dtype=shares.dtype)
    share.reshape(-1)[:n] = 1
    share /= share.sum(axis=1, keepdims=True)
    for at in range(0, steps, per_epoch):
        order.reshape(-1)[:n] = job.rng.permutation(n)
        order.reshape(-1)[:n] += start
        taken = min(per_epoch, steps - at)
        table[at : at + taken, :width], shares[at : at + taken, :width] = order[:taken], share[:taken]


def _lanes(n: int) -> int:
    return -(-n // LANE) * LANE
