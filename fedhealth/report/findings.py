"""The findings: a run's stored sums as the numbers of its report.

Only sums are read. Whatever the report says of a patient group or a hospital is worked
out here from what that hospital let out, and withheld where its policy says so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fedhealth.core.measure import not_estimable
from fedhealth.core.preprocessor import Preprocessor, Scaled
from fedhealth.core.seeds import seed_of
from fedhealth.evaluation import curves, measures
from fedhealth.evaluation.heterogeneity import SiteSums, heterogeneity
from fedhealth.evaluation.intervals import resample
from fedhealth.evaluation.moments import MomentLayout
from fedhealth.evaluation.scores import ScoreSums, SummaryLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedhealth.core.measure import Measure
    from fedhealth.core.study import Study

LABELS = {
    "local": "Each hospital alone",
    "federated": "Federated",
    "pooled": "All patients in one place",
    "oracle": "True risk (best possible)",
}


def findings(
    study: Study,
    *,
    results: Mapping[str, Any],
    baselines: Mapping[str, Any],
    statistics: Mapping[str, Any],
    manifest: Mapping[str, Any],
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    """The report as one JSON document (see `fedhealth.report`).

    Args:
        study: the study that ran.
        results: `results.json`.
        baselines: `baselines.json`.
        statistics: `statistics.json`.
        manifest: `manifest.json`.
        history: the rows of `metrics.jsonl`.
    """
    layout = SummaryLayout(groups=study.features.group_names)
    by_site = {site: layout.unpack(np.array(vector)) for site, vector in results["sums"].items()}
    sums = {"federated": {site: overall for site, (overall, _) in by_site.items()}}
    for who, found in baselines.items():
        sums[who] = {site: ScoreSums.from_vector(np.array(vector)) for site, vector in found.items()}
    union = {who: _summed(list(each.values())) for who, each in sums.items()}
    seed = seed_of(study.seed, purpose="bootstrap")
    floor = max((site["min_cell"] for site in manifest["sites"].values()), default=0)
    return {
        "schema": 1,
        "study": _study(study, results, manifest),
        "sites": _without_lone_gaps(
            [_site(name, sums, results, statistics, manifest, history, seed) for name in study.roster]
        ),
        "rounds": history,
        "union": {who: _json(measures.all_measures(found, seed=seed)) for who, found in union.items()},
        "comparison": [_compared(who, sums[who], union[who], manifest) for who in LABELS if who in sums],
        "measure_titles": {name: definition.title for name, definition in measures.MEASURES.items()},
        "curves": {who: _curves(union[who]) for who in ("federated", "pooled", "local") if who in union},
        "groups": _groups(study, [groups for _, groups in by_site.values()], floor, seed),
        "heterogeneity": _heterogeneity(study, statistics, manifest),
        "cost": _cost(history, manifest),
        "privacy": {"statement": f"{results['privacy']} {results['secagg']}"},
        "preprocessing": _preprocessing(study, statistics),
        "notes": _notes(union["federated"], results),
        "manifest": {
            key: manifest[key]
            for key in ("config_sha256", "weights_sha256", "packages", "python", "platform", "threads")
        },
    }


def _study(study: Study, results: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    parts = {key: str(getattr(study, key)["_target_"]).rpartition(".")[2] for key in ("strategy", "model")}
    rooms = {key: str(getattr(study, key)["_target_"]).split(".")[-2] for key in ("privacy", "secagg")}
    return {
        "name": study.name,
        "digest": results["study"],
        "title": study.title,
        "task": study.task.title,
        "positive_label": study.task.positive_label,
        **parts,
        **rooms,
        "seed": study.seed,
        "rounds_planned": study.rounds,
        "rounds_done": results["rounds_done"],
        "best_round": results["best_round"],
        "stopped_because": results["stopped_because"],
        "started": manifest["started"],
        "code_version": manifest["code_version"],
    }


def _site(
    name: str,
    sums: Mapping[str, Mapping[str, ScoreSums]],
    results: Mapping[str, Any],
    statistics: Mapping[str, Any],
    manifest: Mapping[str, Any],
    history: list[dict[str, Any]],
    seed: int,
) -> dict[str, Any]:
    about = manifest["sites"][name]
    is_shared, floor = bool(about["shared"]), int(about["min_cell"])
    own = sums["federated"].get(name)
    shape = statistics["shapes"].get(name, [None] * 3) if is_shared else [None] * 3
    row: dict[str, Any] = {
        "name": name,
        **{key: about[key] for key in ("title", "region", "description", "simulated")},
        **{part: _shown(n, floor) for part, n in zip(("train", "validation", "test"), shape, strict=True)},
        # Few without the event tell as much as few with it.
        "events": own.n_positive
        if own is not None and is_shared and min(own.n_positive, own.n_negative) >= floor
        else None,
        "status": _status(name, history, results),
        "shared": is_shared,
    }
    if own is None or not is_shared:
        return {**row, **dict.fromkeys(LABELS), "measures": {}}
    aurocs = {who: _auroc(sums[who][name], floor).to_json() if name in sums.get(who, {}) else None for who in LABELS}
    return {**row, **aurocs, "measures": _json(measures.all_measures(own, seed=seed, floor=floor))}


def _shown(count: int | None, floor: int) -> int | None:
    """A count, or None where it is of somebody but of fewer than the floor."""
    return None if count is not None and 0 < count < floor else count


def _without_lone_gaps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The hospitals' rows, no count of which follows from the total over all of them.

    A count that a single hospital withholds is the total less the others', so the
    smallest of the others is withheld with it.
    """
    for count in ("train", "validation", "test", "events"):
        shown = [row for row in rows if row[count] is not None]
        if len(shown) == len(rows) - 1 and shown:
            min(shown, key=lambda row: row[count])[count] = None
    return rows


