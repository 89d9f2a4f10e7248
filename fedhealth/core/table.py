"""The table: patient rows as a source hands them over, before any rule is applied.

It lives only inside `fedhealth.site` and `fedhealth.synthetic`; nothing ever sends one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Table:
    """One row a patient.

    Attributes:
        patients: [n] pseudonyms, unique and stable at the hospital.
        columns: by feature name, [n] float64 with NaN for missing (numeric and binary), or
            [n] object holding str or None (categorical). Values are in the unit and the
            words the source uses; `site.quality` brings them to the spec's.
        outcome: [n] float64, 1 positive, 0 negative, NaN unknown.
        consent: [n] bool, whether the patient allows research use.
        split: [n] str ("train", "validation" or "test") where the source itself says so.
        days: [n] float64 days to the event or to the end of follow-up, NaN where missing and
            infinite where unreadable; None where the task has no follow-up.
    """

    patients: NDArray[np.str_]
    columns: dict[str, NDArray[np.float64] | NDArray[np.object_]]
    outcome: NDArray[np.float64]
    consent: NDArray[np.bool_]
    split: NDArray[np.str_] | None = None
    days: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.patients)

    def rows(self, keep: NDArray[np.bool_]) -> Table:
        """The table of the rows where `keep` is true."""
        return Table(
            patients=self.patients[keep],
            columns={name: column[keep] for name, column in self.columns.items()},
            outcome=self.outcome[keep],
            consent=self.consent[keep],
            split=None if self.split is None else self.split[keep],
            days=None if self.days is None else self.days[keep],
        )
