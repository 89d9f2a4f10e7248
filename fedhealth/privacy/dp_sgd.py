"""DP-SGD: noise at the hospital, in every step of training and on every count that leaves.

What a hospital tells of its patients, and how each is made private for a patient with all records:

| what | how |
|---|---|
| training | each step a sum over patients drawn by secret coins, each patient's mean gradient clipped, with noise |
| how many patients there are | noise on three counts, one of which a patient is in; every weight in a mean is made of it |
| scores | noise on a histogram by outcome, in one cell of which a patient is |
| tables, of a study that asks for nothing else | one vector, with noise as on counts (`evaluation.tables`) |
| means and deviations for scaling | never asked: the study scales by its feature spec's ranges |
| training losses | never sent |

Whatever else follows from these. Layers that stay at a hospital are trained by private steps as
well and charged like them: they shape the layers that leave and the scores that are counted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings
from fedhealth.core.spend import Spend
from fedhealth.core.update import PrivateUpdate, Update
from fedhealth.privacy.patient_level import SUM, Course, PatientLevel, not_private_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedhealth.core.privacy_event import View
    from fedhealth.core.training import LocalTraining


@settings
class DpSgd(PatientLevel):
    """DP-SGD (Abadi et al. 2016, arXiv 1607.00133) at each hospital, the unit being a patient with all records.

    Attributes:
        sampling_rate: each patient's chance to be in a step; null for `training.batch_size` over
            the hospital's noisy number of training patients.
        clipping: `flat`, the whole gradient at once; `per_layer`, each weight array by itself, to
            `max_grad_norm` over the root of their number; `adaptive`, flat with a bound that follows
            a quantile of the norms (Andrew et al. 2021, arXiv 1905.03871), from `max_grad_norm` on.
        quantile: the share of patients that `adaptive` leaves unclipped.
        clip_rate: how fast `adaptive` follows, on the log scale; at most 10, by which a step moves the bound 22,000-fold.
    """

    view: ClassVar[View] = "updates"

    clipping: Literal["flat", "per_layer", "adaptive"] = "flat"
    quantile: float = 0.5
    clip_rate: float = 0.2

    def __post_init__(self) -> None:
        PatientLevel.__post_init__(self)
        if not 0 < self.clip_rate <= 10:
            raise SettingError(f"`privacy.clip_rate` must lie in (0, 10], found {self.clip_rate}. Try 0.2.")
        if not 0 < self.quantile < 1:
            raise SettingError(f"`privacy.quantile` must lie between 0 and 1, found {self.quantile}. Try 0.5.")

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
        return Course(rate, steps, self._solved(rate, steps, rounds))

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
        # As a share of what the step costs: the inverse square of a multiplier alone may be beyond any float.
        counted = course.noise_multiplier / (2 * self.count_noise(course, size))
        return course.noise_multiplier / math.sqrt(1 - counted**2)

    def statement(self) -> str:
        """What holds for a patient, without the number: see `planned`."""
        if not self.is_private:
            return not_private_by("privacy.insecure_seed")
        return (
            "Differential privacy by DP-SGD at each hospital: before anything leaves, every patient's part in it is "
            "clipped and noise is added, so it holds against a coordinator too, whatever weights it sends."
        )


def whole_size(told: float) -> int:
    """The number of training patients to divide by and weigh with, from the noisy count; at least 1."""
    return max(1, int(np.rint(told)))
