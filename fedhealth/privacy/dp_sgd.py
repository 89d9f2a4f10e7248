"""DP-SGD: noise at the hospital, in every step of training and on every count that leaves.

What a hospital tells of its patients, and how each is made private for a patient with all records:

| what | how |
|---|---|
| training | each step a sum over patients drawn by secret coins, each patient's mean gradient clipped, with noise |
| how many patients there are | noise on three counts, one of which a patient is in; every weight in a mean is made of it |
| scores | noise on a histogram by outcome, in one cell of which a patient is |
| means and deviations for scaling | never asked: the study scales by its feature spec's ranges |
| training losses | never sent |

Whatever else follows from these. Layers that stay at a hospital are trained by private steps as
well and charged like them: they shape the layers that leave and the scores that are counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedhealth.core.errors import Refused, SettingError
from fedhealth.core.privacy_event import Event, Gaussian, PoissonSampledGaussian, Unbounded
from fedhealth.core.seeds import seed_of
from fedhealth.core.settings import settings
from fedhealth.core.spend import Spend
from fedhealth.core.update import PrivateUpdate, Update

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedhealth.core.training import LocalTraining
    from fedhealth.privacy.guarantee import Guarantee
    from fedhealth.privacy.noise import NoiseSource

#: The one array of an update that counts patients.
SUM = "sum"


@dataclass(frozen=True, slots=True)
class Course:
    """How one hospital trains privately in every round.

    Attributes:
        rate: each patient's chance to be in a step.
        steps: sums that leave in a round.
        noise_multiplier: the noise's standard deviation over how far a patient moves such a sum.
    """

    rate: float
    steps: int
    noise_multiplier: float


@settings
class DpSgd:
    """DP-SGD (Abadi et al. 2016, arXiv 1607.00133) at each hospital, the unit being a patient with all records.

    Attributes:
        epsilon: what a patient loses at most over the whole study, counts and scores included; the
            noise of training is solved from it for all planned rounds. Null where `noise_multiplier` is given.
        noise_multiplier: the noise of training, over `max_grad_norm`; null where `epsilon` is given.
        delta: the chance with which the bound may fail; less than one over a hospital's patients.
        max_grad_norm: the L2 norm to which a patient's gradient is clipped.
        sampling_rate: each patient's chance to be in a step; null for `training.batch_size` over
            the hospital's noisy number of training patients.
        clipping: `flat`, the whole gradient at once; `per_layer`, each weight array by itself, to
            `max_grad_norm` over the root of their number; `adaptive`, flat with a bound that follows
            a quantile of the norms (Andrew et al. 2021, arXiv 1905.03871), from `max_grad_norm` on.
        quantile: the share of patients that `adaptive` leaves unclipped.
        clip_rate: how fast `adaptive` follows, on the log scale.
        statistics_noise: the noise on counts of patients, in patients.
        evaluation_noise: the noise on each cell of a score histogram, in patients.
        evaluate_every: rounds between two looks at the validation patients; null for none, and
            the last round's model is taken.
        score_bins: cells of a score histogram.
        insecure_seed: makes the noise follow from a seed, to repeat a run bit by bit. Then nothing is
            private, and everything that would print a bound says so.
    """

    epsilon: float | None = 2.0
    noise_multiplier: float | None = None
    delta: float = 1e-5
    max_grad_norm: float = 1.0
    sampling_rate: float | None = 0.1
    clipping: Literal["flat", "per_layer", "adaptive"] = "flat"
    quantile: float = 0.5
    clip_rate: float = 0.2
    statistics_noise: float = 10.0
    evaluation_noise: float = 4.0
    evaluate_every: int | None = None
    score_bins: int = 20
    insecure_seed: int | None = None

    def __post_init__(self) -> None:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            found = "neither" if self.epsilon is None else "both"
            raise SettingError(
                f"one of `privacy.epsilon` and `privacy.noise_multiplier` must be given, found {found}. "
                "Set the other to null."
            )
        for name in (
            "epsilon",
            "noise_multiplier",
            "max_grad_norm",
            "clip_rate",
            "statistics_noise",
            "evaluation_noise",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise SettingError(
                    f"`privacy.{name}` must be above 0 and finite, found {value}. Use privacy=plain for no protection."
                )
        if not 1e-10 <= self.delta < 1:
            raise SettingError(
                f"`privacy.delta` must lie in [1e-10, 1), found {self.delta}. Use less than one over a hospital's patients."
            )
        if self.sampling_rate is not None and not 0 < self.sampling_rate <= 1:
            raise SettingError(
                f"`privacy.sampling_rate` must lie in (0, 1], found {self.sampling_rate}. Use null to go by training.batch_size."
            )
        if not 0 < self.quantile < 1:
            raise SettingError(f"`privacy.quantile` must lie between 0 and 1, found {self.quantile}. Try 0.5.")
        if self.evaluate_every is not None and self.evaluate_every < 1:
            raise SettingError(
                f"`privacy.evaluate_every` must be at least 1 round, found {self.evaluate_every}. Use null for the end alone."
            )
        if self.score_bins < 2:
            raise SettingError(f"`privacy.score_bins` must be at least 2, found {self.score_bins}. Try 20.")

    @property
    def is_private(self) -> bool:
        """Whether the noise protects anybody."""
        return self.insecure_seed is None

    def course(self, fits: Sequence[LocalTraining], *, rounds: int, size: float) -> Course:
        """How a hospital trains in every round of a study.

        Where `sampling_rate` is null the rate, and with it the noise, follows from a number that was
        told with noise. Then the events that compose were not all fixed beforehand, which
        composition by privacy loss distributions takes them to be; set a rate to be strict.

        Args:
            fits: the trainings of a round, one after the other.
            rounds: how many rounds are planned.
            size: the hospital's number of training patients as it was told, so with noise; it counts only
                where `sampling_rate` is null.

        Raises:
            SettingError: `epsilon` leaves nothing for training, or a batch is larger than the cohort.
        """
        rate = self.sampling_rate
        if rate is None:
            batch = fits[0].batch_size
            if batch > size:
                raise SettingError(
                    f"`training.batch_size` must be at most a hospital's training patients, found {batch} of about "
                    f"{size:.0f}. Lower it, or set privacy.sampling_rate."
                )
            rate = batch / size
        steps = sum(self.steps(fit, rate) for fit in fits)
        noise = self.noise_multiplier
        if noise is None and self.epsilon is not None:
            from fedhealth.privacy.accountant import noise_multiplier

            noise = noise_multiplier(
                epsilon_target=self.epsilon,
                delta=self.delta,
                sampling_rate=rate,
                steps=steps * rounds,
                beside=tuple(self._beside(rounds)),
            )
        return Course(rate, steps, float(noise or 0))

    def steps(self, training: LocalTraining, rate: float) -> int:
        """How many steps a training takes; a pass is as many as it takes to draw everybody once on average."""
        return training.steps if training.steps is not None else training.epochs * math.ceil(1 / rate - 1e-9)

    def event(self, what: str, course: Course | None = None) -> Event:
        """What it is to let `what` out once; training is that of `course`.

        Raises:
            Refused: it has no private form.
        """
        if what == "train" and course is not None:
            found: Event = PoissonSampledGaussian(
                noise_multiplier=course.noise_multiplier, sampling_rate=course.rate, count=course.steps
            )
        else:
            found = Gaussian(noise_multiplier=self._noise_on(what))
        return found if self.is_private else Unbounded()

    def planned_times(self, what: str, rounds: int) -> int:
        """How often a study of so many rounds lets `what` out: what `planned` counts, and a hospital allows.

        Raises:
            Refused: it has no private form.
        """
        if what == "train":
            return rounds
        self._noise_on(what)
        return self.looks(rounds) if what == "evaluate" else 1

    def looks(self, rounds: int) -> int:
        """How many evaluations so many rounds have, the last one on test patients included."""
        return 1 + (rounds // self.evaluate_every if self.evaluate_every else 0)

    def planned(self, course: Course, rounds: int) -> Guarantee:
        """What a patient of a hospital is promised when the study goes as planned."""
        from fedhealth.privacy.guarantee import guarantee

        training = PoissonSampledGaussian(
            noise_multiplier=course.noise_multiplier, sampling_rate=course.rate, count=course.steps * rounds
        )
        events = [training, *self._beside(rounds)] if self.is_private else [Unbounded()]
        return guarantee(events, delta=self.delta, views=["updates"])

    def privatise(self, update: Update, *, what: str, stream: str = "") -> PrivateUpdate:
        """The update as it may leave. Counts get their noise here; training got its own in every step.

        Raises:
            Refused: it has no private form.
        """
        spend = Spend(mechanism="dp_sgd", is_private=self.is_private, what=what)
        if what == "train":
            # The weight is a noisy count already; a loss would be one more sum over patients.
            return PrivateUpdate(update=Update(update.weight, update.arrays), spend=spend)
        from fedhealth.privacy.noise import noisy

        # Each patient is in one of the counts, so joining or leaving moves them by 1 in L2.
        told = noisy(
            update.arrays[SUM],
            noise_multiplier=self._noise_on(what),
            sensitivity=1.0,
            source=self.source(f"{stream} {what}"),
        )
        weight = max(float(told[0] if what == "query.shape" else told.sum()), 0.0)
        return PrivateUpdate(update=Update(weight, {SUM: told}, update.metrics), spend=spend)

    def told_before(self, update: Update, *, what: str) -> PrivateUpdate:
        """What already left once, as it left: it says nothing new and needs no more noise."""
        return PrivateUpdate(update, Spend(mechanism="dp_sgd", is_private=self.is_private, what=f"{what}, told before"))

    def source(self, stream: str) -> NoiseSource:
        """Where noise comes from; under `insecure_seed` each named stream has its own."""
        from fedhealth.privacy.noise import NoiseSource

        seed = self.insecure_seed
        return NoiseSource(insecure_seed=None if seed is None else seed_of(seed, purpose=stream))

    def count_noise(self, course: Course, size: float) -> float:
        """The standard deviation of the noise on how many were left unclipped, where clipping is adaptive.

        A twentieth of the patients in a step (Andrew et al. 2021, section 3.1), and at least the
        noise multiplier, so that the query stays the smaller part of what a step costs.
        """
        return max(course.rate * size / 20, course.noise_multiplier)

    def sum_noise(self, course: Course, size: float) -> float:
        """The noise multiplier of the sum of gradients beside the adaptive count, for both to cost as `course` says.

        A patient moves the count, of halves up and down, by 1/2; the squares of sensitivity over noise
        add up (theorem 1 of Andrew et al. 2021).
        """
        if self.clipping != "adaptive":
            return course.noise_multiplier
        left = course.noise_multiplier**-2 - (2 * self.count_noise(course, size)) ** -2
        return float(left**-0.5)

    def statement(self) -> str:
        """What holds for a patient, without the number: see `planned`."""
        if not self.is_private:
            return (
                "NOT PRIVATE: the noise follows from privacy.insecure_seed, so whoever knows the seed can take it off "
                "again and no bound holds. Such a run is for repeating, never for patients."
            )
        return (
            "Differential privacy by DP-SGD at each hospital: before anything leaves, every patient's part in it is "
            "clipped and noise is added, so it holds against a coordinator too, whatever weights it sends."
        )

    def _noise_on(self, what: str) -> float:
        if what == "query.shape":
            return self.statistics_noise
        if what == "evaluate":
            return self.evaluation_noise
        raise Refused(
            "not_private",
            rule="what leaves in a study with privacy=dp_sgd must have a private form",
            found=what,
            remedy="Ask for less; the study scales its features by their ranges.",
        )

    def _beside(self, rounds: int) -> list[Event]:
        """What leaves beside training."""
        return [
            Gaussian(noise_multiplier=self.statistics_noise),
            Gaussian(noise_multiplier=self.evaluation_noise, count=self.looks(rounds)),
        ]


def whole_size(told: float) -> int:
    """The number of training patients to divide by and weigh with, from the noisy count; at least 1."""
    return max(1, int(np.rint(told)))
