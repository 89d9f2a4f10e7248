"""Inspection: what a hospital may want to know of its own data before it takes part. It never leaves.

source rows ─consent→ ─harmonise→ counts of what is bad
├ units: is the median where the spec expects it, or where another unit would put it
├ drift: how the values are spread against the last inspection
└ the gate: what a round would be refused for
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from fedhealth.core.errors import DataError, Refused
from fedhealth.core.preprocessor import transformed
from fedhealth.core.split import Split
from fedhealth.governance.consent import permitted
from fedhealth.site.cohort import Cohort
from fedhealth.site.quality import check_fit, check_schema, conversion_here, harmonise
from fedhealth.site.records import local_unit
from fedhealth.site.sources import open_source

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from fedhealth.core.features import Feature, FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.table import Table
    from fedhealth.core.task import Task
    from fedhealth.site.quality import FeatureQuality, QualityReport

SCHEMA = 1
REPORT, QUARANTINE = "report.json", "quarantine.csv"
#: A population stability index from which the spread of values has moved, as credit scoring has it
#: (Siddiqi 2006, Credit Risk Scorecards, p. 136).
MOVED = 0.25
# Deviations of the spec's expectation from which a median is doubted, and how much nearer another unit must put it.
_DOUBT, _NEARER = 1.25, 2.0
_FEWEST = 20


def inspected(
    manifest: SiteManifest,
    folder: Path,
    *,
    spec: FeatureSpec,
    task: Task,
    seed: int,
    split: Split | None = None,
    before: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], QualityReport]:
    """The findings as a JSON document of counts, and the report they come from, which names patients.

    Args:
        manifest: the hospital's own.
        folder: the hospital's own.
        spec: of the study.
        task: of the study.
        seed: of the study; simulated patients are drawn by it, and the split goes by it.
        split: of the study.
        before: the document of the last inspection.

    Raises:
        DataError: the source can't become a cohort at all.
        SettingError: the manifest or the spec is wrong.
    """
    found = open_source(manifest, folder).rows(spec=spec, task=task, manifest=manifest, folder=folder, seed=seed)
    raw = permitted(found)
    table, quality = harmonise(raw, spec, manifest)
    cohort = Cohort.of(table, spec=spec, split=split or Split(), seed=seed, site=manifest.name)
    earlier = _earlier(before, spec)
    patients = quality.rows - quality.unknown_outcome
    features = [
        _feature(feature, quality.features[feature.name], raw, table, manifest, patients, earlier.get(feature.name))
        for feature in spec.features
    ]
    reasons = _reasons(cohort, quality, spec, manifest)
    document = {
        "schema": SCHEMA,
        "site": manifest.name,
        "title": manifest.title,
        "task": task.title,
        "spec": spec.name,
        "schema_version": spec.schema_version,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": len(found),
        "without_consent": len(found) - quality.rows,
        "unknown_outcome": quality.unknown_outcome,
        "rejected": quality.rejected,
        "kept": quality.kept,
        "train": cohort.shape.train,
        "duplicates": duplicates(table),
        "positive": quality.positive,
        "prevalence": quality.positive / quality.kept,
        "prevalence_before": (before or {}).get("prevalence"),
        "label": task.positive_label,
        "quarantine": dict(sorted(Counter(each.code for each in quality.quarantine).items())),
        "features": features,
        "reasons": reasons,
        "is_fit": not reasons,
    }
    return document, quality


def write(document: Mapping[str, Any], quality: QualityReport, folder: Path) -> None:
    """Write the document and the quarantine to `folder`, readable by their owner alone.

    Raises:
        OSError: they can't be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(folder / REPORT, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    listed = io.StringIO()
    rows = csv.writer(listed, lineterminator="\n")
    rows.writerow(["place", "reason"])
    rows.writerows((each.place, each.code) for each in quality.quarantine)
    replace_file(folder / QUARANTINE, listed.getvalue())


