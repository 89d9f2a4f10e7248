"""Distributed differential privacy: under masks each hospital adds a share of the noise, so the sum has it once.

    hospital   clipped sum over patients drawn by secret coins ─→ lattice ─+ its share of the noise─→ mask
    coordinator   the sum over hospitals, with the noise of one trusted curator

Each step of the study is such a sum (DP-FedSGD). What a hospital tells, and how it is made private for a
patient with all records:

| what | how |
|---|---|
| training | one sum of clipped gradients a round; of the noise every hospital adds its share |
| how many patients there are | three counts, summed over hospitals, with noise of `statistics_noise` patients |
| scores | a histogram by outcome, summed over hospitals, with noise of `evaluation_noise` patients in each cell |
| tables, of a study that asks for nothing else | one vector, summed over hospitals, noise as on counts (`evaluation.tables`) |
| means and deviations for scaling, losses | never |

A sum is of at least `min_cohort` hospitals, of which `colluders` may leave their noise out or tell it: so a share
has the variance of the whole over min_cohort - colluders. Both are the masks' own (`secagg.masked`), which
every hospital signs and enforces. Where more hospitals stay, the noise is larger than it must be.

A sum of shares is taken for the discrete Gaussian of its variance, from which it differs by some exp(-π² sigma²), at
this width nothing (Kairouz et al. 2021, arXiv 2102.06387), and that for the continuous one (`privacy.noise`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from fedhealth.core.errors import SettingError
from fedhealth.core.lattice import Lattice
from fedhealth.core.privacy_event import Gaussian, PoissonSampledGaussian
from fedhealth.core.settings import settings
from fedhealth.core.spend import Spend
from fedhealth.core.update import PrivateUpdate, Update
from fedhealth.privacy.patient_level import SLACK, Course, PatientLevel, not_private_by

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedhealth.core.privacy_event import Event, View
    from fedhealth.core.training import LocalTraining
    from fedhealth.privacy.guarantee import Guarantee
    from fedhealth.privacy.noise import NoiseSource

#: By how much, as a share, rounding to the lattice may add to how far a patient moves a sum.
MOST_INFLATION = 0.05
#: What a float32 bound may take off the lattice's fineness, with room.
_ROOM = 1 - 1e-6


class SharesNoise:
    """A mechanism of which each hospital adds a share of the noise, under its mask."""

    __slots__ = ()

    def lattice(self, what: str, size: int, *, rounds: int, shares: int) -> Lattice:
        """The lattice of a question's sum, of `size` numbers."""
        raise NotImplementedError

    def source(self, stream: str) -> NoiseSource:
        """Where a hospital's share comes from."""
        raise NotImplementedError


