"""Patients as they truly are, before any device or record has seen them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedhealth.synthetic.physiology import Column


@dataclass(frozen=True, slots=True)
class Patients:
    """The truth about n patients.

    Attributes:
        values: by column, [n] the true value in the generator's unit (0 or 1 for a yes or no).
        latent: by measurement, [n] the standard-normal-like u behind it.
        severity: [n] how ill they are.
        treated: [n] whether they get the aggressive treatment.
        admission: [n] 0 medical, 1 scheduled surgery, 2 emergency surgery.
    """

    values: dict[str, Column]
    latent: dict[str, Column]
    severity: Column
    treated: NDArray[np.bool_]
    admission: NDArray[np.int8]