def replace_file(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, in place of an older one.

    Raises:
        OSError: it can't be written.
    """
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def last(folder: Path) -> dict[str, Any] | None:
    """The document of the last inspection in `folder`, if there was one.

    Raises:
        DataError: it is none.
    """
    path = folder / REPORT
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise DataError(
            f"{path} must be an inspection of schema {SCHEMA}, found another file. Move it away to start anew."
        )
    return found


def unit_doubt(feature: Feature, values: NDArray[np.float64], claimed: str) -> str:
    """The unit that these values look to be in, where that is another than `claimed`; else empty.

    A feature spec's bin edges say where values lie and how widely. Where their median is far from
    there, and would be near had they come in another unit that the spec knows, it is that one.

    Args:
        feature: numeric, with bins.
        values: brought to the spec's unit as if they had come in the claimed one; NaN for missing.
        claimed: the unit that the hospital names.
    """
    values = values[np.isfinite(values)]
    if feature.kind not in ("numeric", "series") or len(feature.bins) < 2 or len(values) < _FEWEST:
        return ""
    edges = transformed(np.array(feature.bins), feature.transform)
    centre, spread = float(np.median(edges)), float(edges[-1] - edges[0]) / 4
    named = feature.conversion(claimed)
    median = float(np.median(values))

    def distance(value: float) -> float:
        placed = transformed(np.array([value]), feature.transform)[0]
        return math.inf if math.isnan(placed) else abs(float(placed) - centre) / spread

    away = distance(median)
    others = {}
    for unit in (feature.unit, *feature.units):
        found = feature.conversion(unit)
        if found != named:
            others[unit] = distance((median - named.offset) / named.factor * found.factor + found.offset)
    best = min(others, key=lambda unit: others[unit], default="")
    return best if best and away > _DOUBT and others[best] < away / _NEARER else ""


def stability(now: NDArray[np.float64], before: NDArray[np.float64]) -> float:
    """The population stability index of two histograms: the symmetric Kullback-Leibler divergence of their shares.

    Half a patient is added to each cell, so that an empty one is no infinity.
    """
    ours, theirs = ((counts + 0.5) / (counts + 0.5).sum() for counts in (now, before))
    return float(np.sum((ours - theirs) * np.log(ours / theirs)))


def duplicates(table: Table) -> int:
    """Patients whose values and outcome are all those of another before them, of three values at least."""
    encoded = []
    for column in table.columns.values():
        if column.dtype == object:
            _, places = np.unique(np.array([word or "" for word in column], dtype=np.str_), return_inverse=True)
            encoded.append(places.astype(np.float64)[:, None])
        else:
            encoded.append(np.asarray(column, dtype=np.float64).reshape(len(column), -1))
    rows = np.hstack([*encoded, table.outcome[:, None]])
    known = np.isfinite(rows).sum(axis=1) > 3
    rows = np.where(np.isnan(rows[known]), -np.inf, rows[known]) + 0.0  # one bit pattern for missing, one for zero
    if not len(rows):
        return 0
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    return len(whole) - len(np.unique(whole))


def histogram(feature: Feature, column: NDArray[Any]) -> NDArray[np.float64]:
    """How many values lie in each bin of the feature, and last how many are missing."""
    if feature.kind == "categorical":
        seen = Counter(column.tolist())
        return np.array([*(seen[level] for level in feature.levels), seen[None]], dtype=np.float64)
    values = np.asarray(column, dtype=np.float64).ravel()
    known = values[np.isfinite(values)]
    edges: NDArray[np.float64]
    if feature.kind == "binary":
        edges = np.array([0.5])
    elif feature.bins:
        edges = np.array(feature.bins)
    else:
        edges = np.linspace(*(feature.range or (0.0, 1.0)), 9)[1:-1]
    counts = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1)
    return np.array([*counts.tolist(), len(values) - len(known)], dtype=np.float64)


def _feature(
    feature: Feature,
    quality: FeatureQuality,
    raw: Table,
    table: Table,
    manifest: SiteManifest,
    patients: int,
    before: NDArray[np.float64] | None,
) -> dict[str, Any]:
    counts = histogram(feature, table.columns[feature.name])
    claimed = local_unit(manifest, feature)
    drift = None if before is None or len(before) != len(counts) else stability(counts, before)
    return {
        "name": feature.name,
        "title": feature.title,
        "required": feature.required,
        "sensitivity": feature.sensitivity,
        "patients": patients,
        "missing": quality.missing,
        "unreadable": quality.unreadable,
        "implausible": quality.implausible,
        "bad_share": quality.bad / patients,
        "records": dict(sorted(quality.records.items())),
        "unit": claimed,
        "looks_like": unit_doubt(feature, _before_ranges(feature, raw, manifest), claimed),
        "histogram": counts.tolist(),
        "drift": drift,
        "has_moved": drift is not None and drift > MOVED,
    }


def _before_ranges(feature: Feature, raw: Table, manifest: SiteManifest) -> NDArray[np.float64]:
    """Some of a feature's values in the spec's unit, those out of range as well."""
    if feature.name in raw.samples:
        return raw.samples[feature.name]
    column = raw.columns[feature.name]
    if column.dtype == object:
        return np.empty(0)
    values = np.asarray(column, dtype=np.float64).ravel()
    if raw.in_spec_units:
        return values
    conversion = conversion_here(feature, manifest)
    codes = [float(code) for code in feature.missing]
    return np.where(np.isin(values, codes), np.nan, values * conversion.factor + conversion.offset)


def _reasons(cohort: Cohort, quality: QualityReport, spec: FeatureSpec, manifest: SiteManifest) -> list[str]:
    """What a round would be refused for."""
    reasons = []
    try:
        check_schema(spec, manifest)
    except Refused as refused:
        reasons.append(str(refused))
    try:
        check_fit(quality, spec, manifest)
    except Refused as refused:
        reasons.append(str(refused))
    if cohort.shape.train < manifest.policy.min_patients:
        reasons.append(
            f"{manifest.name}: a round must have at least {manifest.policy.min_patients} training patients, found "
            f"{cohort.shape.train}. Wait for more, or lower policy.min_patients in site.yaml."
        )
    return reasons


def _earlier(before: Mapping[str, Any] | None, spec: FeatureSpec) -> dict[str, NDArray[np.float64]]:
    if not before or before.get("spec") != spec.name:
        return {}
    return {each["name"]: np.array(each["histogram"], dtype=np.float64) for each in before.get("features", ())}
