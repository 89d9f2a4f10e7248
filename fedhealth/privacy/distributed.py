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
every hospital signs and enforces. Where more hospitals stay, that is more noise than was promised, and what is too
much goes: a share is drawn in parts (`core.lattice.Sharing.cohorts`), and once enough hospitals have signed who is in
the sum, each tells the keys of the parts that so many don't need, with its reveal, and the coordinator takes them off
(the idea is XNoise's, Jiang et al. 2024, arXiv 2209.12528). What stays has the variance of the whole over the hospitals
in the sum less `colluders`. A key that does not come leaves its part where it is, which is only more noise.

A sum of shares is taken for the discrete Gaussian of its variance, from which it differs by some exp(-π² sigma²), at
this width nothing (Kairouz et al. 2021, arXiv 2102.06387), and that for the continuous one (`privacy.noise`).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

from fedhealth.core.errors import SettingError
from fedhealth.core.lattice import Lattice, Part
from fedhealth.core.privacy_event import Gaussian, PoissonSampledGaussian
from fedhealth.core.settings import settings
from fedhealth.core.spend import Spend
from fedhealth.core.update import PrivateUpdate, Update
from fedhealth.privacy.patient_level import SLACK, Course, PatientLevel, not_private_by

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedhealth.core.lattice import Sharing
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

    def lattice(self, what: str, size: int, *, rounds: int, sharing: Sharing) -> Lattice:
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

    def lattice(self, what: str, size: int, *, rounds: int, sharing: Sharing) -> Lattice:
        """The lattice of a question's sum, of `size` numbers, for all hospitals of the study (`shared_lattice`).

        Args:
            what: what is asked.
            size: how many numbers are summed.
            rounds: of the study.
            sharing: among whom the noise is shared.

        Raises:
            Refused: it has no private form.
            SettingError: there would be no honest share, or rounding would add too much.
        """
        is_training = what == "train"
        noise = self.course(rounds=rounds).noise_multiplier if is_training else self._noise_on(what)
        reach = self.max_grad_norm * (1 + SLACK) if is_training else 1.0
        return shared_lattice(noise, reach, size, sharing=sharing, least=self.local_noise)

    def alone(self, course: Course, rounds: int, *, sharing: Sharing) -> Guarantee:
        """What a patient is promised against a coordinator without a hospital on its side: every share counts then.

        Where all stay they say the least: sites over sites less colluders, in variance.
        """
        return self._at(course, rounds, math.sqrt(sharing.sites) * sharing.share(sharing.sites), "sums")

    def opened(self, course: Course, rounds: int, *, sharing: Sharing) -> Guarantee:
        """What a patient is still promised against whoever opens the hospital's masks: what stays of its own share."""
        return self._at(course, rounds, sharing.share(sharing.sites), "updates")

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


def shared_lattice(noise: float, reach: float, size: int, *, sharing: Sharing, least: float = 0.0) -> Lattice:
    """The lattice of a sum of `size` numbers that a patient moves by `reach`, whose noise is `noise` times that.

    For each size of a sum in `sharing.cohorts`, parts of a share up to one of them add up to the variance that
    so many hospitals need. The widest part is `WIDE_SIGMA` steps, as wide as noise is drawn. So many of them
    must be its noise multiplier times how far a patient moves the rounded sum: `reach` in steps, and a step
    a number at most, √size together.

    Args:
        noise: the noise multiplier of the whole sum.
        reach: how far a patient moves the sum in L2, before it is rounded.
        size: how many numbers are summed.
        sharing: among whom.
        least: the noise multiplier of what stays of one share, at least.

    Raises:
        SettingError: there would be no honest share, or rounding would add too much.
    """
    from fedhealth.privacy.noise import WIDE_SIGMA, farthest, stretch_for

    cohorts = sharing.cohorts
    if sharing.honest(cohorts[-1]) < 1:
        raise SettingError(
            f"`secagg.min_cohort` less `secagg.colluders` must be at least 1, found {sharing.honest(cohorts[-1])}. Raise min_cohort."
        )
    # The variance of a share in a sum of so many, and of each part what it adds to the ones before.
    needed = [max(noise**2 / sharing.honest(in_sum), least**2) for in_sum in cohorts]
    added = [more - less for less, more in pairwise([0.0, *needed])]
    own = math.sqrt(max(added))
    # How far a patient may move the rounded sum, in steps; and what rounding leaves of that.
    moves = WIDE_SIGMA / own
    left = moves - math.sqrt(size)
    if not math.sqrt(size) <= MOST_INFLATION * left:
        raise SettingError(
            f"rounding must add at most {MOST_INFLATION:.0%} to how far a patient moves a sum, found "
            f"{math.sqrt(size) / max(left, 1e-9):.1%} for {size} numbers at a noise multiplier of {own:.3g} a hospital. Use a "
            "smaller model, less noise or more hospitals."
        )
    parts = tuple(
        Part(stretch_for(math.sqrt(variance) * moves), spare_from)
        for variance, spare_from in zip(added, (None, *cohorts), strict=False)
        if variance > 0
    )
    return Lattice(left / reach * _ROOM, sum(farthest(part.stretch) for part in parts), parts)


def lattices(mechanism: object, *, rounds: int, sharing: Sharing) -> Callable[[str, int], Lattice] | None:
    """By question and size the lattice of its sum, where the mechanism shares noise; else None."""
    if not isinstance(mechanism, SharesNoise):
        return None
    found = mechanism
    return lambda what, size: found.lattice(what, size, rounds=rounds, sharing=sharing)