def _auroc(sums: ScoreSums, floor: int) -> Measure:
    note = measures.withheld_below(sums, floor)
    # One class only is said as such; it tells of no small cell.
    return not_estimable(note) if note and min(sums.n_positive, sums.n_negative) else measures.auroc(sums)


def _status(name: str, history: list[dict[str, Any]], results: Mapping[str, Any]) -> str:
    failures = [(row["round"], f["reason"]) for row in history for f in row["failed"] if f["site"] == name]
    last = [f["reason"] for f in results["failed_last"] if f["site"] == name]
    reasons = [reason for _, reason in failures] + last
    if not reasons:
        return "took part"
    rounds = [f"in {len({number for number, _ in failures})} of {len(history)} rounds"] if failures else []
    when = " and ".join(rounds + ["in the last evaluation"] * bool(last))
    return f"gave no answer {when}: {reasons[-1]}"


def _compared(who: str, each: Mapping[str, ScoreSums], union: ScoreSums, manifest: Mapping[str, Any]) -> dict[str, Any]:
    shown = {
        name: _auroc(sums, int(manifest["sites"][name]["min_cell"]))
        for name, sums in each.items()
        if manifest["sites"][name]["shared"]
    }
    worst = min((name for name in shown if shown[name].is_estimable), key=lambda name: shown[name].value, default=None)
    return {
        "who": who,
        "label": LABELS[who],
        "mean_site_auroc": measures.mean_measure(list(shown.values())).to_json(),
        "union_auroc": measures.auroc(union).to_json(),
        "worst_site": None if worst is None else {"name": worst, "auroc": shown[worst].to_json()},
    }


def _curves(sums: ScoreSums) -> dict[str, Any]:
    roc, pr = curves.roc(sums), curves.precision_recall(sums)
    reliable, decided = curves.reliability(sums), curves.decision(sums)
    return {
        "roc": {"x": roc.x.tolist(), "y": roc.y.tolist()},
        "pr": {"x": pr.x.tolist(), "y": pr.y.tolist()},
        "reliability": {
            "predicted": reliable.predicted.tolist(),
            "observed": reliable.observed.tolist(),
            "low": reliable.low.tolist(),
            "high": reliable.high.tolist(),
            "n": reliable.patients.tolist(),
        },
        "decision": {
            "threshold": decided.threshold.tolist(),
            "model": decided.model.tolist(),
            "all": decided.treat_all.tolist(),
            "none": decided.treat_none.tolist(),
        },
    }


def _groups(study: Study, by_site: list[dict[str, ScoreSums]], floor: int, seed: int) -> list[dict[str, Any]]:
    """A row a group; a group with few patients of either class is withheld whole.

    A withheld group could be had back as the difference between everyone and the others,
    so where a grouping has just one, the next smallest of it is withheld too.
    """
    rows: list[dict[str, Any]] = []
    for name, group in study.features.groups.items():
        totals = {title: _summed([groups[f"{name}={title}"] for groups in by_site]) for title in group.titles}
        size = {title: min(sums.n_positive, sums.n_negative) for title, sums in totals.items()}
        hidden = {title for title in totals if size[title] < floor}
        if len(hidden) == 1 and len(totals) > 1:
            hidden.add(min(size.keys() - hidden, key=size.__getitem__))
        for title, sums in totals.items():
            by = group.label or name
            if title in hidden:
                gone = not_estimable(f"withheld: fewer than {floor} patients with or without the outcome")
                note = gone.note if size[title] < floor else "withheld: it would give away another group"
                rows.append({"by": by, "level": title, "n": None, "events": None, "note": note}
                            | dict.fromkeys(("auroc", "calibration_slope", "sensitivity_at_specificity"), gone.to_json()))  # fmt: skip
                continue
            rows.append(
                {
                    "by": by,
                    "level": title,
                    "n": sums.n,
                    "events": sums.n_positive,
                    "auroc": measures.auroc(sums).to_json(),
                    "calibration_slope": measures.calibration_slope(sums).to_json(),
                    "sensitivity_at_specificity": measures.sensitivity_at_specificity(
                        sums, draws=resample(sums, seed=seed)
                    ).to_json(),
                    "note": "",
                }
            )
    return rows


