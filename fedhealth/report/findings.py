"""The findings: a run's stored sums as the numbers of its report.

Only sums are read. Whatever the report says of a patient group or a hospital is worked
out here from what that hospital let out, and withheld where its policy says so.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fedhealth.core.measure import Measure, not_estimable
from fedhealth.core.preprocessor import Preprocessor, Scaled, Series
from fedhealth.core.seeds import seed_of
from fedhealth.core.shared_out import shared_out
from fedhealth.core.split import PARTS
from fedhealth.core.update import ALL
from fedhealth.evaluation import curves, measures
from fedhealth.evaluation.disclosure import is_lone, withheld
from fedhealth.evaluation.heterogeneity import SiteSums, heterogeneity
from fedhealth.evaluation.intervals import resample
from fedhealth.evaluation.moments import MomentLayout
from fedhealth.evaluation.scores import ScoreSums, SummaryLayout
from fedhealth.evaluation.sparse import dense
from fedhealth.evaluation.survival import SURVIVAL_MEASURES, SurvivalSums
from fedhealth.report.masking import NOBODYS_OWN, masking

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from numpy.typing import NDArray

    from fedhealth.core.study import Study

#: Fewer bootstraps, some 10 ms each, are done before a process has started.
BOOTSTRAPS = 4

#: Who belongs to no group of a grouping, since the value is missing.
NOT_RECORDED = "not recorded"

#: What of a round's row is for the coordinator alone.
COORDINATORS_OWN = ("watched", "scored_by", "trained_by", "events", "others", "exchanges")

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
    processes: int = 1,
) -> dict[str, Any]:
    """The report as one JSON document (see `fedhealth.report`).

    Args:
        study: the study that ran.
        results: `results.json`.
        baselines: `baselines.json`.
        statistics: `statistics.json`.
        manifest: `manifest.json`.
        history: the rows of `metrics.jsonl`.
        processes: share the bootstraps of all patients, groups and hospitals; the numbers do not depend on them.
    """
    layout, plain = (SummaryLayout.of(study, grouped=grouped) for grouped in (True, False))
    by_site = {site: layout.unpack(dense(vector)) for site, vector in results["sums"].items()}
    sums = {"federated": {site: overall for site, (overall, _) in by_site.items()}}
    followed = _survival(study, results, baselines)
    totals = {"federated": layout.unpack(_sum(results["sums"].values()))[0]}
    for who, found in baselines.items():
        sums[who] = {site: plain.unpack(dense(vector))[0] for site, vector in found.items()}
        totals[who] = plain.unpack(_sum(found.values()))[0]
    seed = seed_of(study.seed, purpose="bootstrap")
    is_masked = ALL in by_site
    summed = len(results["counted"]) if is_masked else None
    floor = Floor.of(manifest, united=summed)
    why = {} if is_masked else _why_withheld(sums["federated"], manifest, floor)
    few = _why_no_total(sums["federated"], why, floor)
    lost = {name: int(found.censored) for name, found in followed.get("federated", {}).items()}
    few_lost = {
        name for name, n in lost.items() if not is_masked and _is_few([n], int(manifest["sites"][name]["min_cell"]))
    }
    hides_lost = withheld({name: (n,) for name, n in lost.items()}, few_lost | why.keys(), floor=floor.cell)
    whole, noise = totals["federated"], _noise(study, "federated", 1)

    def united() -> dict[str, dict[str, Measure]]:
        all_patients = {
            who: _union(
                each, totals[who], sums["federated"], few, floor, seed, noise=_noise(study, who, summed or len(each))
            )
            for who, each in sums.items()
        }
        return {
            who: _timed(followed[who].values(), found, hides_lost=_is_few(lost.values(), floor.cell))
            if who in followed
            else found
            for who, found in all_patients.items()
        }

    def grouped() -> list[dict[str, Any]]:
        return [] if few or layout.is_noisy else _groups(study, list(by_site.values()), floor, seed)

    def row_of(name: str) -> dict[str, Any]:
        return _site(
            name, sums, followed, why.get(name, ""), name in hides_lost, results, statistics, manifest, history, seed, noise
        )  # fmt: skip

    # This process, which takes the first, need not copy what it writes to, and gets the longest.
    pieces: list[Callable[[], Any]] = [grouped, united, *(partial(row_of, name) for name in study.roster)]
    groups, union, *rows = shared_out(lambda piece: piece(), pieces, processes=processes, least=BOOTSTRAPS)

    return rounded(  # type: ignore[no-any-return]
        {
            "schema": 1,
            "study": _study(study, results, manifest, history),
            "sites": _without_gaps(
                rows,
                _counts(sums["federated"], statistics),
                floor.cell,
            ),
            "rounds": _rounds(
                history,
                statistics["shapes"],
                floor,
                is_open=not why and all(manifest["sites"][name]["shared"] for name in study.roster),
            ),
            "union": {who: _json(found) for who, found in union.items()},
            "comparison": [
                _compared(who, {} if is_masked else sums[who], union[who]["auroc"], why, noise=_noise(study, who, 1))
                for who in LABELS
                if who in sums
            ],
            "measure_titles": _titles(study),
            **({"follow_up": _follow_up(study, list(followed["federated"].values()), floor)} if followed else {}),
            "curves": {
                who: _curves(totals[who], floor.cell) if union[who]["auroc"].is_estimable else {}
                for who in ("federated", "pooled", "local")
                if who in union
            },
            "groups": groups,
            "heterogeneity": None if is_masked else _heterogeneity(study, statistics, manifest, why, floor),
            "masking": masking(study, history, results),
            "cost": _cost(history, manifest),
            "privacy": {"statement": f"{results['privacy']} {results['secagg']}"},
            "preprocessing": _preprocessing(study, statistics, floor),
            "notes": _notes(
                study, whole, results, why, manifest, few, floor, looked=any(row["scored_by"] for row in history)
            ),
            "manifest": {
                key: manifest[key]
                for key in ("config_sha256", "weights_sha256", "packages", "python", "platform", "threads")
            },
        }
    )


@dataclass(frozen=True, slots=True)
class Floor:
    """The strictest of the hospitals' floors, which a report over all of them keeps.

    Attributes:
        cell: patients that a count must be of.
        hospitals: hospitals that a total must be of: with two, each finds the other's part.
        united: of how many hospitals a masked total is; None where each one's part is known.
    """

    cell: int
    hospitals: int
    united: int | None = None

    @classmethod
    def of(cls, manifest: Mapping[str, Any], *, united: int | None = None) -> Floor:
        """The floor of a run's hospitals."""
        sites = manifest["sites"].values()
        return cls(max(int(site["min_cell"]) for site in sites), max(int(site["min_cohort"]) for site in sites), united)

    def why_few(self, patients: list[int]) -> str:
        """Why a total over hospitals with so many patients each is withheld; empty where it is not.

        Under masks nobody knows how many of them have patients in it, so all in the sum count.
        """
        if self.united is not None and self.united >= self.hospitals:
            return ""
        if is_lone(patients, hospitals=self.hospitals, floor=self.cell):
            return f"withheld: it must be of at least {self.hospitals} hospitals with patients of their own"
        return ""

    def are_of_one(self, patients: list[int]) -> bool:
        """Whether most of so many patients at each hospital are at one, and few at the others; unknown under masks."""
        if self.united is not None and self.united >= self.hospitals:
            return False
        most = max(patients, default=0)
        return sum(patients) - most < min(most, self.cell)

    def why_withheld(self, each: Collection[ScoreSums]) -> str:
        """Why a total of such sums is withheld; empty where it is not.

        It must be of enough hospitals, and neither outcome of little more than one's: that one
        alone would place the patients whom a measure compares with the others.
        """
        few = self.why_few([sums.n for sums in each])
        sides = ([sums.n_positive for sums in each], [sums.n_negative for sums in each])
        if not few and any(self.are_of_one(side) for side in sides):
            return "withheld: it must be of patients with and without the outcome at more than one hospital"
        return few


