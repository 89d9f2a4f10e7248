"""The card of a release and its validation, as Markdown and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedhealth.core.study import Study
    from fedhealth.evaluation.margins import MarginLayout

NOT_FOR = (
    "deciding about any patient: no row is a person",
    "rare diseases, small groups and whatever takes more than two variables at a time: only counts of values and of "
    "pairs were learned, and of small counts the noise is larger than they are",
    "reporting a result as found in patients: repeat it on real ones first",
    "values within a bin: they are drawn, so quantiles finer than the bins and tails beyond them are made up",
    "finding out who was treated where: no hospital is named, and hospitals' differences are mixed",
)


def card(
    study: Study,
    layout: MarginLayout,
    *,
    rows: int,
    hospitals: int,
    promised: str,
    alone: str,
    statement: str,
    noise: float,
    compared: str,
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """What a release is, as JSON.

    Args:
        study: whose patients it is of.
        layout: of the counts.
        rows: of the release.
        hospitals: how many were in the sum.
        promised: the guarantee, with all that its epsilon depends on.
        alone: the same against whoever opens a hospital's masks.
        statement: of the mechanism.
        noise: the standard deviation on each count, in patients.
        compared: whether it was compared with real patients, and what that found.
        digests: SHA-256 of the study and of what was written.
    """
    return {
        "title": f"Synthetic patients: {study.title}",
        "outcome": study.task.title,
        "rows": rows,
        "hospitals_in_the_sum": hospitals,
        "made_from": f"{layout.size:,} noisy counts of values and pairs of {len(layout.attributes)} variables",
        "noise_on_a_count": round(noise, 2),
        "privacy": promised,
        "privacy_where_masks_are_opened": alone,
        "mechanism": statement,
        "not_covered": (
            "A patient of two hospitals spends at both. The bound is for this release; others of the same patients add to "
            "it, as each hospital's ledger says. What is learned about people like a patient is not a loss it bounds."
        ),
        "compared_with_patients": compared,
        "variables": {
            attribute.name: {
                "cells": attribute.size,
                **({"levels": list(attribute.levels)} if attribute.levels else {"edges": list(attribute.edges)}),
            }
            for attribute in layout.attributes
        },
        "not_for": list(NOT_FOR),
        "sha256": dict(digests),
    }


def card_text(found: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    lines = [
        f"# {found['title']}",
        "",
        f"{found['rows']:,} made-up patients. No row is a person. Drawn from {found['made_from']}, summed under masks over "
        f"{found['hospitals_in_the_sum']} hospitals.",
        "",
        "## Privacy",
        "",
        f"{found['mechanism']} Promised: {found['privacy']}.",
        "",
        f"Against whoever opens a hospital's masks, its own noise alone: {found['privacy_where_masks_are_opened']}.",
        "",
        f"Each count has noise of {found['noise_on_a_count']:g} patients (standard deviation). {found['not_covered']}",
        "",
        found["compared_with_patients"],
        "",
        "## Not for",
        "",
        *(f"- {one}" for one in found["not_for"]),
        "",
        "## Variables",
        "",
        "| variable | cells | cut at |",
        "|---|---|---|",
        *(f"| {name} | {one['cells']} | {_cuts(one)} |" for name, one in found["variables"].items()),
        "",
        "## Digests",
        "",
        *(f"- {name}: `{value}`" for name, value in found["sha256"].items()),
    ]
    return "\n".join(lines) + "\n"


def validation_text(found: Mapping[str, Any]) -> str:
    """The validation report as Markdown."""
    area, apart, near = found["auroc"], found["total_variation"], found["nearest_record_share"]
    k = found["k_map"]
    lines = [
        "# How good the release is, and what it gives away",
        "",
        "FOR THE HOSPITALS. Worked out from real records without noise and covered by no epsilon: keep it apart from the release, and never publish it.",
        "",
        "| measure | synthetic | real |",
        "|---|---|---|",
        f"| AUROC of a model trained on it, on real patients held out | {_number(area['synthetic'])} | {_number(area['real'])} |",
        *(
            f"| … {group} | {_number(one['synthetic'])} | {_number(one['real'])} |"
            for group, one in found["auroc_by_group"].items()
        ),
        *(
            f"| total variation from the training patients, {words} | {_number(apart['synthetic'][key])} | {_number(apart['held_out'][key])} |"
            for key, words in (
                ("one_way_mean", "one variable, mean"),
                ("one_way_worst", f"one variable, worst ({apart['synthetic']['one_way_worst_of']})"),
                ("two_way_mean", "two variables, mean"),
                ("two_way_worst", "two variables, worst"),
            )
        ),
        "",
        "*Real* is a model trained on the real training patients, and for total variation the patients held out.",
        "",
        "| attack | found | where nothing leaks |",
        "|---|---|---|",
        f"| share of synthetic patients nearer to a training patient than to one held out | {_number(near)} ± {_number(found['nearest_record_error'])} | 0.500 |",
        f"| AUROC of telling training patients by their nearest synthetic one | {_number(found['membership_auroc'])} | 0.500 |",
        f"| real patients with a synthetic one's {', '.join(k['quasi_identifiers']) or 'quasi-identifiers (none)'}: least, median | {k['least']}, {k['median']:g} | large |",
        f"| share of synthetic patients whose combination few real patients have; nobody has | {_number(k['rare_share'])}; {_number(k['of_nobody_share'])} | small |",
        "",
        "An attack that finds nothing proves nothing; the bound on the data card does.",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "withheld: few patients" if value is None else f"{value:.3f}"


def _cuts(one: Mapping[str, Any]) -> str:
    return ", ".join(one["levels"]) if "levels" in one else ", ".join(f"{edge:g}" for edge in one["edges"])
