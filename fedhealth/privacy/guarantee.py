"""A guarantee: epsilon together with everything without which the number says nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedhealth.core.privacy_event import PoissonSampledGaussian, Unbounded
from fedhealth.privacy import accountant

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from fedhealth.core.privacy_event import Event, View

#: Who is meant by a view, and what must hold for the guarantee to be against no more than that.
VIEWS: dict[View, str] = {
    "updates": "whoever sees everything this hospital sends, the coordinator included",
    "sums": "whoever sees the masked sums over hospitals alone, as long as the masking holds",
    "models": "whoever sees the models of all rounds, other hospitals included, but not the coordinator, who sees each update",
}
PATIENT = "a patient with all records at one hospital"
ADDED = "added or removed"


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What one patient, or one hospital, is promised. `str` prints its epsilon with all of it; `bound` goes beside another's.

    Attributes:
        epsilon: the bound on the privacy loss; infinite where there is none.
        delta: the chance with which the bound may fail.
        views: against whom it holds.
        sampling: how the patients of a step were chosen.
        unit: who is promised it.
        adjacency: between which worlds it holds: with and without the unit, and what without means.
    """

    epsilon: float = field(repr=False)
    delta: float
    views: tuple[View, ...]
    sampling: str
    unit: str = PATIENT
    adjacency: str = ADDED
    method: str = accountant.METHOD

    @property
    def bound(self) -> str:
        """Epsilon alone, to stand beside a guarantee that says all the rest and differs in whom it holds against."""
        return f"ε = {rounded_up(self.epsilon)}"

    def __str__(self) -> str:
        against = " and ".join(VIEWS[view] for view in self.views) or "nobody: nothing has left"
        if math.isinf(self.epsilon):
            return f"no bound: something left with no noise or next to none, seen by {against}"
        return (
            f"(ε = {rounded_up(self.epsilon)}, δ = {self.delta:g}) for {self.unit}, {self.adjacency}; "
            f"against {against}; {self.sampling}; by {self.method}"
        )


def guarantee(
    events: Iterable[Event], *, delta: float, views: Collection[View], unit: str = PATIENT, adjacency: str = ADDED
) -> Guarantee:
    """What all these events together still promise a patient, or another unit, whose data was in each of them.

    Raises:
        SettingError: `delta` is out of range.
    """
    events = list(events)
    return Guarantee(
        epsilon=accountant.epsilon(events, delta),
        delta=delta,
        views=tuple(sorted(set(views))),
        sampling=_sampling(events),
        unit=unit,
        adjacency=adjacency,
    )


def _sampling(events: list[Event]) -> str:
    rates = sorted({event.sampling_rate for event in events if isinstance(event, PoissonSampledGaussian)})
    if not rates:
        return "no sampling"
    whole = any(not isinstance(event, PoissonSampledGaussian | Unbounded) for event in events)
    named = " and ".join(f"{rate:g}" for rate in rates) if len(rates) < 4 else f"{rates[0]:g} to {rates[-1]:g}"
    return f"Poisson sampling of patients at rate {named}, kept secret" + (", and sums over all patients" * whole)


def rounded_up(epsilon: float) -> str:
    """Three significant digits, rounded up: a printed bound must still be one."""
    if epsilon == 0 or math.isinf(epsilon):
        return "∞" if epsilon else "0"
    unit = 10.0 ** (math.floor(math.log10(epsilon)) - 2)
    return f"{math.ceil(epsilon / unit - 1e-9) * unit:.3g}"
