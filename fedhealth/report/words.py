"""Numbers in words: counts, sizes, durations, and the sentence that says what was found."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fedhealth.core.measure import Measure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MINUS = "\N{MINUS SIGN}"


def measure(found: Mapping[str, Any] | None) -> Measure | None:
    """The measure in a report's entry, None where the report has none."""
    return None if found is None else Measure.from_json(dict(found))


def decimal(x: float | None, places: int = 3) -> str:
    """`x` with that many decimals and a true minus sign; an en dash where there is none."""
    if x is None or math.isnan(x):
        return "\N{EN DASH}"
    text = f"{x:,.{places}f}"
    return text[1:] if float(text.replace(",", "")) == 0 and text.startswith("-") else text.replace("-", MINUS)


def gain(x: float) -> str:
    """A difference to three decimals, its sign always shown."""
    text = decimal(x)
    return text if text.startswith(MINUS) or x == 0 else f"+{text}"


def interval(found: Measure) -> str:
    """The 95 % interval as `[low, high]`, empty where there is none."""
    return "" if math.isnan(found.low) or math.isnan(found.high) else f"[{decimal(found.low)}, {decimal(found.high)}]"


def with_interval(found: Measure) -> str:
    """`0.780 [0.760, 0.800]`, or `not estimable`."""
    return f"{decimal(found.value)} {interval(found)}".rstrip() if found.is_estimable else "not estimable"


def count(n: float | None) -> str:
    """A whole number with thousands parted; an en dash where it is withheld."""
    return "\N{EN DASH}" if n is None else f"{n:,.0f}"


def counted(n: int, noun: str) -> str:
    """`1 hospital`, `8 hospitals`."""
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def size(n_bytes: float | None) -> str:
    """Bytes in the largest decimal unit that keeps the number at 1 or more: `4.2 MB`."""
    if n_bytes is None:
        return "\N{EN DASH}"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}" if n_bytes < 999.5 * factor else f"{n_bytes / factor:,.0f} {unit}"
    return f"{n_bytes:.0f} B"


def duration(seconds: float | None) -> str:
    """Seconds as `0.42 s`, `37.1 s`, `4 min 08 s` or `2 h 05 min`."""
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def moment(when: str) -> str:
    """An ISO 8601 time to the minute in UTC; what is not one is said as it is."""
    try:
        at = datetime.fromisoformat(when)
    except ValueError:
        return when
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at.tzinfo else f"{at:%Y-%m-%d %H:%M}"


def rounds_listed(rounds: list[int]) -> str:
    """Round numbers with runs joined: `3, 7\N{EN DASH}9`."""
    runs: list[list[int]] = []
    for number in sorted(set(rounds)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}\N{EN DASH}{b}" for a, b in runs)


#: How a hospital's patients are parted.
PARTS = ("train", "validation", "test")


def patients(sites: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Patients by part over the `sites` that show their counts; empty where none does.

    `events`, the test patients with the outcome, is there where each of those sites shows it.
    """
    shown = [site for site in sites if all(site.get(part) is not None for part in PARTS)]
    if not shown:
        return {}
    keys = (*PARTS, "events") if all(site.get("events") is not None for site in shown) else PARTS
    return {"sites": len(shown), **{key: sum(site[key] for site in shown) for key in keys}}


def finding(report: Mapping[str, Any]) -> str:
    """What the study found, in one or two sentences written from its numbers alone."""
    sites = report["sites"]
    auroc = measure(((report.get("union") or {}).get("federated") or {}).get("auroc"))
    where = f"Trained across {counted(len(sites), 'hospital')}" if len(sites) != 1 else "Trained at 1 hospital"
    lead = f"{where} without moving a patient record"
    if auroc is None:
        return f"{lead}."
    if not auroc.is_estimable:
        return f"{lead}. The model\N{RIGHT SINGLE QUOTATION MARK}s AUROC is not estimable{_because(auroc)}."
    counts = patients(sites)
    whole = counts and counts["sites"] == len(sites)
    on = counted(counts["test"], "held-out patient") if whole else "the held-out patients"
    if follow_up := report.get("follow_up"):
        return f"{lead}, {_over_time(report, auroc, follow_up)}.{_against(report)}"
    return f"{lead}, the model reaches AUROC {with_interval(auroc)} on {on}.{_against(report)}"


def _over_time(report: Mapping[str, Any], auroc: Measure, follow_up: Mapping[str, Any]) -> str:
    """How well the model orders patients by when, and by whether before the horizon."""
    c = measure(report["union"]["federated"].get("c_index"))
    order = f"Harrell’s C {with_interval(c)} within hospitals and " if c else ""
    known = None if follow_up["patients"] is None else follow_up["patients"] - follow_up["censored"]
    on = f" on the {counted(known, 'held-out patient')} of known status then" if known is not None else ""
    return f"the model reaches {order}AUROC {with_interval(auroc)} for an event by {follow_up['horizon']}{on}"


def _because(found: Measure) -> str:
    return f": {found.note.rstrip('.')}" if found.note else ""


def _against(report: Mapping[str, Any]) -> str:
    """The average hospital with the federated model and with its own, on the same patients."""
    means = {row["who"]: measure(row.get("mean_site_auroc")) for row in report.get("comparison") or []}
    ours, alone = means.get("federated"), means.get("local")
    if len(report["sites"]) == 1 or ours is None or alone is None or not (ours.is_estimable and alone.is_estimable):
        return ""
    where = f"In the {ours.note}" if ours.note else "At the average hospital"
    return (
        f" {where} it reaches {decimal(ours.value)}, "
        f"where a model trained on that hospital alone reaches {decimal(alone.value)}."
    )
