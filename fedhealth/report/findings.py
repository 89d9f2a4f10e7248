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
from fedhealth.core.split import PARTS
from fedhealth.evaluation import curves, measures
from fedhealth.evaluation.disclosure import withheld
from fedhealth.evaluation.heterogeneity import SiteSums, heterogeneity
from fedhealth.evaluation.intervals import resample
from fedhealth.evaluation.moments import MomentLayout
from fedhealth.evaluation.scores import ScoreSums, SummaryLayout

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from fedhealth.core.measure import Measure
    from fedhealth.core.study import Study

#: Who belongs to no group of a grouping, since the value is missing.
NOT_RECORDED = "not recorded"

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
    floor = max(site["min_cell"] for site in manifest["sites"].values())
    why = _why_withheld(sums["federated"], manifest, floor)
    few = _too_few(by_site, manifest)
    return {
        "schema": 1,
        "study": _study(study, results, manifest),
        "sites": _without_gaps(
            [
                _site(name, sums, why.get(name, ""), results, statistics, manifest, history, seed)
                for name in study.roster
            ],
            _counts(sums["federated"], statistics),
            floor,
        ),
        "rounds": [_round(row, manifest) for row in history],
        "union": {who: _json(_union(found, few, floor, seed)) for who, found in union.items()},
        "comparison": [
            _compared(who, sums[who], _union(union[who], few, floor, seed)["auroc"], why)
            for who in LABELS
            if who in sums
        ],
        "measure_titles": {name: definition.title for name, definition in measures.MEASURES.items()},
        "curves": {
            who: {} if few else _curves(union[who], floor) for who in ("federated", "pooled", "local") if who in union
        },
        "groups": []
        if few
        else _groups(study, union["federated"], [groups for _, groups in by_site.values()], floor, seed),
        "heterogeneity": _heterogeneity(study, statistics, manifest),
        "cost": _cost(history, manifest),
        "privacy": {"statement": f"{results['privacy']} {results['secagg']}"},
        "preprocessing": _preprocessing(study, statistics),
        "notes": _notes(union["federated"], results, why, manifest, few),
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


def _why_withheld(sums: Mapping[str, ScoreSums], manifest: Mapping[str, Any], floor: int) -> dict[str, str]:
    """The hospitals whose results are withheld, each with the reason: a policy, few patients, or another's gap.

    What a report shows of all hospitals together less what it shows of each is what it
    shows of the rest; so the rest is never one hospital, nor a few patients.
    """
    own = {}
    for name, found in sums.items():
        about = manifest["sites"][name]
        note = measures.withheld_below(found, int(about["min_cell"]))
        if not about["shared"]:
            own[name] = "withheld by the hospital's policy"
        elif note:
            own[name] = note
    sizes = {name: (found.n_positive, found.n_negative) for name, found in sums.items()}
    # In the order of the roster, and in the same order for every report of the run.
    return {
        name: own.get(name, "withheld: it would give away another hospital's")
        for name in sorted(withheld(sizes, own, floor=floor))
    }


def _too_few(answered: Collection[str], manifest: Mapping[str, Any]) -> str:
    """Why nothing may be said of all hospitals together; empty where it may.

    With two, each finds the other's part by subtraction: the hospitals' own floor holds for
    who answered, not only for who was asked.
    """
    least = max((int(manifest["sites"][name]["min_cohort"]) for name in answered), default=1)
    few = len(answered) < least
    return f"withheld: {len(answered)} hospitals answered, and one of them asks for at least {least}" if few else ""


def _union(sums: ScoreSums, few: str, floor: int, seed: int) -> dict[str, Measure]:
    if few:
        return dict.fromkeys(measures.MEASURES, not_estimable(few))
    return measures.all_measures(sums, seed=seed, floor=floor)


def _round(row: dict[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the history, without its validation measures where too few hospitals gave them."""
    few = _too_few(row["scored_by"], manifest)
    return row | dict.fromkeys(("auroc", "log_loss"), not_estimable(few).to_json()) if few else row


def _site(
    name: str,
    sums: Mapping[str, Mapping[str, ScoreSums]],
    why: str,
    results: Mapping[str, Any],
    statistics: Mapping[str, Any],
    manifest: Mapping[str, Any],
    history: list[dict[str, Any]],
    seed: int,
) -> dict[str, Any]:
    """A hospital's row; counts of a withheld one are None, and its measures have the reason for a value."""
    about = manifest["sites"][name]
    is_shared, floor = bool(about["shared"]), int(about["min_cell"])
    own = sums["federated"].get(name)
    shape = statistics["shapes"].get(name, [None] * 3) if is_shared and not why else [None] * 3
    row: dict[str, Any] = {
        "name": name,
        **{key: about[key] for key in ("title", "region", "description", "simulated")},
        **{part: _shown(n, floor) for part, n in zip(PARTS, shape, strict=True)},
        "events": None if own is None or why else own.n_positive,
        "status": _status(name, history, results),
        "shared": is_shared,
    }
    if own is None or not is_shared:
        return {**row, **dict.fromkeys(LABELS), "measures": {}}
    if why:
        gone = not_estimable(why)
        missing = {who: gone.to_json() if name in sums.get(who, {}) else None for who in LABELS}
        return {**row, **missing, "measures": _json(dict.fromkeys(measures.MEASURES, gone))}
    aurocs = {who: measures.auroc(sums[who][name]).to_json() if name in sums.get(who, {}) else None for who in LABELS}
    return {**row, **aurocs, "measures": _json(measures.all_measures(own, seed=seed))}


def _shown(count: int | None, floor: int) -> int | None:
    """A count, or None where it is of somebody but of fewer than the floor."""
    return None if count is not None and 0 < count < floor else count


def _counts(sums: Mapping[str, ScoreSums], statistics: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """By column of the hospitals' table, each hospital's true count."""
    columns = {part: {name: shape[i] for name, shape in statistics["shapes"].items()} for i, part in enumerate(PARTS)}
    return {**columns, "events": {name: found.n_positive for name, found in sums.items()}}


def _without_gaps(
    rows: list[dict[str, Any]], counts: Mapping[str, Mapping[str, int]], floor: int
) -> list[dict[str, Any]]:
    """The hospitals' rows, no count of which follows from its column's total.

    A row that is withheld whole is a gap in each column; a count of a few is one in its own.
    """
    for column, each in counts.items():
        gaps = [row["name"] for row in rows if row[column] is None]
        # A part that the study's split leaves empty everywhere tells nothing.
        hidden = (
            withheld({name: (count,) for name, count in each.items()}, gaps, floor=floor) if any(each.values()) else ()
        )
        for row in rows:
            if row["name"] in hidden:
                row[column] = None
    return rows


def _status(name: str, history: list[dict[str, Any]], results: Mapping[str, Any]) -> str:
    failures = [(row["round"], f["reason"]) for row in history for f in row["failed"] if f["site"] == name]
    failures += [("the last evaluation", f["reason"]) for f in results["failed_last"] if f["site"] == name]
    if not failures:
        return "took part"
    rounds = len({where for where, _ in failures})
    return f"gave no answer in {rounds} of {len(history)} rounds: {failures[-1][1]}"


def _compared(who: str, each: Mapping[str, ScoreSums], union: Measure, why: Mapping[str, str]) -> dict[str, Any]:
    found = {name: not_estimable(why[name]) if name in why else measures.auroc(sums) for name, sums in each.items()}
    worst = min((name for name in found if found[name].is_estimable), key=lambda name: found[name].value, default=None)
    return {
        "who": who,
        "label": LABELS[who],
        "mean_site_auroc": measures.mean_measure(list(found.values())).to_json(),
        "union_auroc": union.to_json(),
        "worst_site": None if worst is None else {"name": worst, "auroc": found[worst].to_json()},
    }


def _curves(sums: ScoreSums, floor: int) -> dict[str, Any]:
    if measures.withheld_below(sums, floor):
        return {}
    roc, pr = curves.roc(sums), curves.precision_recall(sums)
    reliable, decided = curves.reliability(sums), curves.decision(sums)
    enough = reliable.patients >= floor
    return {
        "roc": {"x": roc.x.tolist(), "y": roc.y.tolist()},
        "pr": {"x": pr.x.tolist(), "y": pr.y.tolist()},
        "reliability": {
            "predicted": reliable.predicted[enough].tolist(),
            "observed": reliable.observed[enough].tolist(),
            "low": reliable.low[enough].tolist(),
            "high": reliable.high[enough].tolist(),
            "n": reliable.patients[enough].tolist(),
        },
        "decision": {
            "threshold": decided.threshold.tolist(),
            "model": decided.model.tolist(),
            "all": decided.treat_all.tolist(),
            "none": decided.treat_none.tolist(),
        },
    }


def _groups(
    study: Study, union: ScoreSums, by_site: list[dict[str, ScoreSums]], floor: int, seed: int
) -> list[dict[str, Any]]:
    """A row a group; a group with few patients of either class is withheld whole, with another to hide it.

    Those in no group of a grouping are everybody less its groups, whether the report says
    so or not; so they are a row like the others.
    """
    rows: list[dict[str, Any]] = []
    for name, group in study.features.groups.items():
        totals = {title: _summed([groups[f"{name}={title}"] for groups in by_site]) for title in group.titles}
        grouped = _summed(list(totals.values()))
        others = union.coarser(grouped.bins) - grouped
        if others.n:
            totals[NOT_RECORDED] = others
        small = {title: measures.withheld_below(sums, floor) for title, sums in totals.items()}
        hidden = withheld(
            {title: (sums.n_positive, sums.n_negative) for title, sums in totals.items()},
            [title for title, note in small.items() if note],
            floor=floor,
        )
        rows += [
            _group(group.label or name, title, sums, seed)
            if title not in hidden
            else _hidden_group(group.label or name, title, small[title] or "withheld: it would give away another group")
            for title, sums in totals.items()
        ]
    return rows


def _group(by: str, title: str, sums: ScoreSums, seed: int) -> dict[str, Any]:
    return {
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


def _hidden_group(by: str, title: str, note: str) -> dict[str, Any]:
    gone = dict.fromkeys(("auroc", "calibration_slope", "sensitivity_at_specificity"), not_estimable(note).to_json())
    return {"by": by, "level": title, "n": None, "events": None, "note": note, **gone}


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


def _notes(
    union: ScoreSums, results: Mapping[str, Any], why: Mapping[str, str], manifest: Mapping[str, Any], few: str
) -> list[str]:
    if few:
        return [f"All results over hospitals are {few}."]
    bound = measures.auroc_binning_bound(union)
    hidden = ", ".join(manifest["sites"][name]["title"] for name in why)
    return [
        *(
            [
                f"Withheld: {hidden}. Their own results don't follow from what is shown of the others and of all together."
            ]
            if why
            else []
        ),
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
