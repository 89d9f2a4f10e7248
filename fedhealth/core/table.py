"""The table: patient rows as a source hands them over, before any rule is applied.

It lives only inside `fedhealth.site` and `fedhealth.synthetic`; nothing ever sends one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Something a source held that could not be used: where it stands, and why. Never what it said."""

    place: str
    code: str


@dataclass(frozen=True, slots=True)
class Table:
    """One row a patient.

    Attributes:
        patients: [n] pseudonyms, unique and stable at the hospital.
        columns: by feature name, [n] float64 with NaN for missing (numeric and binary), or
            [n] object holding str or None (categorical), or [n, steps] float64 (a series).
            Values are in the unit and the words the source uses; `site.quality` brings them
            to the spec's.
        outcome: [n] float64, 1 positive, 0 negative, NaN unknown.
        consent: [n] bool, whether the patient allows research use.
        split: [n] str ("train", "validation" or "test") where the source itself says so.
        days: [n] float64 days to the event or to the end of follow-up, NaN where missing and
            infinite where unreadable; None where the task has no follow-up.
        in_spec_units: the source has brought each value to the spec's unit already.
        quarantine: what the source left out, and where it stands.
        records: by feature, the records behind its column that could not be used, by reason.
        samples: by feature, some of those records' values before any was left out.
    """

    patients: NDArray[np.str_]
    columns: dict[str, NDArray[np.float64] | NDArray[np.object_]]
    outcome: NDArray[np.float64]
    consent: NDArray[np.bool_]
    split: NDArray[np.str_] | None = None
    days: NDArray[np.float64] | None = None
    in_spec_units: bool = False
    quarantine: tuple[Quarantined, ...] = ()
    records: dict[str, dict[str, int]] = field(default_factory=dict)
    samples: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.patients)

    def rows(self, keep: NDArray[np.bool_]) -> Table:
        """The table of the rows where `keep` is true; itself where that is all."""
        if keep.all():
            return self
        return replace(
            self,
            patients=self.patients[keep],
            columns={name: column[keep] for name, column in self.columns.items()},
            outcome=self.outcome[keep],
            consent=self.consent[keep],
            split=None if self.split is None else self.split[keep],
            days=None if self.days is None else self.days[keep],
        )