def rounded(document: Any) -> Any:  # noqa: ANN401 - JSON
    """The document with every float to four significant digits: more of them would be a fingerprint of counts."""
    if isinstance(document, dict):
        return {key: rounded(value) for key, value in document.items()}
    if isinstance(document, list):
        return [rounded(value) for value in document]
    return float(f"{document:.4g}") if isinstance(document, float) else document


def _study(
    study: Study, results: Mapping[str, Any], manifest: Mapping[str, Any], history: list[dict[str, Any]]
) -> dict[str, Any]:
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
        "is_chosen": any(row["scored_by"] for row in history),
        "stopped_because": results["stopped_because"],
        "started": manifest["started"],
        "code_version": manifest["code_version"],
    }


def _why_withheld(sums: Mapping[str, ScoreSums], manifest: Mapping[str, Any], floor: Floor) -> dict[str, str]:
    """The hospitals whose results are withheld, each with the reason: a policy, or few patients here or elsewhere."""
    private = {name for name in sums if not manifest["sites"][name]["shared"]}
    small = {name for name in sums if measures.withheld_below(sums[name], int(manifest["sites"][name]["min_cell"]))}
    sizes = {name: (found.n_positive, found.n_negative) for name, found in sums.items()}
    # One reason for the small and for those that hide them; by the rule one may tell which is which, but no count.
    return {
        name: "withheld by the hospital's policy"
        if name in private
        else "withheld or not estimable: few patients with or without the outcome, here or at another hospital withheld"
        for name in sorted(withheld(sizes, private | small, floor=floor.cell))
    }


