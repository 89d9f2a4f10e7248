"""The audit of the engine itself: it passes as it is, and every way to break it alarms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from marks import slow

from fedhealth.core.lattice import Sharing
from fedhealth.models.mlp import Mlp
from fedhealth.models.weights import first_network
from fedhealth.privacy.distributed import Distributed
from fedhealth.privacy.dp_sgd import DpSgd
from fedhealth.privacy.noise import NoiseSource
from fedhealth.privacy.patient_level import Course
from fedhealth.site.private_engine import PrivateEngine
from fedhealth.site.self_audit import MaskedHospitals, audited

COURSE = Course(rate=0.2, steps=20, noise_multiplier=1.0)
NETWORK = first_network(Mlp(hidden=(6,), normalisation="layer"), 5, seed=1)


def attacked(engine=PrivateEngine, course=COURSE, rounds=5, **settings):
    mechanism = DpSgd(epsilon=None, noise_multiplier=course.noise_multiplier, max_grad_norm=0.7, **settings)
    return audited(mechanism, course, NETWORK, 5, rounds=rounds, engine=engine)


def alarms(engine, **how):
    return {found.test for found in attacked(engine, **how) if found.is_alarm}


@pytest.mark.parametrize("clipping", ["flat", *slow("per_layer", "adaptive")])
def test_the_engine_passes(clipping):
    assert [str(found) for found in attacked(clipping=clipping) if found.is_alarm] == []


def test_the_canaries_find_most_of_what_is_spent():
    """Each canary is sampled, clipped and hidden as any patient, so the bound they give is not far below the claim."""
    found = {one.test: one for one in attacked(course=replace(COURSE, rate=1.0, noise_multiplier=5.0))}
    assert 0.5 * found["Gaussian canaries"].allowed < found["Gaussian canaries"].measured


@dataclass(slots=True)
class NoClipping(PrivateEngine):
    def clipped_sum(self, *args):
        self.bound *= 1e12
        found = PrivateEngine.clipped_sum(self, *args)
        self.bound /= 1e12
        return found


@dataclass(slots=True)
class TwiceTheBound(PrivateEngine):
    def clipped_sum(self, *args):
        self.bound *= 2
        found = PrivateEngine.clipped_sum(self, *args)
        self.bound /= 2
        return found


@dataclass(slots=True)
class ByRecord(PrivateEngine):
    def clipped_sum(self, exact, names, rows, taken):
        return PrivateEngine.clipped_sum(self, exact, names, Single(rows), np.flatnonzero(np.isin(rows._whose, taken)))


class Single:
    def __init__(self, rows):
        self.inner = rows

    def of(self, taken):
        return self.inner._x[taken], self.inner._y[taken], None


@dataclass(slots=True)
class QuarterOfTheNoise(PrivateEngine):
    def __post_init__(self):
        self.course = replace(self.course, noise_multiplier=self.course.noise_multiplier / 4)


@dataclass(slots=True)
class NearlyTheNoise(PrivateEngine):
    def __post_init__(self):
        self.course = replace(self.course, noise_multiplier=self.course.noise_multiplier * 0.975)


@dataclass(slots=True)
class TheSameNoise(PrivateEngine):
    def __post_init__(self):
        self.source = NoiseSource(insecure_seed=1)


@pytest.mark.parametrize(
    ("mutation", "seen_by"),
    [
        (NoClipping, "sensitivity"),
        (TwiceTheBound, "sensitivity"),
        (ByRecord, "sensitivity"),
        (QuarterOfTheNoise, "Gaussian canaries"),
        (NearlyTheNoise, "noise scale"),
        (TheSameNoise, "repeated noise"),
    ],
)
@pytest.mark.slow
def test_a_broken_engine_alarms(mutation, seen_by):
    assert seen_by in alarms(mutation)


def shared(engine=MaskedHospitals, *, noise_multiplier=1.0, **how):
    """The tests that alarm on hospitals which share the noise."""
    course = replace(COURSE, steps=1, noise_multiplier=noise_multiplier)
    mechanism = Distributed(epsilon=None, noise_multiplier=noise_multiplier, max_grad_norm=0.7, sampling_rate=0.2)
    made = partial(engine, rounds=100, sharing=Sharing(5, 3, 1))
    found = audited(mechanism, course, NETWORK, 5, rounds=100, engine=made, **how)
    return {one.test for one in found if one.is_alarm}


@pytest.mark.slow
def test_hospitals_that_share_their_noise_pass():
    assert shared() == set()


@dataclass(slots=True)
class OneIsSilent(MaskedHospitals):
    """A hospital more than may collude leaves its share out: as where noise is divided by all and not by the fewest."""

    def _lattice(self, size):
        lattice = MaskedHospitals._lattice(self, size)
        return replace(lattice, levels=lattice.levels * math.sqrt(4 / 3))


@dataclass(slots=True)
class SharesBySites(MaskedHospitals):
    """Each hospital's share is the whole over the number of hospitals, not its root."""

    def _lattice(self, size):
        lattice = MaskedHospitals._lattice(self, size)
        return replace(lattice, levels=lattice.levels * 2)


@dataclass(slots=True)
class TooMuchTaken(MaskedHospitals):
    """What always stays is too little: as where parts of a share were for more hospitals than are honest."""

    def _lattice(self, size):
        lattice = MaskedHospitals._lattice(self, size)
        first, *spare = lattice.parts
        return replace(lattice, parts=(replace(first, stretch=round(first.stretch * (4 / 5) ** 0.5)), *spare))


@dataclass(slots=True)
class NoShares(MaskedHospitals):
    def _lattice(self, size):
        lattice = MaskedHospitals._lattice(self, size)
        return replace(lattice, levels=lattice.levels * 1e4)


@dataclass(slots=True)
class SharesAlike(MaskedHospitals):
    def __post_init__(self):
        self.source = NoiseSource(insecure_seed=1)


@dataclass(slots=True)
class UnclippedShares(MaskedHospitals):
    def clipped_sum(self, *args):
        return NoClipping.clipped_sum(self, *args)


@dataclass(slots=True)
class TwiceClippedShares(MaskedHospitals):
    def clipped_sum(self, *args):
        return TwiceTheBound.clipped_sum(self, *args)


@dataclass(slots=True)
class SharesByRecord(MaskedHospitals):
    def clipped_sum(self, *args):
        return ByRecord.clipped_sum(self, *args)


@pytest.mark.parametrize(
    ("mutation", "seen_by"),
    [
        (OneIsSilent, "noise scale"),
        (SharesBySites, "noise scale"),
        (TooMuchTaken, "noise scale"),
        (NoShares, "Gaussian canaries"),
        (SharesAlike, "repeated noise"),
        (UnclippedShares, "sensitivity"),
        (TwiceClippedShares, "sensitivity"),
        (SharesByRecord, "sensitivity"),
    ],
)
@pytest.mark.slow
def test_shared_noise_that_is_broken_alarms(mutation, seen_by):
    assert seen_by in shared(mutation)


def test_gross_faults_are_seen_without_any_assumption():
    assert "guessed canaries" in alarms(NoClipping, course=replace(COURSE, noise_multiplier=5.0))
