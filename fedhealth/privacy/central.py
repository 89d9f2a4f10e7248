"""Central privacy: the coordinator clips every hospital's update, and puts noise on their mean.

What is promised, of what, and to whom:

| question | answer |
|---|---|
| who is protected | a hospital with all its patients: whether its updates count, or zeros in their place, in every round |
| what of | the models, of all rounds together, and `model.safetensors`, whose scaling comes from the feature spec alone |
| against whom | whoever sees them: other hospitals, and who is given the model |
| not against | the coordinator, who sees each update as it is, adds the noise and is trusted to |
| not of | counts of patients, results on test patients and the report: they leave without noise |
| nor of | whether and when a hospital answers; one that does not ends the study |

To a hospital's own patients it is therefore as `privacy=plain`: the update leaves the hospital as it
is, an event of infinite cost in the ledger, and refused where there is a cap. Nor is a patient the
unit. With and without one patient an update may lie twice `clipping_norm` apart, so one patient's records are
promised what half the noise multiplier gives. A patient of two hospitals is in two updates.
A study that is run again is another release, and the two compose.

What keeps the promise: one number decides how far a hospital moves the mean, so every hospital
counts the same and all of them answer, C/n each; everything that is released is clipped and noised as one
vector; no loss is told; rounds are not scored, so that no result without noise chooses a model
and a model is stored before anybody gets it, and a crash shows no second one of a round.

Flower 1.41 has parts for this. `server.noised_mean` is built on its
`DifferentialPrivacyServerSideFixedClipping`, and does the clipping and the noise itself, since
that one

- divides by the update's norm: an update of zero raises `ZeroDivisionError`;
- doesn't clip an array without axes: an update of 100 in one passed a norm of 1;
- weights by patients unless its own accountant is on: one hospital of three moved the mean by 0.998 C, where C/3 was
  accounted;
- goes on with fewer answers than the noise was made for, unless its accountant is on: one of three moved it by C;
- draws from numpy's global generator, in floating point: a seed repeats it, and low bits tell (see `noise`).

These are not used at all, and are refused where a study names them:

- `DifferentialPrivacyClientSideFixedClipping` with `fixedclipping_mod`: the server never looks whether a reply was
  clipped, and one of 900 passed a norm of 1; the mod divides by zero as above;
- both adaptive wrappers with `adaptiveclipping_mod`: the norm falls where most are clipped, where it must rise (Andrew
  et al. 2021, arXiv 1905.03871, algorithm 1): 0.1 became 0.074 in three rounds of all clipped. On the server the
  noise is made for the norm after that step and not the one that was clipped by, a tenth too little in a round;
- `LocalDpMod`: its formula is for one release and an epsilon below 1, of rounds it knows nothing, and its
  sensitivity is what the caller says. `privacy=dp_sgd` is noise at the hospital.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import DataError
from fedhealth.core.privacy_event import Gaussian, Unbounded
from fedhealth.core.seeds import seed_of
from fedhealth.core.settings import settings
from fedhealth.core.spend import Spend
from fedhealth.core.update import PrivateUpdate, Update
from fedhealth.privacy.budget_settings import check_budget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedhealth.core.privacy_event import Event
    from fedhealth.privacy.guarantee import Guarantee

HOSPITAL = "a hospital with all its patients"
ZEROED = "its updates counted or replaced by zeros in all rounds"


@settings
class Central:
    """Noise on the mean over hospitals, by a coordinator that is trusted (McMahan et al. 2018, arXiv 1710.06963).

    Attributes:
        epsilon: what the models of all planned rounds tell of a hospital at most; the noise is solved from it.
            Null where `noise_multiplier` is given.
        noise_multiplier: the noise's standard deviation on the sum of updates, over `clipping_norm`; null where
            `epsilon` is given.
        delta: the chance with which the bound may fail; less than one over the number of hospitals.
        clipping_norm: the L2 norm to which a hospital's update, all arrays together, is clipped.
        insecure_seed: makes the noise follow from a seed, to repeat a run bit by bit. Then nothing is
            private, and everything that would print a bound says so.
    """

    epsilon: float | None = 8.0
    noise_multiplier: float | None = None
    delta: float = 1e-5
    clipping_norm: float = 1.0
    insecure_seed: int | None = None

    def __post_init__(self) -> None:
        check_budget(
            {"epsilon": self.epsilon, "noise_multiplier": self.noise_multiplier, "clipping_norm": self.clipping_norm},
            delta=self.delta,
            protected="the number of hospitals",
        )

    @property
    def is_private(self) -> bool:
        """Whether the noise protects anybody."""
        return self.insecure_seed is None

    def multiplier(self, rounds: int) -> float:
        """The noise multiplier of every round, so many being planned.

        Raises:
            SettingError: `epsilon` can't be reached.
        """
        if self.noise_multiplier is not None or self.epsilon is None:
            return float(self.noise_multiplier or 0)
        from fedhealth.privacy.accountant import noise_multiplier

        return noise_multiplier(epsilon_target=self.epsilon, delta=self.delta, sampling_rate=1.0, steps=rounds)

    def planned(self, rounds: int) -> Guarantee:
        """What a hospital is promised when the study goes as planned."""
        from fedhealth.privacy.guarantee import guarantee

        event: Event = Gaussian(noise_multiplier=self.multiplier(rounds), count=rounds)
        events = [event if self.is_private else Unbounded()]
        return guarantee(events, delta=self.delta, views=["models"], unit=HOSPITAL, adjacency=ZEROED)

    def privatise(self, update: Update, *, what: str, stream: str = "") -> PrivateUpdate:
        """The update as it is, at infinite cost towards the coordinator; of training, without the loss."""
        del stream
        told = Update(update.weight, update.arrays) if what == "train" else update
        return PrivateUpdate(update=told, spend=Spend(mechanism="central", is_private=False, what=what))

    def noised_mean(self, updates: Sequence[NDArray[np.float64]], *, rounds: int, round_: int) -> NDArray[np.float64]:
        """[d] the mean of the hospitals' updates, [d] each: every one clipped, the sum with noise.

        Each clipped update is rounded to the noise's own lattice, so that the sum is one of integers: exact,
        whatever the order, and moved by one hospital no further than `noisy` allows for.

        Args:
            updates: of all hospitals, everything that a round releases in one vector.
            rounds: how many rounds are planned, which decides the noise.
            round_: this one; it names the noise where a seed repeats it.

        Raises:
            DataError: an update is not finite.
            SettingError: the model has too many parameters for that much noise.
        """
        from fedhealth.privacy.noise import NoiseSource, noisy, step_of

        multiplier, seed = self.multiplier(rounds), self.insecure_seed
        step = step_of(multiplier, self.clipping_norm, updates[0].size)
        total = np.zeros(updates[0].size)
        for update in updates:
            total += np.rint(self.clipped(update) / step)
        source = NoiseSource(insecure_seed=None if seed is None else seed_of(seed, round_=round_, purpose="central"))
        told = noisy(total * step, noise_multiplier=multiplier, sensitivity=self.clipping_norm, source=source)
        return told / len(updates)

    def clipped(self, update: NDArray[np.float64]) -> NDArray[np.float64]:
        """The update, shortened to `clipping_norm` where it is longer; zero stays zero.

        Raises:
            DataError: it is not finite.
        """
        with np.errstate(over="ignore"):
            norm = float(np.linalg.norm(update))
        if not math.isfinite(norm):
            raise DataError(
                "a hospital's update must be finite, found one whose norm is not. Lower the learning rate, or ask the "
                "hospital."
            )
        return update if norm <= self.clipping_norm else update * (self.clipping_norm / norm)

    def statement(self) -> str:
        """What holds for a hospital, without the number: see `planned`."""
        if not self.is_private:
            return (
                "NOT PRIVATE: the noise follows from privacy.insecure_seed, so whoever knows the seed can take it off "
                "again and no bound holds. Such a run is for repeating, never for patients."
            )
        return (
            "Differential privacy of the models, for hospitals, by the coordinator: it clips every hospital's update and "
            "adds noise to their mean before anybody gets a model. It holds against whoever sees the models, and not "
            "against the coordinator, who sees each update as it is and is trusted. The results shown here, and counts of "
            "patients, have no noise and no bound."
        )