def _why_no_total(sums: Mapping[str, ScoreSums], why: Mapping[str, str], floor: Floor) -> str:
    """Why no total over the hospitals is shown; empty where it is.

    Where each hospital is withheld, a total near the floor tells of each that it is small.
    """
    whole = _summed(list(sums.values()))
    if why.keys() == sums.keys() and min(whole.n_positive, whole.n_negative) < 2 * floor.cell:
        return "withheld: few patients with or without the outcome, at every hospital"
    return floor.why_withheld(sums.values())


def _union(
    each: Mapping[str, ScoreSums],
    total: ScoreSums,
    federated: Mapping[str, ScoreSums],
    few: str,
    floor: Floor,
    seed: int,
    *,
    noise: float,
) -> dict[str, Measure]:
    """Every measure on all patients; none where totals are withheld because of `few`, or this one is of other hospitals."""
    note = few
    if each.keys() != federated.keys():
        note = "not of the same hospitals as the federation"
    if note:
        return dict.fromkeys(measures.MEASURES, not_estimable(note))
    return measures.all_measures(total, seed=seed, floor=floor.cell, noise=noise)


def _survival(
    study: Study, results: Mapping[str, Any], baselines: Mapping[str, Any]
) -> dict[str, dict[str, SurvivalSums]]:
    """By who and hospital, the survival sums; empty where patients are not followed."""
    if study.task.follow_up is None:
        return {}
    # They end every vector, whatever groups come before them.
    return {
        who: {site: SurvivalSums.from_vector(dense(vector)[-SurvivalSums.width() :]) for site, vector in each.items()}
        for who, each in {"federated": results["sums"], **baselines}.items()
    }


