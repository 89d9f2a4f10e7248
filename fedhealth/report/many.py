"""Of many hospitals: those that fare worst, how all lie, and the whole list as CSV for a table's place."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from fedhealth.core.measure import Measure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Of more hospitals than this a table and a figure show so many of the worst.
MANY, WORST = 30, 10
#: The shares of the hospitals whose AUROC lies below what is named.
SHARES = {0.05: "5 %", 0.25: "a quarter", 0.5: "half", 0.75: "three quarters", 0.95: "95 %"}
#: The columns of the CSV that are counts.
COUNTS = ("train", "validation", "test", "events")
WAYS = ("local", "federated", "pooled", "oracle")


def worst(sites: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """All hospitals, or of many those with the lowest AUROC of the federation's, the lowest first."""
    if len(sites) <= MANY:
        return list(sites)
    known = [(value, site) for site in sites if (value := auroc_of(site, "federated")) is not None]
    return [site for _, site in sorted(known, key=lambda pair: pair[0])[:WORST]]


def below(sites: Sequence[Mapping[str, Any]], who: str, share: float) -> float | None:
    """The AUROC that so large a share of the hospitals that show one lie below; None where none does."""
    found = sorted(value for site in sites if (value := auroc_of(site, who)) is not None)
    return found[min(int(share * len(found)), len(found) - 1)] if found else None


def auroc_of(site: Mapping[str, Any], who: str) -> float | None:
    """A hospital's AUROC by one way of training; None where it has or shows none."""
    found = site.get(who)
    measure = None if found is None else Measure.from_json(found)
    return measure.value if measure is not None and measure.is_estimable else None


def as_csv(sites: Sequence[Mapping[str, Any]]) -> str:
    """A line a hospital: its name, region, counts, and AUROC with its interval by way of training; withheld is empty."""
    ways = [who for who in WAYS if any(site.get(who) for site in sites)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = ("", "_low", "_high")
    writer.writerow(["name", "region", *COUNTS, *(f"auroc_{who}{end}" for who in ways for end in ends)])
    for site in sites:
        row = [site["name"], site.get("region", ""), *(site.get(key) for key in COUNTS)]
        for who in ways:
            found = None if site.get(who) is None else Measure.from_json(site[who])
            row += [None] * 3 if found is None or not found.is_estimable else [found.value, found.low, found.high]
        writer.writerow(row)
    return text.getvalue()
