"""Cox regression: one log hazard ratio a feature, and at each hospital a baseline hazard of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from fedhealth.core.settings import settings

if TYPE_CHECKING:
    from torch import nn


@settings
class Cox:
    """The proportional hazards model (Cox 1972, doi:10.1111/j.2517-6161.1972.tb00899.x), stratified by hospital.

    A patient's hazard is that of their hospital at that time, which may be any, times the
    exponential of a linear score. Hospitals differ in how ill their patients are, in care
    and in how they count follow-up, in ways that no feature holds; one baseline for all
    would put those differences into the hazard ratios. So the usual multicentre model lets
    each have its own, and compares a patient with others of the same hospital alone. The
    log partial likelihood is then a sum over hospitals, each term worked out where its
    patients are; with one baseline for all, each hospital would have to tell its sums at
    every other's event times, as in WebDISCO (Lu 2015, doi:10.1093/jamia/ocv083), whose
    distributed Newton steps these are otherwise.

    There is no intercept: the baseline holds it, and never leaves the hospital. The score
    starts at zero.
    """

    learns: ClassVar[Literal["event", "time to event"]] = "time to event"

    def network(self, width: int) -> nn.Module:
        """A linear layer from [n, width] to [n, 1] log hazard ratios."""
        import torch

        layer = torch.nn.Linear(width, 1, bias=False)
        torch.nn.init.zeros_(layer.weight)
        return layer