def _timed(each: Collection[SurvivalSums], found: dict[str, Measure], *, hides_lost: bool) -> dict[str, Measure]:
    """The measures of times, which lack a value for the same reason as the others, and then the others.

    How wide the interval of observed to expected is tells, nearly to the patient, how many
    more were followed than those of known status; so there is none where that is withheld.
    """
    reason = found["auroc"].note
    is_withheld = all(not measure.is_estimable and measure.note == reason for measure in found.values())
    total = sum(each, SurvivalSums())
    timed = {name: not_estimable(reason) if is_withheld else of(total) for name, (_, of) in SURVIVAL_MEASURES.items()}
    ratio = timed["observed_to_expected"]
    if hides_lost and ratio.is_estimable:
        note = "no interval: it would tell how few were lost before the horizon, here or at another hospital"
        timed["observed_to_expected"] = Measure(ratio.value, note=note)
    return {**timed, **found}


def _titles(study: Study) -> dict[str, str]:
    """What each measure is called; where patients are followed, AUROC is of a horizon."""
    titles = {name: definition.title for name, definition in measures.MEASURES.items()}
    if study.task.follow_up is None:
        return titles
    timed = {name: title for name, (title, _) in SURVIVAL_MEASURES.items()}
    return {**timed, **titles, "auroc": f"AUROC at {study.task.follow_up.horizon_title}"}


def _follow_up(study: Study, each: list[SurvivalSums], floor: Floor) -> dict[str, Any]:
    """The horizon, how many test patients there are, and of how many the status at the horizon is not known."""
    follow_up = study.task.follow_up
    censored = [int(sums.censored) for sums in each]
    is_hidden = bool(floor.why_few([int(sums.patients) for sums in each])) or _is_few(censored, floor.cell)
    return {
        "horizon": "" if follow_up is None else follow_up.horizon_title,
        "patients": None if is_hidden else sum(int(sums.patients) for sums in each),
        "censored": None if is_hidden else sum(censored),
    }


def _rounds(
    history: list[dict[str, Any]], shapes: Mapping[str, list[int]], floor: Floor, *, is_open: bool
) -> list[dict[str, Any]]:
    """The history, its measures only where the same hospitals gave them, and enough of them.

    Two rounds that differ by a hospital would tell of that hospital by their difference.
    Training losses may differ so where the study `is_open`, which is where nothing is
    withheld of any hospital: most rounds of a study that draws its hospitals would have none.

    Args:
        history: the rows of `metrics.jsonl`.
        shapes: each hospital's patients by part.
        floor: of the report.
        is_open: whether no hospital is withheld.
    """
    usual, trainers = (_most_often([tuple(row[key]) for row in history]) for key in ("scored_by", "trained_by"))
    # A hospital may answer later that did not yet when its patients were counted.
    trains, validates = ({name: shape[part] for name, shape in shapes.items()} for part in (0, 1))
    few_score = floor.why_few([validates.get(name, 0) for name in usual])
    rows = []
    for row in history:
        shown = {key: value for key, value in row.items() if key not in COORDINATORS_OWN}
        trained_by, note = tuple(row["trained_by"]), ""
        if tuple(row["scored_by"]) != usual:
            note = "withheld: other hospitals answered than in most rounds"
        elif few_score or min(row["events"], row["others"]) < floor.cell:
            note = "withheld or not estimable: few hospitals, or few patients with or without the outcome"
        if note:
            shown |= dict.fromkeys(("auroc", "log_loss"), not_estimable(note).to_json())
        if floor.why_few([trains.get(name, 0) for name in trained_by]) or not (is_open or trained_by == trainers):
            shown["train_loss"] = None
        rows.append(shown)
    return rows


