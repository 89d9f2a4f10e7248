"""A small DP-SGD over gradients that are simply given, and every way to get it wrong that the audit must see.

Gradients are [patients, records, d]. Right is: a patient's gradient is the mean over the patient's records, clipped
to C; the sum over patients gets Gaussian noise of sigma C. Hospitals each add a share of it, made so that the noise
is whole when only `fewest` of them answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedhealth.privacy.noise import NoiseSource, noisy


def clip(vectors, bound):
    """Each vector of the last axis, scaled down to the bound where it is longer."""
    lengths = np.sqrt(np.einsum("...d,...d->...", vectors, vectors))
    return vectors * np.minimum(1.0, bound / np.maximum(lengths, 1e-30))[..., None]


@dataclass
class Reference:
    """The right mechanism; each mutation changes one thing of it."""

    seed: int
    clip_bound: float = 0.5
    noise_multiplier: float = 5.0
    source: NoiseSource = field(init=False)

    def __post_init__(self):
        self.source = NoiseSource(insecure_seed=self.seed)

    def clipped_sum(self, gradients):
        return clip(gradients.mean(axis=1), self.clip_bound).sum(axis=0)

    def noise_share(self):
        """How much of the whole variance the hospitals' noise together has, when the fewest answer."""
        return 1.0

    def noise(self, total):
        multiplier = self.noise_multiplier * np.sqrt(self.noise_share())
        return noisy(total, noise_multiplier=multiplier, sensitivity=self.clip_bound, source=self.source)

    def release(self, gradients):
        return self.noise(self.clipped_sum(gradients))


class NoClipping(Reference):
    def clipped_sum(self, gradients):
        return gradients.mean(axis=1).sum(axis=0)


class NoNoise(Reference):
    def noise(self, total):
        return np.array(total)


class ClipPerRecord(Reference):
    """What a library for records does to patients with several."""

    def clipped_sum(self, gradients):
        return clip(gradients, self.clip_bound).sum(axis=(0, 1))


class QuarterNoise(Reference):
    def noise_share(self):
        return 1 / 16


class HalfVariance(Reference):
    def noise_share(self):
        return 1 / 2


class ClipAtTwice(Reference):
    def clipped_sum(self, gradients):
        return clip(gradients.mean(axis=1), 2 * self.clip_bound).sum(axis=0)


class ClipTheBatch(Reference):
    """The batch's mean gradient clipped, as one clips against exploding gradients, and scaled up again."""

    def clipped_sum(self, gradients):
        return len(gradients) * clip(gradients.mean(axis=(0, 1)), self.clip_bound)


class SharesForAll(Reference):
    """Each of 8 hospitals adds an eighth of the variance, and 7 answer."""

    def noise_share(self):
        return 7 / 8


class SameNoise(Reference):
    def noise(self, total):
        self.source = NoiseSource(insecure_seed=self.seed)
        return super().noise(total)


MUTATIONS = [
    NoClipping,
    NoNoise,
    ClipPerRecord,
    QuarterNoise,
    HalfVariance,
    ClipAtTwice,
    ClipTheBatch,
    SharesForAll,
    SameNoise,
]
