"""Private training of many hospitals at once: the steps of `site.private_engine`, stacked.

Each hospital's patients are drawn by its own coins and its sum gets noise from its own source, in the order in
which the private engine asks them, and each is charged and refused by itself. Batches are of as
many patients as the coins say, so a step is padded to the largest of them with places that count for nothing.
A sum is rounded to the lattice of its noise (`privacy.noise`); but for a sum that lies within rounding of the middle
between two lattice steps, a chance of some 10^-9 a number, the weights are those of the private engine to the last bit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from fedhealth.core.errors import FedHealthError
from fedhealth.models.weights import load_weights, weights_of
from fedhealth.privacy.noise import noisy_rows
from fedhealth.privacy.sampling import drawn_in_steps
from fedhealth.site.engines.plain import use_one_thread
from fedhealth.site.exact_network import ExactNetwork
from fedhealth.site.exact_sums import onto
from fedhealth.site.kernels.exact import ExactStack
from fedhealth.site.kernels.fit import FitJob, Force
from fedhealth.site.kernels.layers import Slot
from fedhealth.site.kernels.stack import copy_in, height, why_not
from fedhealth.site.private_engine import bears, check_rounding, copied
from fedhealth.site.steps import STEPS
from fedhealth.strategies.method import Fitted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from fedhealth.privacy.noise import NoiseSource
    from fedhealth.site.private_engine import PrivateEngine

#: Places of a batch come in so many.
_PLACES = 8


@dataclass(slots=True, eq=False)
class PrivateJob(FitJob):
    """One hospital's private training from given weights.

    Attributes:
        engine: the hospital's own, which is charged, draws and makes noise.
        rng: not used, its seed being known.
    """

    engine: PrivateEngine = field(kw_only=True)

    @property
    def alike(self) -> tuple[object, ...]:
        """What jobs must have in common to be stacked."""
        clipping = (self.engine.is_per_layer, self.engine.is_adaptive)
        return (id(self.network), self.training, self.only, self.pull.strength, frozenset(self.pull.shift), clipping)


class Sums(Protocol):
    """A way to work out the clipped sums of a stack's hospitals, made for all their steps."""

    def work_out(self, step: int, k: int, bounds: Sequence[float]) -> tuple[Sequence[float], torch.Tensor]:
        """Leave in the gradients the sums of the first k, each clipped to its bound.

        Given are, by hospital, how far rounding may move one patient's gradient, as `ExactNetwork.rounding` has it
        and never less; and [k, places] the norms before clipping, those of the patients drawn first. They are of the
        whole gradient, and nothing that counts where each array is clipped by itself.
        """
        ...


class Noise(Protocol):
    """What puts noise on sums: `privacy.noise.noisy_rows`, or the same to the last bit."""

    def __call__(
        self,
        totals: NDArray[np.float64],
        *,
        noise_multipliers: Sequence[float],
        sensitivities: Sequence[float],
        sources: Sequence[NoiseSource],
    ) -> NDArray[np.float64]:
        """As of `privacy.noise.noisy_rows`."""
        ...


@dataclass(slots=True)
class Stacked:
    """Jobs that are alike, the longest first, and what their steps are worked out from and left in.

    Attributes:
        drawn: by hospital and step, the patients.
        flat: [stack, d] the weights that move, one array after the other.
        weights: by name [stack, …] all weights; those that move are views of `flat`.
        gradient: [stack, d] as `flat`.
        gradients: by name [stack, …] views of `gradient`.
    """

    jobs: Sequence[PrivateJob]
    drawn: list[list[NDArray[np.int64]]]
    flat: torch.Tensor
    weights: dict[str, torch.Tensor]
    gradient: torch.Tensor
    gradients: dict[str, torch.Tensor]


