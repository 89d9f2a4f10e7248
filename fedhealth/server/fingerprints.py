"""Fingerprints: a name for each hospital's cohort, from what it told and from nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedhealth.core.study import digest

if TYPE_CHECKING:
    from collections.abc import Mapping


def fingerprints(statistics: Mapping[str, Any]) -> dict[str, str]:
    """A name for each hospital's training cohort, which changes when a patient does.

    It is a hash of the counts and sums that the hospital sent in the first pass, decimals
    and all: no record enters it, it can't be guessed from counts, and it does not depend
    on other hospitals.
    """
    return {
        site: digest({"first": vector, "n": statistics["shapes"][site]}) for site, vector in statistics["first"].items()
    }
