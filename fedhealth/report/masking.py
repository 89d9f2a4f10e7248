"""What a masked run can say of its masking: how many hospitals each sum is of, who was lost where, and what it took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fedhealth.core.study import Study

#: Why a hospital's own result is not there.
NOBODYS_OWN = "no hospital's own result exists under secure aggregation"

#: By the type of an exchange's messages, what it is; every other type is the question itself.
STAGES = {
    "question": "Train or score, then advertise keys",
    "query.share": "Share secrets",
    "query.mask": "Send the masked vector",
    "query.confirm": "Confirm who is in the sum",
    "query.reveal": "Open the sum",
}
SHORT = dict(zip(STAGES, ("work", "share", "mask", "confirm", "reveal"), strict=True))


def masking(study: Study, history: list[dict[str, Any]], results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part `masking` of a report; None where the run was not masked."""
    if "counted" not in results:
        return None
    asked = [(row["round"], exchange) for row in history for exchange in row["exchanges"]]
    last = [(None, exchange) for exchange in results["exchanges"]]
    return {
        "min_cohort": study.secagg["min_cohort"],
        "colluders": study.secagg["colluders"],
        "tested_on": len(results["counted"]),
        "stages": [_stage(kind, [x for _, x in (*asked, *last) if _kind(x) == kind]) for kind in STAGES],
        "lost": _lost([*asked, *last]),
        "rounds": [{"round": row["round"], "hospitals": len(row["trained_by"])} for row in history],
    }


def _stage(kind: str, exchanges: list[Mapping[str, Any]]) -> dict[str, Any]:
    n = max(len(exchanges), 1)
    return {
        "stage": SHORT[kind],
        "title": STAGES[kind],
        "questions": len(exchanges),
        "hospitals": sum(exchange["answered"] for exchange in exchanges) / n,
        "lost": sum(len(exchange["lost"]) for exchange in exchanges),
        "bytes_up": sum(exchange["bytes_up"] for exchange in exchanges),
        "bytes_down": sum(exchange["bytes_down"] for exchange in exchanges),
        "took_s": sum(exchange["took_s"] for exchange in exchanges),
    }


def _lost(exchanges: Iterable[tuple[int | None, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Each hospital with each stage it was lost at, and in which rounds; None is the last evaluation."""
    found: dict[tuple[str, str], list[int | None]] = {}
    for round_, exchange in exchanges:
        for site in exchange["lost"]:
            rounds = found.setdefault((site, SHORT[_kind(exchange)]), [])
            if round_ not in rounds:
                rounds.append(round_)
    return [{"site": site, "stage": stage, "rounds": rounds} for (site, stage), rounds in found.items()]


def _kind(exchange: Mapping[str, Any]) -> str:
    return str(exchange["purpose"]) if exchange["purpose"] in STAGES else "question"
