"""Privacy of a synthetic release: one masked sum of counts with the noise of one Gaussian mechanism, and nothing else.

    hospital      counts of values and pairs, over how far a patient moves them ─+ its share of the noise─→ mask
    coordinator   the noisy sum ─→ synthetic patients, as many releases as it likes at no further cost

A patient moves the counts by exactly `MarginLayout.sensitivity`, whoever it is; hospitals divide by that, so a
patient moves what they send by 1 and nobody's part needs clipping. The noise for epsilon is solved in closed
form (Balle and Wang 2018, arXiv 1805.06530). A study with this part trains nothing: whatever else it asks, a
hospital refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedhealth.core.errors import Refused, SettingError
from fedhealth.core.privacy_event import Event, Gaussian, Unbounded
from fedhealth.core.seeds import seed_of
from fedhealth.core.settings import settings
from fedhealth.core.spend import Spend
from fedhealth.core.update import PrivateUpdate, Update
from fedhealth.privacy.distributed import SharesNoise, shared_lattice
from fedhealth.privacy.patient_level import not_private_by

if TYPE_CHECKING:
    from fedhealth.core.lattice import Lattice, Sharing
    from fedhealth.core.privacy_event import View
    from fedhealth.privacy.guarantee import Guarantee
    from fedhealth.privacy.noise import NoiseSource

#: The one question that has a private form here.
MARGINS = "query.margins"
#: What the noise is more than the closed form says, so that an accountant that rounds up stays within epsilon.
_ROOM = 1 + 1e-3


@settings
class Release(SharesNoise):
    """Noise on the counts behind a synthetic release, shared among masked hospitals; the unit is a patient with all records.

    The guarantee is against whoever sees the sum or anything made from it, the coordinator with up to
    `secagg.colluders` hospitals on its side included. It rests on the masks.

    Attributes:
        epsilon: what a patient loses at most by the release.
        delta: the chance with which the bound may fail; less than one over a hospital's patients.
        insecure_seed: makes the noise follow from a seed, to repeat a run. Then nothing is private.
    """

    view: ClassVar[View] = "sums"

    epsilon: float = 3.0
    delta: float = 1e-6
    insecure_seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 100:
            raise SettingError(
                f"`privacy.epsilon` must be above 0 and at most 100, found {self.epsilon}. Try 3; a release without noise "
                "is a copy of the counts."
            )
        if not 1e-10 <= self.delta < 1:
            raise SettingError(
                f"`privacy.delta` must lie in [1e-10, 1), found {self.delta}. Use less than one over a hospital's patients."
            )

    @property
    def is_private(self) -> bool:
        """Whether the noise protects anybody."""
        return self.insecure_seed is None

    @property
    def noise_multiplier(self) -> float:
        """The noise's standard deviation over how far a patient moves the sum."""
        from fedhealth.privacy.gaussian import mu_of

        return _ROOM / mu_of(self.epsilon, self.delta)

    def event(self, what: str, course: object = None) -> Event:
        """What it is to let `what` out once.

        Raises:
            Refused: it is something else than the counts of a release.
        """
        del course
        self._check(what)
        return Gaussian(noise_multiplier=self.noise_multiplier) if self.is_private else Unbounded()

    def planned_times(self, what: str, rounds: int) -> int:
        """How often a study lets the counts out: once.

        Raises:
            Refused: it is something else than the counts of a release.
        """
        del rounds
        self._check(what)
        return 1

    def privatise(self, update: Update, *, what: str, stream: str = "") -> PrivateUpdate:
        """The counts, on which noise is still to be added under the mask: nothing else lets them out.

        Raises:
            Refused: it is something else than the counts of a release.
        """
        del stream
        self._check(what)
        spend = Spend(mechanism="release", is_private=self.is_private, what=what)
        return PrivateUpdate(Update(1, update.arrays), spend, shares_noise=True)

    def lattice(self, what: str, size: int, *, rounds: int, sharing: Sharing) -> Lattice:
        """The lattice of the sum, of which a patient moves the `size` numbers by 1 in L2.

        Raises:
            Refused: it is something else than the counts of a release.
            SettingError: there would be no honest share, or rounding would add too much.
        """
        del rounds
        self._check(what)
        return shared_lattice(self.noise_multiplier, 1.0, size, sharing=sharing)

    def source(self, stream: str) -> NoiseSource:
        """Where noise comes from; under `insecure_seed` each named stream has its own."""
        from fedhealth.privacy.noise import NoiseSource

        seed = self.insecure_seed
        return NoiseSource(insecure_seed=None if seed is None else seed_of(seed, purpose=stream))

    def planned(self) -> Guarantee:
        """What a patient of any hospital is promised against whoever sees the sum or what is made from it."""
        return self._at(1.0, "sums")

    def opened(self, *, sharing: Sharing) -> Guarantee:
        """What a patient is still promised against whoever opens the hospital's masks: what stays of its own share."""
        return self._at(sharing.share(sharing.sites), "updates")

    def statement(self) -> str:
        """What holds for a patient, without the number."""
        if not self.is_private:
            return not_private_by("privacy.insecure_seed")
        return (
            "Distributed differential privacy: hospitals count their patients by value and by pair of values, each adds its "
            "share of the noise under its mask, and the coordinator makes the release from the one sum. It rests on the masks."
        )

    def _at(self, factor: float, view: View) -> Guarantee:
        from fedhealth.privacy.guarantee import guarantee

        noisy = Gaussian(noise_multiplier=self.noise_multiplier * factor)
        events: list[Event] = [noisy if self.is_private else Unbounded()]
        return guarantee(events, delta=self.delta, views=[view])

    def _check(self, what: str) -> None:
        if what != MARGINS:
            raise Refused(
                "not_private",
                rule="a study with privacy=release may ask for the counts of a release and nothing else",
                found=what,
                remedy="Use fedhealth synthesize, and another study for training.",
            )