@settings
class Distributed(PatientLevel, SharesNoise):
    """DP-FedSGD with noise shared among masked hospitals, the unit being a patient with all records.

    The guarantee is against whoever sees the sums: the coordinator, whatever it sends, with up to
    `secagg.colluders` hospitals on its side, and all who see the model or the report. It rests on the masks.
    To whoever opens a mask the hospital's own share of the noise is all there is, and `opened` says
    what that is worth; `local_noise` sets a floor to it.

    Attributes:
        clipping: `flat`, the whole gradient at once, or `per_layer`, each weight array by itself, to
            `max_grad_norm` over the root of their number.
        local_noise: the least noise multiplier of one hospital's own share, in every sum; 0 for none.
    """

    view: ClassVar[View] = "sums"

    clipping: Literal["flat", "per_layer"] = "flat"
    local_noise: float = 0.0

    def __post_init__(self) -> None:
        PatientLevel.__post_init__(self)
        if self.sampling_rate is None:
            raise SettingError(
                "`privacy.sampling_rate` must be given where noise is shared, found null: no hospital tells how many "
                "patients it has. Try 0.1."
            )
        if not 0 <= self.local_noise < math.inf:
            raise SettingError(f"`privacy.local_noise` must be 0 or more, found {self.local_noise}. Use 0 for none.")

    def course(self, fits: Sequence[LocalTraining] = (), *, rounds: int, size: float = math.inf) -> Course:
        """How every hospital trains in every round: one step.

        Raises:
            SettingError: `epsilon` leaves nothing for training.
        """
        del fits, size
        rate = float(self.sampling_rate or 0)
        return Course(rate, 1, self._solved(rate, 1, rounds))

    def privatise(self, update: Update, *, what: str, stream: str = "") -> PrivateUpdate:
        """The update, on which noise is still to be added under the mask: nothing else lets it out.

        Raises:
            Refused: it has no private form.
        """
        del stream
        if what != "train":
            self._noise_on(what)
        spend = Spend(mechanism="distributed", is_private=self.is_private, what=what)
        return PrivateUpdate(Update(1, update.arrays), spend, shares_noise=True)

    def lattice(self, what: str, size: int, *, rounds: int, shares: int) -> Lattice:
        """The lattice of a question's sum, of `size` numbers, for all hospitals of the study.

        A share is `WIDE_SIGMA` steps. So many of them must be the noise multiplier times how far a patient
        moves the rounded sum: the clip in steps, and a step a number at most, √size together.

        Args:
            what: what is asked.
            size: how many numbers are summed.
            rounds: of the study.
            shares: min_cohort less colluders: how many shares are in a sum at least.

        Raises:
            Refused: it has no private form.
            SettingError: there would be no honest share, or rounding would add too much.
        """
        is_training = what == "train"
        noise = self.course(rounds=rounds).noise_multiplier if is_training else self._noise_on(what)
        reach = self.max_grad_norm * (1 + SLACK) if is_training else 1.0
        return shared_lattice(noise, reach, size, shares=shares, least=self.local_noise)

    def alone(self, course: Course, rounds: int, *, min_cohort: int, shares: int) -> Guarantee:
        """What a patient is promised against a coordinator without a hospital on its side: every share counts then."""
        return self._at(course, rounds, math.sqrt(max(min_cohort, shares) / shares), "sums")

    def opened(self, course: Course, rounds: int, *, shares: int) -> Guarantee:
        """What a patient is still promised against whoever opens the hospital's masks: its own share of the noise."""
        return self._at(course, rounds, 1 / math.sqrt(shares), "updates")

    def statement(self) -> str:
        """What holds for a patient, without the number."""
        if not self.is_private:
            return not_private_by("privacy.insecure_seed")
        return (
            "Distributed differential privacy: every patient's gradient is clipped, each hospital adds its share of the "
            "noise under its mask, and the coordinator sees the sum over hospitals, with the noise of all of them, "
            "alone. It rests on the masks."
        )

    def _at(self, course: Course, rounds: int, factor: float, view: View) -> Guarantee:
        """The guarantee where a sum's noise is `factor` times what was planned, or a hospital's floor."""
        from fedhealth.privacy.guarantee import guarantee

        def times(noise: float) -> float:
            return max(noise * factor, self.local_noise)

        events: list[Event] = [
            PoissonSampledGaussian(
                noise_multiplier=times(course.noise_multiplier), sampling_rate=course.rate, count=rounds
            ),
            Gaussian(noise_multiplier=times(self.statistics_noise)),
            Gaussian(noise_multiplier=times(self.evaluation_noise), count=self.looks(rounds)),
        ]
        return guarantee(events, delta=self.delta, views=[view])


def shared_lattice(noise: float, reach: float, size: int, *, shares: int, least: float = 0.0) -> Lattice:
    """The lattice of a sum of `size` numbers that a patient moves by `reach`, whose noise is `noise` times that.

    Args:
        noise: the noise multiplier of the whole sum.
        reach: how far a patient moves the sum in L2, before it is rounded.
        size: how many numbers are summed.
        shares: how many shares are in a sum at least.
        least: the noise multiplier of one share at least.

    Raises:
        SettingError: there would be no honest share, or rounding would add too much.
    """
    from fedhealth.privacy.noise import FARTHEST, WIDE_SIGMA

    if shares < 1:
        raise SettingError(
            f"`secagg.min_cohort` less `secagg.colluders` must be at least 1, found {shares}. Raise min_cohort."
        )
    own = max(noise / math.sqrt(shares), least)
    # What is left of a share's reach once rounding has taken its part.
    left = WIDE_SIGMA / own - math.sqrt(size)
    if not math.sqrt(size) <= MOST_INFLATION * left:
        raise SettingError(
            f"rounding must add at most {MOST_INFLATION:.0%} to how far a patient moves a sum, found "
            f"{math.sqrt(size) / max(left, 1e-9):.1%} for {size} numbers at a noise multiplier of {own:.3g} a hospital. Use a "
            "smaller model, less noise or more hospitals."
        )
    return Lattice(left / reach * _ROOM, FARTHEST)


def lattices(mechanism: object, *, rounds: int, shares: int) -> Callable[[str, int], Lattice] | None:
    """By question and size the lattice of its sum, where the mechanism shares noise; else None."""
    if not isinstance(mechanism, SharesNoise):
        return None
    found = mechanism
    return lambda what, size: found.lattice(what, size, rounds=rounds, shares=shares)