def fit_private(
    jobs: Sequence[PrivateJob], sums: Callable[[Stacked], Sums] | None = None, noise: Noise = noisy_rows
) -> list[Fitted | FedHealthError]:
    """What private training gave each job, in the order of the jobs; or why a hospital refused.

    Args:
        jobs: of any kinds; those that can't be stacked are trained one after the other.
        sums: how clipped sums are worked out; by torch where it is None.
        noise: what puts noise on them.
    """
    use_one_thread()
    found: dict[int, Fitted | FedHealthError] = {}
    groups: dict[tuple[object, ...], list[tuple[int, int]]] = defaultdict(list)
    for place, job in enumerate(jobs):
        try:
            if why_not(job.network) or job.engine.patients is not None:
                found[place] = _fit_alone(job)
            else:
                groups[job.alike].append((job.engine.charge(job.training), place))
        except FedHealthError as error:
            found[place] = error
    for group in groups.values():
        # The longest first: those who still train are then always the first of a stack.
        group.sort(key=lambda each: -each[0])
        # A network over time needs room for every patient of a step.
        engines = [jobs[place].engine for _, place in group]
        rows = max(_PLACES, *(math.ceil(engine.course.rate * engine.size) for engine in engines))
        most = height(jobs[group[0][1]].network, rows)
        chunks = -(-len(group) // most)
        for start in range(chunks):
            chunk = group[len(group) * start // chunks : len(group) * (start + 1) // chunks]
            run = _Run([jobs[place] for _, place in chunk], [steps for steps, _ in chunk], sums or ByTorch, noise)
            found |= zip([place for _, place in chunk], run.fitted(), strict=True)
    return [found[place] for place in range(len(jobs))]


def _fit_alone(job: PrivateJob) -> Fitted:
    load_weights(job.network, job.weights)
    loss, steps = job.engine.fit(job.network, job.x, job.y, job.training, job.rng, pull=job.pull, only=job.only)
    return Fitted(weights_of(job.network), loss, steps)


class _Run:
    """Jobs that are alike, the longest first, each with as many steps as it was charged for."""

    def __init__(
        self, jobs: Sequence[PrivateJob], steps: Sequence[int], sums: Callable[[Stacked], Sums], noise: Noise
    ) -> None:
        first = jobs[0]
        self._jobs, self._steps, self._engines = jobs, steps, [job.engine for job in jobs]
        shapes = {name: weight.shape for name, weight in first.network.named_parameters()}
        moving = [name for name in shapes if first.only is None or name in first.only]
        flat, weights = _flat(len(jobs), {name: shapes[name] for name in moving})
        weights |= _flat(len(jobs), {name: shape for name, shape in shapes.items() if name not in moving})[1]
        for name, array in weights.items():
            copy_in(array, [job.weights[name] for job in jobs])
        drawn = [_drawn(job, count) for job, count in zip(jobs, steps, strict=True)]
        self._stack = Stacked(jobs, drawn, flat, weights, *_flat(len(jobs), {name: shapes[name] for name in moving}))
        self._sums, self._noise = sums(self._stack), noise
        self._expected = np.array([[engine.course.rate * engine.size] for engine in self._engines])
        self._multipliers = [engine.noise_multiplier for engine in self._engines]
        self._most = [engine.most for engine in self._engines]
        self._refused: dict[int, FedHealthError] = {}

    def fitted(self) -> list[Fitted | FedHealthError]:
        """The weights after all steps, or why a hospital refused; each engine's bound has moved with its steps."""
        first, stack = self._jobs[0], self._stack
        optimiser = STEPS[first.training.optimiser]([stack.flat], first.training)
        slots = {name: Slot(stack.weights[name], gradient) for name, gradient in stack.gradients.items()}
        force = Force([job.pull for job in self._jobs], slots) if first.pull.strength or first.pull.shift else None
        k = len(self._jobs)
        for step in range(self._steps[0]):
            still = sum(steps > step for steps in self._steps)
            if still < k:
                k = still
                optimiser.narrow(k)
            self._work_out(step, k)
            if force is not None:
                force.add([gradient[:k] for gradient in stack.gradients.values()], k)
            optimiser.take([stack.gradient[:k]])
        return [self._refused.get(j) or self._result(j) for j in range(len(self._jobs))]

    def _work_out(self, step: int, k: int) -> None:
        """Leave in the gradients those of a step: the noisy sums over the expected numbers of patients."""
        engines = self._engines[:k]
        roundings, norms = self._sums.work_out(step, k, [engine.bound for engine in engines])
        self._check_rounding(roundings)
        self._make_noisy(k)
        if engines[0].is_adaptive:
            for j, engine in enumerate(engines):
                if j not in self._refused:
                    try:
                        engine.follow(norms[j, : len(self._stack.drawn[j][step])])
                    except FedHealthError as error:
                        self._refused[j] = error

    def _make_noisy(self, k: int) -> None:
        """Put noise on each hospital's sum, and make of it a mean."""
        own = [j for j in range(k) if j not in self._refused]
        try:
            self._add_noise(own)
        except FedHealthError:
            # Whose sum or setting it was has to come out: no noise was drawn yet.
            for j in own:
                try:
                    self._add_noise([j])
                except FedHealthError as error:
                    self._refused[j] = error

    def _add_noise(self, own: list[int]) -> None:
        if not own:
            return
        sums = self._stack.gradient.numpy()
        # Where nobody refused they are a slice, which is not copied.
        rows = slice(len(own)) if own[-1] == len(own) - 1 else own
        told = self._noise(
            sums[rows],
            noise_multipliers=[self._multipliers[j] for j in own],
            sensitivities=[self._engines[j].sensitivity for j in own],
            sources=[self._engines[j].source for j in own],
        )
        sums[rows] = told / self._expected[rows]

    def _check_rounding(self, roundings: Sequence[float]) -> None:
        """Let go whom `check_rounding` refuses; it goes by the looser bound where that will do."""
        for j, rounding in enumerate(roundings):
            most, bound = self._most[j], self._engines[j].bound
            if j in self._refused or bears(rounding, patients=most, bound=bound):
                continue
            network = copied(self._jobs[j].network)
            network.load_state_dict({name: array[j] for name, array in self._stack.weights.items()})
            try:
                check_rounding(ExactNetwork(network), patients=most, bound=bound)
            except FedHealthError as refused:
                self._refused[j] = refused

    def _result(self, j: int) -> Fitted:
        job = self._jobs[j]
        weights = {name: self._stack.weights[name][j].numpy().astype(job.weights[name].dtype) for name in job.weights}
        return Fitted(weights, math.nan, self._steps[j])


class ByTorch:
    """Clipped sums of all hospitals at once, by one operation of torch after the other."""

    def __init__(self, stack: Stacked) -> None:
        jobs = self._jobs = stack.jobs
        self._stack, self._moving = stack, list(stack.gradients)
        self._is_per_layer = jobs[0].engine.is_per_layer
        # The first row is nobody's: it stands where a batch has no patient.
        starts = np.cumsum([1, *(len(job.y) for job in jobs)])
        x, y = np.zeros((starts[-1], jobs[0].x.shape[1])), np.zeros(starts[-1])
        for job, start in zip(jobs, starts.tolist(), strict=False):
            x[start : start + len(job.y)], y[start : start + len(job.y)] = job.x, job.y
        self._x, self._y, self._starts = onto(torch.from_numpy(x)), torch.from_numpy(y), starts

    def work_out(self, step: int, k: int, bounds: Sequence[float]) -> tuple[Sequence[float], torch.Tensor]:
        """As of `Sums`."""
        exact = ExactStack(self._jobs[0].network, self._stack.weights, k)
        bound = torch.tensor(bounds, dtype=torch.float64)
        x, y, is_in = self._batches(step, k)
        summed, norms = exact.clipped(x, y, is_in, self._moving, bound, per_layer=self._is_per_layer)
        for gradient, total in zip(self._stack.gradients.values(), summed, strict=True):
            gradient[:k] = total.view_as(gradient[:k])
        return exact.rounding().tolist(), norms[0]

    def _batches(self, step: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[k, places, inputs] rows, [k, places] outcomes, and 1 where a patient stands, else 0."""
        batches = [own[step] for own in self._stack.drawn[:k]]
        places = np.zeros((k, max(-(-max(map(len, batches)) // _PLACES), 1) * _PLACES), dtype=np.int64)
        for own, batch, start in zip(places, batches, self._starts, strict=False):
            own[: len(batch)] = batch
            own[: len(batch)] += start
        rows = torch.from_numpy(places)
        flat = rows.view(-1)
        x, y = self._x.index_select(0, flat), self._y.index_select(0, flat)
        return x.view(*rows.shape, -1), y.view(rows.shape), (rows > 0).double()


def _drawn(job: PrivateJob, steps: int) -> list[NDArray[np.int64]]:
    engine = job.engine
    return drawn_in_steps(len(job.y), engine.course.rate, engine.source.words(), steps)


def _flat(stack: int, shapes: Mapping[str, torch.Size]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """[stack, d] room for arrays of these shapes, one after the other, and by name the view of each."""
    ends = np.cumsum([0, *(shape.numel() for shape in shapes.values())]).tolist()
    flat = torch.zeros(stack, ends[-1], dtype=torch.float64)
    views = {
        name: flat[:, start:end].view(stack, *shape)
        for (name, shape), start, end in zip(shapes.items(), ends, ends[1:], strict=False)
    }
    return flat, views
