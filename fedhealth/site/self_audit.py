"""The self-audit: the private engine, set as a study sets it, attacked with patients made up for it.

No real patient is touched: what is tried is whether the engine clips, draws and adds noise as the
study's epsilon was worked out for. `privacy.audit` says what each test sees and what none does.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from fedhealth.core.lattice import Sharing
from fedhealth.core.privacy_event import PoissonSampledGaussian
from fedhealth.core.training import LocalTraining
from fedhealth.core.update import Update
from fedhealth.privacy import accountant, audit
from fedhealth.privacy.noise import NoiseSource
from fedhealth.privacy.noise_share import NoiseShare, spare_noise
from fedhealth.privacy.sampling import drawn
from fedhealth.secagg.content.noised import Noised
from fedhealth.secagg.protocol.codec import decode, encode
from fedhealth.site.exact_network import ExactNetwork
from fedhealth.site.masked_round import with_noise
from fedhealth.site.private_engine import PrivateEngine, Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.lattice import Lattice
    from fedhealth.privacy.audit import Finding
    from fedhealth.privacy.distributed import Distributed
    from fedhealth.privacy.noise import Words
    from fedhealth.privacy.patient_level import Course, PatientLevel
    from fedhealth.secagg.protocol.codec import Words as Ring
    from fedhealth.secagg.protocol.layout import Layout

#: Patients made up to be told apart, each in or out by a coin; a weight of the model for each.
CANARIES = 1000
#: How far out a canary lies: so far that its gradient is clipped, and points where the canary does.
FAR = 1e4
#: Draws of noise alone, of as many coordinates as there are canaries.
DRAWS = 160
#: A rate of learning at which the model does not move, so that a canary's gradient stays what it is.
STILL = 1e-12
#: Patients beside the one whose part is measured.
OTHERS = 20
#: A delta at which guesses say something about so many canaries.
SMALL = 1e-7
#: More steps than this say nothing new.
MOST_STEPS = 2000


def audited(
    mechanism: PatientLevel,
    course: Course,
    network: nn.Module,
    width: int,
    *,
    rounds: int,
    engine: Callable[..., PrivateEngine] = PrivateEngine,
) -> list[Finding]:
    """What each attack found on the engine of a study; some 1 s.

    Args:
        mechanism: the study's settings.
        course: how a hospital trains in a round.
        network: the study's, from [n, width] to [n, 1]; the sensitivity is tried on it.
        width: of its rows.
        rounds: as planned; canaries are attacked over all their steps, up to `MOST_STEPS`.
        engine: what is attacked.
    """
    rng, steps = np.random.default_rng(), min(course.steps * rounds, MOST_STEPS)

    def made(patients: NDArray[np.int64] | None = None) -> PrivateEngine:
        return engine(
            mechanism=mechanism, course=course, size=CANARIES, left=steps, bound=mechanism.max_grad_norm,
            source=NoiseSource(), patients=patients,
        )  # fmt: skip

    noise = np.array([_moved(made(), np.zeros((0, CANARIES)), 1) for _ in range(DRAWS)])
    expected = mechanism.sum_noise(course, CANARIES) * mechanism.max_grad_norm / (course.rate * CANARIES)
    included = rng.random(CANARIES) < 0.5
    scores = _moved(made(), FAR * np.eye(CANARIES)[included], steps)
    claimed = [PoissonSampledGaussian(noise_multiplier=course.noise_multiplier, sampling_rate=course.rate, count=steps)]
    return [
        _sensitivity(made, network, width, rng),
        audit.noise_scale(noise, expected=expected),
        audit.repeated_noise(noise),
        audit.gaussian_canaries(
            scores, included, epsilon=accountant.epsilon(claimed, mechanism.delta), delta=mechanism.delta
        ),
        audit.guessed_canaries(
            scores, included, guesses=CANARIES // 10, epsilon=accountant.epsilon(claimed, SMALL), delta=SMALL
        ),
    ]


@dataclass(slots=True)
class MaskedHospitals(PrivateEngine):
    """The honest hospitals of a masked study as one engine, to be attacked like one.

    Patients are dealt out; each hospital adds up its own, rounds and adds its share of the noise as in a masked
    round; the ring adds up the hospitals, and they take off what noise is spare. All stay, as they nearly always
    do; then the least of a share is left. Masks are left out, since they cancel to the last bit.

    Attributes:
        rounds: of the study.
        sharing: among whom its noise is shared.
    """

    rounds: int = 1
    sharing: Sharing = field(default_factory=lambda: Sharing(3, 3, 1))

    def _noisy_mean(
        self, exact: ExactNetwork, names: list[str], weights: list[torch.nn.Parameter], rows: Rows, coins: Words
    ) -> list[torch.Tensor]:
        """The gradient of a step, array by array."""
        taken, sizes = drawn(rows.patients, self.course.rate, coins), [weight.numel() for weight in weights]
        lattice, honest = self._lattice(sum(sizes)), self.sharing.honest(self.sharing.sites)
        content = Noised({"gradient": (sum(sizes),)}, lattice)
        sums = [self.clipped_sum(exact, names, rows, taken[taken % honest == k])[0] for k in range(honest)]
        shares = [NoiseShare(lattice, self.source) for _ in sums]
        layout = content.layout(honest)
        words = [
            with_noise(_words(content, layout, total.numpy()), share) for total, share in zip(sums, shares, strict=True)
        ]
        ring: Ring = np.sum(words, axis=0, dtype=words[0].dtype)
        told = [[key for _, key in share.spare] for share in shares]
        ring[1:] -= spare_noise(lattice, told, len(ring) - 1).view(ring.dtype)
        found = np.asarray(content.read(decode(layout, ring, honest)).arrays["gradient"], dtype=np.float64)
        parts = torch.split(torch.from_numpy(found / (self.course.rate * self.size)), sizes)
        return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]

    def _lattice(self, size: int) -> Lattice:
        mechanism = cast("Distributed", self.mechanism)
        return mechanism.lattice("train", size, rounds=self.rounds, sharing=self.sharing)


def _words(content: Noised, layout: Layout, total: NDArray[np.float64]) -> Ring:
    """One hospital's words, unmasked and without noise."""
    weight, values = content.values(Update(1, {"gradient": total}))
    return encode(layout, weight, values, os.urandom(32))


