"""The floor: releases that are not written, whatever their epsilon."""

from __future__ import annotations

from fedhealth.core.errors import Refused

#: Below so many patients noise leaves too little of the counts to be of use.
LEAST_PATIENTS = 2000
#: The largest share of synthetic patients that may lie nearer to a patient the release was made from than to one it was not.
MOST_NEAR = 0.55


def refuse_few(patients: float) -> None:
    """Refuse a release of too few patients, by their noisy number.

    Raises:
        Refused: `release_too_small`.
    """
    if patients < LEAST_PATIENTS:
        raise Refused(
            "release_too_small",
            rule=f"a synthetic release must be of at least {LEAST_PATIENTS:,} training patients",
            found=f"some {round(patients, -2):,.0f}, counted with noise",
            remedy="Ask more hospitals. What this answer cost stays in their ledgers.",
        )


def refuse_near(share: float) -> None:
    """Refuse a release whose patients lie nearer to those it was made from than chance has it.

    Raises:
        Refused: `release_too_near`.
    """
    if not share <= MOST_NEAR:
        raise Refused(
            "release_too_near",
            rule=f"at most {MOST_NEAR:.0%} of synthetic patients may be nearer to a patient behind them than to another",
            found=f"{share:.1%}",
            remedy="Use a smaller epsilon, and look for a fault: noise alone does not let records through.",
        )