def _most_often(sets: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The hospitals that answered together in most rounds; of as many rounds, more of them."""
    times = Counter(sets)
    return max(times, key=lambda names: (times[names], len(names)), default=())


def _site(
    name: str,
    sums: Mapping[str, Mapping[str, ScoreSums]],
    followed: Mapping[str, Mapping[str, SurvivalSums]],
    why: str,
    hides_lost: bool,
    results: Mapping[str, Any],
    statistics: Mapping[str, Any],
    manifest: Mapping[str, Any],
    history: list[dict[str, Any]],
    seed: int,
    noise: float,
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
        # Where patients are followed, those of known status: of all of them one would see how many were lost.
        **({"test": own.n} if own is not None and shape[-1] is not None else {}),
        "events": None if own is None or why else own.n_positive,
        "status": _status(name, history, results),
        "shared": is_shared,
    }
    if own is None or not is_shared:
        return {**row, **dict.fromkeys(LABELS), "measures": {}}
    if why:
        gone = not_estimable(why)
        missing = {who: gone.to_json() if name in sums.get(who, {}) else None for who in LABELS}
        timed = SURVIVAL_MEASURES if followed else {}
        return {**row, **missing, "measures": _json(dict.fromkeys([*timed, *measures.MEASURES], gone))}
    aurocs = {
        who: measures.auroc(sums[who][name], noise=noise if who == "federated" else 0.0).to_json()
        if name in sums.get(who, {})
        else None
        for who in LABELS
    }
    found = measures.all_measures(own, seed=seed, noise=noise)
    return {
        **row,
        **aurocs,
        "measures": _json(_timed([followed["federated"][name]], found, hides_lost=hides_lost) if followed else found),
    }


def _shown(count: int | None, floor: int) -> int | None:
    """A count, or None where it is of somebody but of fewer than the floor."""
    return None if count is not None and _is_few([count], floor) else count


def _is_few(counts: Collection[int], floor: int) -> bool:
    """Whether the counts together are of somebody but of fewer than the floor."""
    return 0 < sum(counts) < floor


def _counts(sums: Mapping[str, ScoreSums], statistics: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """By column of the hospitals' table, each hospital's true count."""
    columns = {part: {name: shape[i] for name, shape in statistics["shapes"].items()} for i, part in enumerate(PARTS)}
    # The totals over test patients are of those who answered the last evaluation.
    columns["test"] = {name: found.n for name, found in sums.items()}
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
    last = [f["reason"] for f in results["failed_last"] if f["site"] == name]
    reasons = [reason for _, reason in failures] + last
    if not reasons:
        return "took part"
    rounds = [f"in {len({number for number, _ in failures})} of {len(history)} rounds"] if failures else []
    when = " and ".join(rounds + ["in the last evaluation"] * bool(last))
    return f"gave no answer {when}: {reasons[-1]}"


def _compared(
    who: str, each: Mapping[str, ScoreSums], union: Measure, why: Mapping[str, str], *, noise: float
) -> dict[str, Any]:
    found = {
        name: not_estimable(why[name]) if name in why else measures.auroc(sums, noise=noise)
        for name, sums in each.items()
    }
    mean = measures.mean_measure(list(found.values())) if found else not_estimable(NOBODYS_OWN)
    worst = min((name for name in found if found[name].is_estimable), key=lambda name: found[name].value, default=None)
    return {
        "who": who,
        "label": LABELS[who],
        "mean_site_auroc": mean.to_json(),
        "union_auroc": union.to_json(),
        "worst_site": None if worst is None else {"name": worst, "auroc": found[worst].to_json()},
    }


def _curves(sums: ScoreSums, floor: int) -> dict[str, Any]:
    if measures.withheld_below(sums, floor):
        return {}
    roc, pr = curves.roc(sums), curves.precision_recall(sums)
    reliable, decided = curves.reliability(sums, least=floor), curves.decision(sums)
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


def _groups(
    study: Study, by_site: list[tuple[ScoreSums, dict[str, ScoreSums]]], floor: Floor, seed: int
) -> list[dict[str, Any]]:
    """A row a group; a small one is withheld whole, with others to hide it.

    Small is a group with few patients of either outcome, or little more than one
    hospital's. Those in no group of a grouping are everybody less its groups, whether the
    report says so or not; so they are a row like the others.
    """
    rows: list[dict[str, Any]] = []
    for name, group in study.features.groups.items():
        at = {title: [groups[f"{name}={title}"] for _, groups in by_site] for title in group.titles}
        grouped = [_summed([each[k] for each in at.values()]) for k in range(len(by_site))]
        rest = [overall.coarser(own.bins) - own for (overall, _), own in zip(by_site, grouped, strict=True)]
        if any(sums.n for sums in rest):
            at[NOT_RECORDED] = rest
        totals = {title: _summed(each) for title, each in at.items()}
        small = {
            title
            for title, each in at.items()
            if measures.withheld_below(totals[title], floor.cell) or floor.why_withheld(each)
        }
        hidden = withheld(
            {title: (sums.n_positive, sums.n_negative) for title, sums in totals.items()}, small, floor=floor.cell
        )
        by = group.label or name
        rows += [
            _hidden_group(by, title) if title in hidden else _group(by, title, sums, seed)
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


def _hidden_group(by: str, title: str) -> dict[str, Any]:
    note = "withheld: few patients or hospitals, in this group or in another that is withheld"
    gone = dict.fromkeys(("auroc", "calibration_slope", "sensitivity_at_specificity"), not_estimable(note).to_json())
    return {"by": by, "level": title, "n": None, "events": None, "note": note, **gone}


def _heterogeneity(
    study: Study, statistics: Mapping[str, Any], manifest: Mapping[str, Any], why: Mapping[str, str], floor: Floor
) -> dict[str, Any] | None:
    """How the hospitals differ, from the sums of those whose results are shown.

    A hospital that withholds how many of its patients had the outcome is left out as well.
    """
    preprocessor = Preprocessor.from_json(statistics["preprocessor"])
    shared = {
        name: _site_sums(study, statistics, name, preprocessor)
        for name in statistics["second"]
        if manifest["sites"][name]["shared"] and name not in why
    }
    found_in = {
        name: sums
        for name, sums in shared.items()
        if sums.patients == _outcomes(study, statistics, name).sum() and sums.patients >= floor.cell
    }
    if len(found_in) < max(floor.hospitals, 2):
        return None
    found = heterogeneity(found_in)
    titles = [manifest["sites"][name]["title"] for name in found_in]
    return {
        "rows": [
            {
                "feature": feature.name,
                "label": feature.label or feature.name,
                "icc_value": None
                if feature.kind == "binary" and _tells_few(feature.name, found_in.values(), floor.cell)
                else _number(found.value.get(feature.name, math.nan)),
                "icc_missing": _number(found.missingness.get(feature.name, math.nan)),
            }
            for feature in study.features.features
        ],
        "icc_outcome": _number(found.outcome),
        "summary": (
            f"The median share of variance that lies between hospitals is {found.median_value:.3f} for values and "
            f"{found.median_missingness:.3f} for whether a value is missing; for the outcome it is {found.outcome:.3f}."
        ),
        "site_distance": None
        if found.distance is None
        else {"names": titles, "matrix": [[_number(x) for x in row] for row in found.distance.tolist()]},
    }


def _tells_few(binary: str, each: Collection[SiteSums], floor: int) -> bool:
    """Whether a hospital has few patients with a yes or with a no: of whole counts that small one number can give all."""
    found = [(sums.count[binary], sums.mean[binary]) for sums in each if sums.count[binary]]
    return any(round(n * min(share, 1 - share)) < floor for n, share in found)


def _site_sums(study: Study, statistics: Mapping[str, Any], name: str, preprocessor: Preprocessor) -> SiteSums:
    """One hospital's sums as the measures of heterogeneity read them."""
    layout = MomentLayout(study.features)
    counts, totals, _, missing, outcome = layout.sections(np.array(statistics["first"][name]))
    centre = np.array([fitted.mean for fitted in preprocessor.features if isinstance(fitted, Scaled | Series)])
    means = totals / np.maximum(counts, 1)
    # The second pass is about the means of all hospitals; what lies beyond its own mean is taken off.
    squares = np.maximum(np.array(statistics["second"][name]) - counts * (means - centre) ** 2, 0)
    features = [feature.name for feature in layout.numeric]
    return SiteSums(
        patients=float(statistics["shapes"][name][0]),
        events=float(outcome[1]),
        count=dict(zip(features, counts.tolist(), strict=True)),
        mean=dict(zip(features, means.tolist(), strict=True)),
        m2=dict(zip(features, squares.tolist(), strict=True)),
        missing=dict(zip(study.features.names, missing.tolist(), strict=True)),
    )


def _outcomes(study: Study, statistics: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    """[2] a hospital's training patients without and with the outcome; 0 for what it withholds."""
    return MomentLayout(study.features).sections(np.array(statistics["first"][name]))[-1]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cost(history: list[dict[str, Any]], manifest: Mapping[str, Any]) -> dict[str, Any]:
    rounds_s = sum(row["took_s"] for row in history)
    return {
        **{key: sum(row[key] for row in history) for key in ("bytes_up", "bytes_down", "messages")},
        **{key: manifest[key] for key in ("wall_s", "cpu_s", "peak_memory_bytes")},
        "start_s": max(manifest["wall_s"] - rounds_s, 0.0),
    }


def _preprocessing(study: Study, statistics: Mapping[str, Any], floor: Floor) -> list[dict[str, Any]]:
    """What each variable was scaled by; None where it is little more than one hospital's.

    The mean of a yes or no is a count, and withheld where either is of few patients.
    """
    preprocessor = Preprocessor.from_json(statistics["preprocessor"])
    layout, sites = MomentLayout(study.features), sorted(statistics["second"])
    sections = {site: layout.sections(np.array(statistics["first"][site])) for site in sites}
    patients = sum(statistics["shapes"][site][0] for site in sites)
    places = {feature.name: place for place, feature in enumerate(layout.numeric)}
    numbers = {name: number for number, name in enumerate(study.features.names)}
    rows = []
    for fitted in preprocessor.features:
        if not isinstance(fitted, Scaled):
            continue
        name, feature = fitted.name, study.features[fitted.name]
        # Where no hospital was asked, the feature spec alone gave it.
        is_public = not sections
        counts = [int(found[0][places[name]]) for found in sections.values()]
        few = "" if is_public else floor.why_few(counts)
        missing = sum(int(found[3][numbers[name]]) for found in sections.values())
        yes = [round(found[1][places[name]]) for found in sections.values()]
        no = [n - y for n, y in zip(counts, yes, strict=True)]
        is_few = (
            feature.kind == "binary"
            and not is_public
            and any(sum(each) < floor.cell or floor.are_of_one(each) for each in (yes, no))
        )
        rows.append(
            {
                "name": name,
                "label": feature.title + (" (log)" if feature.transform == "log" else ""),
                "mean": None if few or is_few else fitted.mean,
                "sd": None if few or is_few else fitted.sd,
                # Hospitals with few missing send none, so the share is a little low.
                "missing_share": None
                if few or is_public or not patients or _is_few([missing], floor.cell)
                else missing / patients,
            }
        )
    return rows


def _notes(
    study: Study,
    union: ScoreSums,
    results: Mapping[str, Any],
    why: Mapping[str, str],
    manifest: Mapping[str, Any],
    few: str,
    floor: Floor,
    *,
    looked: bool,
) -> list[str]:
    of_privacy = filter(None, map(manifest.get, ("privacy_spent", "privacy_audit")))
    attacked = [*_attacked(manifest), *_masked_notes(results, floor), *of_privacy]
    if few:
        return [*attacked, f"Results over all hospitals are {few}."]
    hidden = ", ".join(manifest["sites"][name]["title"] for name in why)
    is_noisy = study.score_bins is not None
    bound = "" if measures.withheld_below(union, floor.cell) else f" Binning moves the AUROC of all patients by at most {measures.auroc_binning_bound(union):.1g}."  # fmt: skip
    return [
        *attacked,
        *(
            [
                f"Withheld: {hidden}. Their own results don't follow from what is shown of the others and of all together."
            ]
            if why
            else []
        ),
        f"Every number is worked out from sums over hospitals: score histograms of {union.bins} bins and a few totals.{bound}"
        if not is_noisy
        else f"Every number is worked out from noisy histograms of {union.bins} bins, each patient counted as at the middle "
        f"of a bin.{bound} Counts of patients are noisy too. The interval of an AUROC has the noise in it, every "
        "other is of the patients' chance alone, and a hospital's own results feel the noise most. Those alone, pooled and of the true risk are a "
        "simulation's, worked out without noise.",
        *_notes_on_times(study),
        "A measure that can't be estimated, such as an AUROC where one outcome never occurs, is said to be so and is never 0.",
        f"The model has {results['parameters']:,} parameters and is the one of round {results['best_round']}, "
        f"{'chosen on validation patients' if looked else 'the last'}; every result here is on test patients, who took no part in training or choosing.",
        *(
            [
                "Each hospital was evaluated with a model of its own, which the strategy makes from the shared one; "
                "model.safetensors holds what is shared."
            ]
            if results["is_personal"]
            else []
        ),
        "Numbers have four significant digits.",
    ]


def _masked_notes(results: Mapping[str, Any], floor: Floor) -> list[str]:
    if floor.united is None:
        return []
    return [
        f"The run was masked: the coordinator got sums, the last one of {len(results['counted'])} hospitals, and "
        f"{NOBODYS_OWN}. So there are no results by hospital, no mean over hospitals and no worst one, and how the "
        "hospitals differ can't be said. What the run is compared with is shown for all hospitals together alone.",
        "Masks and the rounding of values are drawn afresh in every run, so two runs of one study agree to some 1e-6 and "
        "not to the bit.",
    ]


def _attacked(manifest: Mapping[str, Any]) -> list[str]:
    """The note on who attacked where the simulation had some do so."""
    attack = manifest.get("attack") or {}
    sites = attack.get("sites") or []
    if not sites:
        return []
    titles = ", ".join(manifest["sites"][name]["title"] for name in sites)
    return [
        f"In this run {titles} attacked, as the simulation was set to, by {attack['statement']}. "
        "Their own test patients count like any others."
    ]


def _notes_on_times(study: Study) -> list[str]:
    if study.task.follow_up is None:
        return []
    horizon = study.task.follow_up.horizon_title
    return [
        f"Patients were followed over time. Whoever was lost before {horizon} without an event is left out of AUROC, "
        "calibration and every other measure that asks who had an event by then, and not weighted for; since those left "
        f"out had no event, the share of events is a little high. Harrell's C and observed to expected count everybody.",
        f"A risk is of an event by {horizon}, from each hospital's own baseline hazard, which stays there: the model's "
        "coefficients alone give hazard ratios.",
    ]


def _noise(study: Study, who: str, hospitals: int) -> float:
    """What is on each cell of the histogram of so many hospitals; a simulation's comparisons have none."""
    return study.score_noise(hospitals) if who == "federated" else 0.0


def _sum(vectors: Iterable[Mapping[str, Any]]) -> NDArray[np.float64]:
    """The hospitals' vectors added up; what is noisy in each is mended in the sum, where it is smaller."""
    return sum(map(dense, vectors))  # type: ignore[return-value]


def _summed(each: list[ScoreSums]) -> ScoreSums:
    total = each[0].to_vector()
    for sums in each[1:]:
        total += sums.to_vector()
    return ScoreSums.from_vector(total, bins=each[0].bins)


def _json(found: Mapping[str, Measure]) -> dict[str, Any]:
    return {name: measure.to_json() for name, measure in found.items()}