def _moved(engine: PrivateEngine, x: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """[CANARIES] how far training on these patients, who all had the event, moves each weight of a linear model, per rate."""
    network = torch.nn.Linear(CANARIES, 1)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    training = LocalTraining(steps=steps, learning_rate=STILL)
    engine.fit(network, x.astype(np.float32), np.ones(len(x), dtype=np.float32), training, np.random.default_rng(0))
    moved: NDArray[np.float64] = network.weight.detach().numpy()[0].astype(np.float64) / STILL
    return moved


def _sensitivity(
    made: Callable[[NDArray[np.int64]], PrivateEngine], network: nn.Module, width: int, rng: np.random.Generator
) -> Finding:
    """How far the worst patients there can be move the clipped sum of the study's own network."""
    exact, names = ExactNetwork(copy.deepcopy(network).double()), [name for name, _ in network.named_parameters()]
    others = rng.standard_normal((OTHERS, width))
    pairs = []
    for records in audit.worst_patients(width, rng):
        x = np.vstack([others, records])
        whose = np.append(np.arange(OTHERS), np.full(len(records), OTHERS))
        engine, y = made(whose), np.append(rng.random(OTHERS) < 0.5, np.ones(len(records)))
        rows = Rows(torch.from_numpy(x), torch.from_numpy(y), whose)
        pairs.append([engine.clipped_sum(exact, names, rows, np.arange(n))[0].numpy() for n in (OTHERS + 1, OTHERS)])
    with_patient, without = np.array(pairs).swapaxes(0, 1)
    return audit.sensitivity(with_patient, without, bound=made(np.arange(1)).mechanism.max_grad_norm)
