"""What every mechanism that protects a patient shares: its budget, and noise on whatever leaves beside training.

A mechanism adds `course`, how a hospital trains; `view`, from whom that protects; and
`privatise`. The unit is a patient with all records.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedhealth.core.errors import Refused, SettingError
from fedhealth.core.privacy_event import Event, Gaussian, PoissonSampledGaussian, Unbounded
from fedhealth.core.seeds import seed_of
from fedhealth.core.settings import settings
from fedhealth.privacy.budget_settings import check_budget

if TYPE_CHECKING:
    from fedhealth.core.privacy_event import View
    from fedhealth.core.training import LocalTraining
    from fedhealth.privacy.guarantee import Guarantee
    from fedhealth.privacy.noise import NoiseSource

#: The one array of an update that counts patients.
SUM = "sum"
#: By how much more than the bound one patient may move a sum, as a share, through how others' gradients round.
SLACK = 2.0**-10


@dataclass(frozen=True, slots=True)
class Course:
    """How one hospital trains privately in every round.

    Attributes:
        rate: each patient's chance to be in a step.
        steps: sums that leave in a round.
        noise_multiplier: the noise's standard deviation over how far a patient moves such a sum.

    Raises:
        SettingError: `rate` is not in (0, 1], or `noise_multiplier` not above 0 and finite.
    """

    rate: float
    steps: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        # Here, where one hospital is asked, and not where its steps are taken in company.
        if not 0 < self.rate <= 1:
            raise SettingError(
                f"a sampling rate must lie in (0, 1], found {self.rate}. Use 1 for everybody in every step."
            )
        if not 0 < self.noise_multiplier < math.inf:
            raise SettingError(
                f"a noise multiplier must be above 0 and finite, found {self.noise_multiplier}. Use privacy=plain for none."
            )


@settings
class PatientLevel:
    """Settings of a mechanism whose guarantee is for a patient.

    Attributes:
        epsilon: what a patient loses at most over the whole study, counts and scores included; the
            noise of training is solved from it for all planned rounds. Null where `noise_multiplier` is given.
        noise_multiplier: the noise of training, over `max_grad_norm`; null where `epsilon` is given.
        delta: the chance with which the bound may fail; less than one over a hospital's patients.
        max_grad_norm: the L2 norm to which a patient's gradient is clipped.
        sampling_rate: each patient's chance to be in a step.
        clipping: of the whole gradient at once, `flat`, or otherwise.
        statistics_noise: the noise on counts of patients, in patients; on tables, over how far one patient
            moves all of them together.
        evaluation_noise: the noise on each cell of a score histogram, in patients.
        evaluate_every: rounds between two looks at the validation patients; null for none, and
            the last round's model is taken.
        score_bins: cells of a score histogram.
        insecure_seed: makes the noise follow from a seed, to repeat a run. Then nothing is
            private, and everything that would print a bound says so.
    """

    #: From whom what leaves is protected.
    view: ClassVar[View]

    epsilon: float | None = 2.0
    noise_multiplier: float | None = None
    delta: float = 1e-5
    max_grad_norm: float = 1.0
    sampling_rate: float | None = 0.1
    clipping: str = "flat"
    statistics_noise: float = 10.0
    evaluation_noise: float = 4.0
    evaluate_every: int | None = None
    score_bins: int = 20
    insecure_seed: int | None = None

    def __post_init__(self) -> None:
        check_budget(
            {
                "epsilon": self.epsilon,
                "noise_multiplier": self.noise_multiplier,
                "max_grad_norm": self.max_grad_norm,
                "statistics_noise": self.statistics_noise,
                "evaluation_noise": self.evaluation_noise,
            },
            delta=self.delta,
            protected="a hospital's patients",
        )
        if self.sampling_rate is not None and not 0 < self.sampling_rate <= 1:
            raise SettingError(
                f"`privacy.sampling_rate` must lie in (0, 1], found {self.sampling_rate}. Use null to go by training.batch_size."
            )
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

    def steps(self, training: LocalTraining, rate: float) -> int:
        """How many steps a training takes; a pass is as many as it takes to draw everybody once on average."""
        return training.steps if training.steps is not None else training.epochs * math.ceil(1 / rate - 1e-9)

    def sum_noise(self, course: Course, size: float) -> float:
        """The noise multiplier of the sum of gradients; of `size` patients, where that has a say in it."""
        del size
        return course.noise_multiplier

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
        return guarantee(events, delta=self.delta, views=[self.view])

    def source(self, stream: str) -> NoiseSource:
        """Where noise comes from; under `insecure_seed` each named stream has its own."""
        from fedhealth.privacy.noise import NoiseSource

        seed = self.insecure_seed
        return NoiseSource(insecure_seed=None if seed is None else seed_of(seed, purpose=stream))

    def _noise_on(self, what: str) -> float:
        if what in ("query.shape", "query.table"):
            return self.statistics_noise
        if what == "evaluate":
            return self.evaluation_noise
        raise Refused(
            "not_private",
            rule="what leaves in a study whose patients are protected must have a private form",
            found=what,
            remedy="Ask for less; the study scales its features by their ranges.",
        )

    def _beside(self, rounds: int) -> list[Event]:
        """What leaves beside training."""
        return [
            Gaussian(noise_multiplier=self.statistics_noise),
            Gaussian(noise_multiplier=self.evaluation_noise, count=self.looks(rounds)),
        ]

    def _solved(self, rate: float, steps: int, rounds: int) -> float:
        """The noise multiplier of training: as given, or for `epsilon` over all rounds of so many steps each."""
        if self.noise_multiplier is not None or self.epsilon is None:
            return float(self.noise_multiplier or 0)
        from fedhealth.privacy.accountant import noise_multiplier

        return noise_multiplier(
            epsilon_target=self.epsilon,
            delta=self.delta,
            sampling_rate=rate,
            steps=steps * rounds,
            beside=tuple(self._beside(rounds)),
        )


def not_private_by(seed: str) -> str:
    """What a report says of a run whose noise follows from a seed."""
    return (
        f"NOT PRIVATE: the noise follows from {seed}, so whoever knows the seed can take it off again and no bound "
        "holds. Such a run is for repeating, never for patients."
    )
