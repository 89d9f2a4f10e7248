"""The private engine: steps of which each is a noisy sum over patients drawn in secret.

It takes the place of the study's engine where `privacy=dp_sgd`, for one request. It counts the
steps that were charged and takes no more; it tells no loss and no gradient by itself.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch

from fedhealth.core.errors import Refused
from fedhealth.privacy.dp_sgd import DpSgd
from fedhealth.privacy.noise import noisy
from fedhealth.privacy.patient_level import SLACK
from fedhealth.privacy.sampling import drawn
from fedhealth.site.engines.plain import use_one_thread
from fedhealth.site.exact_network import ExactNetwork
from fedhealth.site.patient_gradients import clipped_sum
from fedhealth.site.steps import STEPS, Force

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.pull import Pull
    from fedhealth.core.risk_sets import Outcome
    from fedhealth.core.training import LocalTraining
    from fedhealth.privacy.noise import NoiseSource, Words
    from fedhealth.privacy.patient_level import Course, PatientLevel

#: How near the bound a norm counts as half inside where clipping is adaptive, as a share of it.
RAMP = 0.05
#: Patients whose gradients are held at once: where each is written out it may have thousands of numbers.
AT_ONCE = 2048


@dataclass(slots=True)
class PrivateEngine:
    """DP-SGD (Abadi et al. 2016, arXiv 1607.00133, algorithm 1), sampling by Poisson's way.

    The sum is divided by the expected number of patients in a step, never by the drawn one.

    One patient moves a step's sum by the bound and by how the others' gradients round without
    that patient. Weights are not trusted to keep that small: what goes forward is exact
    (`site.exact_network`). What goes back is exact too through a network over time (`site.exact_series`); through
    others it is bounded, and a step at whose weights the bound is not within `SLACK` of the clip is refused. Scores are exact too, so nobody's bin in a histogram depends on others.

    Attributes:
        mechanism: the study's settings.
        course: the rate and the noise of this round.
        size: the noisy number of training patients, which may be known.
        left: the steps that were charged and not yet taken.
        bound: the norm to clip to, which moves where clipping is adaptive.
        source: where coins and noise come from.
        patients: [n] whose row each is, numbered from 0; None for one row a patient.
    """

    mechanism: PatientLevel
    course: Course
    size: int
    left: int
    bound: float
    source: NoiseSource
    patients: NDArray[np.int64] | None = None

    def fit(
        self,
        network: nn.Module,
        x: NDArray[np.float32],
        y: Outcome,
        training: LocalTraining,
        rng: np.random.Generator,
        *,
        pull: Pull | None = None,
        only: Collection[str] | None = None,
    ) -> tuple[float, int]:
        """No loss, so NaN, and the steps taken, after changing the network's weights in place.

        `rng` is not used, its seed being known. How many steps depends on nobody's data.

        Raises:
            Refused: more steps than were charged.
        """
        del rng
        steps = self.charge(training)
        use_one_thread()
        twin = copied(network).train()
        moving = {name: weight for name, weight in twin.named_parameters() if only is None or name in only}
        weights, names = list(moving.values()), list(moving)
        optimiser, exact = STEPS[training.optimiser](weights, training), ExactNetwork(twin)
        force = Force(moving, pull) if pull else None
        coins = self.source.words()
        rows = Rows(torch.from_numpy(x).double(), torch.from_numpy(y).double(), self.patients)
        for _ in range(steps):
            gradients = self._noisy_mean(exact, names, weights, rows, coins)
            with torch.no_grad():
                optimiser.take(force.added(gradients) if force else gradients)
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if name in moving:
                    weight.copy_(moving[name])
        return math.nan, steps

    def gradient(self, network: nn.Module, x: NDArray[np.float32], y: Outcome) -> NoReturn:
        """Never: it would be without noise.

        Raises:
            Refused: always.
        """
        del network, x, y
        raise Refused(
            "not_private",
            rule="a method must learn from patients by `fit` alone where privacy=dp_sgd",
            found="one that asks for a gradient",
            remedy="Use strategy=fedavg, or another whose `private_fits` says so.",
        )

    def score(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n] what the network gives, each row's bit for bit the same whatever is beside it.

        The histogram of it gets its noise where it leaves.

        Raises:
            Refused: a weight is not finite.
        """
        return exact_scores(network, x)

    def predict(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n] probabilities of the outcome, as exact as scores.

        Raises:
            Refused: a weight is not finite.
        """
        return exact_risks(network, x)

    def charge(self, training: LocalTraining) -> int:
        """How many steps the training takes, off those that are left.

        Raises:
            Refused: more than were charged.
        """
        steps = self.mechanism.steps(training, self.course.rate)
        if steps > self.left:
            raise Refused(
                "budget_spent",
                rule="a round must take no more steps than it was charged for",
                found=f"{steps} steps, {self.left} left",
                remedy="Mend the method's `private_fits`.",
            )
        self.left -= steps
        return steps

    @property
    def is_per_layer(self) -> bool:
        """Whether each weight array is clipped by itself."""
        return self.mechanism.clipping == "per_layer"

    @property
    def is_adaptive(self) -> bool:
        """Whether the bound follows the norms."""
        return isinstance(self.mechanism, DpSgd) and self.mechanism.clipping == "adaptive"

    @property
    def noise_multiplier(self) -> float:
        """Of the noise on a step's sum."""
        return self.mechanism.sum_noise(self.course, self.size)

    @property
    def sensitivity(self) -> float:
        """How far a patient moves a step's sum at most, rounding included."""
        return self.bound * (1 + SLACK)

    @property
    def most(self) -> float:
        """How many patients there can be in a step, by what is known outside."""
        # The number told is off by less than twelve deviations of its noise, but for one chance in 10^32. It was told
        # when the study began, and files are read anew: there may be twice as many since, or a thousand in a small place.
        return 2 * self.size + 1000 + 12 * self.mechanism.statistics_noise

    def clipped_sum(
        self, exact: ExactNetwork, names: list[str], rows: Rows, taken: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[d] the sum of the clipped gradients of the patients `taken`, without noise, and their norms before clipping.

        It is for a step and for an audit; it never leaves.
        """
        return clipped_total(exact, names, rows, taken, self.bound, per_layer=self.is_per_layer)

    def _noisy_mean(
        self, exact: ExactNetwork, names: list[str], weights: list[torch.nn.Parameter], rows: Rows, coins: Words
    ) -> list[torch.Tensor]:
        """The gradient of a step, array by array."""
        sizes = [weight.numel() for weight in weights]
        check_rounding(exact, patients=self.most, bound=self.bound)
        taken = drawn(rows.patients, self.course.rate, coins)
        summed, norms = self.clipped_sum(exact, names, rows, taken)
        total = noisy(
            summed.numpy(), noise_multiplier=self.noise_multiplier, sensitivity=self.sensitivity, source=self.source
        )
        self.follow(norms[0])
        parts = torch.split(torch.from_numpy(total / (self.course.rate * self.size)), sizes)
        return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]

    def follow(self, norms: torch.Tensor) -> None:
        """Move the bound towards the quantile of a step's norms, [patients], where clipping is adaptive.

        It goes by algorithm 1 of Andrew et al. (2021, arXiv 1905.03871). A norm within `RAMP` of the bound counts in part: counted whole, it would jump with how it rounds.
        """
        mechanism, expected = self.mechanism, self.course.rate * self.size
        if not isinstance(mechanism, DpSgd) or mechanism.clipping != "adaptive":
            return
        inside = float((((1 + RAMP) * self.bound - norms) / (2 * RAMP * self.bound)).clamp(0, 1).sum())
        told = noisy(
            [inside - len(norms) / 2],
            noise_multiplier=2 * mechanism.count_noise(self.course, self.size),
            sensitivity=0.5 * (1 + SLACK / RAMP),
            source=self.source,
        )
        share = float(told[0]) / expected + 0.5
        self.bound *= math.exp(-mechanism.clip_rate * (min(max(share, 0.0), 1.0) - mechanism.quantile))


class Rows:
    """The patients' rows, found by patient."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, patients: NDArray[np.int64] | None) -> None:
        self._x, self._y, self._whose = x, y, patients
        self.patients = len(y) if patients is None else int(patients.max(initial=-1)) + 1

    def of(self, taken: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The rows of these patients, and whose each is by place in `taken`; None where each has one."""
        if self._whose is None:
            rows = torch.from_numpy(taken)
            return self._x.index_select(0, rows), self._y.index_select(0, rows), None
        kept = np.flatnonzero(np.isin(self._whose, taken))
        return self._x[kept], self._y[kept], torch.from_numpy(np.searchsorted(taken, self._whose[kept]))


def clipped_total(
    exact: ExactNetwork, names: list[str], rows: Rows, taken: NDArray[np.int64], bound: float, *, per_layer: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """[d] the sum of the clipped gradients of the patients `taken`, and their norms before clipping."""
    if not len(taken):
        return torch.zeros(exact.size(names), dtype=torch.float64), torch.zeros(1, 0)
    total, norms = torch.zeros(exact.size(names), dtype=torch.float64), []
    for start in range(0, len(taken), AT_ONCE):
        some = taken[start : start + AT_ONCE]
        x, y, whose = rows.of(some)
        found = exact.gradients(x, y, names)
        if whose is not None:
            found = [each.by_patient(whose, len(some)) for each in found]
        sums, own = clipped_sum(found, bound, per_layer=per_layer)
        total += torch.cat(sums)
        norms.append(own)
    return total, torch.cat(norms, dim=1)


def bears(rounding: float, *, patients: float, bound: float) -> bool:
    """Whether so much rounding in each patient's gradient may be borne in a sum clipped to `bound`."""
    return patients * rounding <= SLACK * bound / 2


def check_rounding(exact: ExactNetwork, *, patients: float, bound: float) -> None:
    """Refuse weights at which rounding alone could make one patient's part too large.

    It goes by what is known outside, so a refusal tells nothing: the weights, and how many `patients` there
    can be in a step.

    Raises:
        Refused: so they are.
    """
    if bears(exact.rounding(), patients=patients, bound=bound):
        return
    closer = exact.rounding(closely=True)
    if not bears(closer, patients=patients, bound=bound):
        raise Refused(
            "weights_too_large",
            rule=f"rounding must move a private sum by at most {SLACK / 2:.1e} of the clip",
            found=f"weights at which it could by {patients * closer / bound:.1e}",
            remedy="Lower the learning rate, or use a smaller model.",
        )


def exact_scores(network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """[n] what the network gives, each row's bit for bit the same whatever is beside it.

    Raises:
        Refused: a weight is not finite.
    """
    use_one_thread()
    found: NDArray[np.float64] = ExactNetwork(copied(network)).scores(torch.from_numpy(x).double()).numpy()
    return found


def exact_risks(network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """[n] probabilities of the outcome, as exact as scores.

    Raises:
        Refused: a weight is not finite.
    """
    return risks_of(exact_scores(network, x))


def risks_of(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] the probability that each score stands for, the same to the last bit wherever it stands."""
    # One by one: an array's exponentials differ in the last bit with their place in it.
    return np.array([1 / (1 + math.exp(-max(score, -700.0))) for score in scores.tolist()])


def copied(network: nn.Module) -> nn.Module:
    """The network in float64, on the processor."""
    return copy.deepcopy(network).cpu().double()