def _heterogeneity(study: Study, statistics: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the hospitals differ, from the sums of those that share their results."""
    shared = [name for name in statistics["second"] if manifest["sites"][name]["shared"]]
    if len(shared) < 2:
        return None
    found = heterogeneity({name: _site_sums(study, statistics, name) for name in shared})
    titles = [manifest["sites"][name]["title"] for name in shared]
    return {
        "rows": [
            {
                "feature": feature.name,
                "label": feature.label or feature.name,
                "icc_value": _number(found.value.get(feature.name, math.nan)),
                "icc_missing": _number(found.missingness.get(feature.name, math.nan)),
            }
            for feature in study.features.features
        ],
        "icc_outcome": _number(found.outcome),
        "summary": (
            f"The median share of variance that lies between hospitals is {found.median_value:.3f} for values and "
            f"{found.median_missingness:.3f} for whether a value is missing; for the outcome it is {found.outcome:.3f}."
        ),
        "site_distance": {"names": titles, "matrix": [[_number(x) for x in row] for row in found.distance.tolist()]},
    }


def _site_sums(study: Study, statistics: Mapping[str, Any], name: str) -> SiteSums:
    """One hospital's sums as the measures of heterogeneity read them."""
    layout = MomentLayout(study.features)
    counts, totals, levels, missing, outcome = layout.sections(np.array(statistics["first"][name]))
    preprocessor = Preprocessor.from_json(statistics["preprocessor"])
    centre = np.array([fitted.mean for fitted in preprocessor.features if isinstance(fitted, Scaled)])
    means = totals / np.maximum(counts, 1)
    # The second pass is about the means of all hospitals; what lies beyond its own mean is taken off.
    squares = np.maximum(np.array(statistics["second"][name]) - counts * (means - centre) ** 2, 0)
    del levels
    features = [feature.name for feature in layout.numeric]
    return SiteSums(
        patients=float(outcome.sum()),
        events=float(outcome[1]),
        count=dict(zip(features, counts.tolist(), strict=True)),
        mean=dict(zip(features, means.tolist(), strict=True)),
        m2=dict(zip(features, squares.tolist(), strict=True)),
        missing=dict(zip(study.features.names, missing.tolist(), strict=True)),
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cost(history: list[dict[str, Any]], manifest: Mapping[str, Any]) -> dict[str, Any]:
    rounds_s = sum(row["took_s"] for row in history)
    return {
        **{key: sum(row[key] for row in history) for key in ("bytes_up", "bytes_down", "messages")},
        **{key: manifest[key] for key in ("wall_s", "cpu_s", "peak_memory_bytes")},
        "start_s": max(manifest["wall_s"] - rounds_s, 0.0),
    }


def _preprocessing(study: Study, statistics: Mapping[str, Any]) -> list[dict[str, Any]]:
    preprocessor = Preprocessor.from_json(statistics["preprocessor"])
    layout = MomentLayout(study.features)
    total = np.sum([np.array(statistics["first"][site]) for site in sorted(statistics["second"])], axis=0)
    counts, *_ = layout.sections(total)
    missing = dict(zip(study.features.names, layout.sections(total)[3].tolist(), strict=True))
    present = dict(zip((f.name for f in layout.numeric), counts.tolist(), strict=True))
    rows = []
    for fitted in preprocessor.features:
        if not isinstance(fitted, Scaled):
            continue
        name, seen = fitted.name, present[fitted.name] + missing[fitted.name]
        share = missing[name] / seen if seen else None
        log = " (log)" if study.features[name].transform == "log" else ""
        label = study.features[name].title + log
        rows.append({"name": name, "label": label, "mean": fitted.mean, "sd": fitted.sd, "missing_share": share})
    return rows


def _notes(union: ScoreSums, results: Mapping[str, Any]) -> list[str]:
    bound = measures.auroc_binning_bound(union)
    return [
        f"Every number is worked out from sums over hospitals: score histograms of {union.bins} bins and a few totals. "
        f"Binning moves the AUROC of all patients by at most {bound:.1g}.",
        "A measure that can't be estimated, such as an AUROC where one outcome never occurs, is said to be so and is never 0.",
        f"The model has {results['parameters']:,} parameters and is the one of round {results['best_round']}, chosen on "
        "validation patients; every result here is on test patients, who took no part in training or choosing.",
    ]


def _summed(each: list[ScoreSums]) -> ScoreSums:
    total, *rest = each
    for sums in rest:
        total = total + sums
    return total


def _json(found: Mapping[str, Measure]) -> dict[str, Any]:
    return {name: measure.to_json() for name, measure in found.items()}
