"""The comparison: what runs that differ in their strategy, say, come to over seeds.

Each group has the mean over its seeds, and each but one the differences from that one,
paired by seed. Only the runs' reports are read, so what a report withholds is withheld here.

`compared` gives `compare.json`, schema 1. M is a measure as in `report.json`; a value that a
run withholds or lacks leaves its whole group without one, and the note says why.

    schema        1
    title         the study's
    hospitals     how many there are
    simulated     how many of them are simulated
    seeds         those of all groups
    target        the validation AUROC that `reach` asks for
    against       the label of the group that differences are taken from
    coverage      [sentences: what a seed draws anew, what an interval over seeds covers]
    outcomes      {name: {title, higher_is_better}}; null where the best value lies between. Runs that follow patients
                  over time also have c_index
    groups        [one a group]
        label       the fewest settings that tell the groups apart, as an override says them
        settings    {key: value} of all that differ between the groups
        seeds       of its runs
        outcomes    {name: M} over seeds
        worst_sites {title: at how many seeds it is the worst hospital}
        reach       seeds (how many reached the target, null where no validation AUROC is known),
                    rounds (M), bytes_up (M): what it took, over the seeds that reached it
        bytes       M, sent both ways in all rounds
        round_s     M, seconds a round
        curve       [{round, auroc (M)}] on validation patients, for the rounds that all its seeds have
        runs        [{folder, seed, values: {outcome: value}}]
        repeats     folders of runs left out because they repeat another's results
    differences   {outcome: [{label, difference (M), pairs, p, p_holm}]}, one for each other group
    best          {outcome: label} where the best group is told from the next, else null
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.measure import Measure, not_estimable
from fedhealth.evaluation.student import holm, mean_of_runs, p_of_mean
from fedhealth.report.run_groups import grouped, labelled, varying

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedhealth.report.run_groups import Group, Run

    Part = Mapping[str, Any]

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result that groups are compared by.

    Attributes:
        title: what a reader calls it.
        of: its value in one run's report.
        higher_is_better: None where the best value lies between.
        least: where its values begin.
        most: where they end.
    """

    title: str
    of: Callable[[Part], Measure]
    higher_is_better: bool | None
    least: float = 0.0
    most: float = math.inf


def compared(runs: Sequence[Run], *, target: float = 0.75, against: str | None = None) -> dict[str, Any]:
    """The comparison of finished runs as one JSON document (see above).

    Args:
        runs: in the order in which their groups are to stand.
        target: the validation AUROC whose cost is counted.
        against: the label of the group that differences are taken from; None for the first.

    Raises:
        SettingError: the runs can't be compared, or `target` or `against` is wrong.
        DataError: a report is of another schema.
    """
    if not 0 < target < 1:
        raise SettingError(f"`--target` must be an AUROC between 0 and 1, found {target}. Try 0.75.")
    groups = grouped(runs)
    settings = [group.settings for group in groups]
    named = dict(zip(labelled(settings), groups, strict=True))
    first = next(iter(named)) if against is None else against
    if first not in named:
        raise SettingError(f"`--against` must be a group's label, found {first!r}. {did_you_mean(first, named)}")
    keys = [key for key in varying(settings) if not key.endswith("._target_")]
    report, outcomes = runs[0].report, outcomes_of(runs)
    return {
        "schema": SCHEMA,
        "title": report["study"].get("title") or "Study",
        "hospitals": len(report["sites"]),
        "simulated": sum(bool(site.get("simulated")) for site in report["sites"]),
        "seeds": sorted({run.seed for run in runs}),
        "target": target,
        "against": first,
        "coverage": [*coverage(runs), *_of_other_seeds(groups)],
        "outcomes": {
            name: {"title": outcome.title, "higher_is_better": outcome.higher_is_better}
            for name, outcome in outcomes.items()
        },
        "groups": [
            {
                "label": label,
                "settings": {key: group.settings[key] for key in keys if key in group.settings},
                **_described(group, outcomes, target),
            }
            for label, group in named.items()
        ],
        "differences": {name: _differences(named, first, outcome) for name, outcome in outcomes.items()},
        "best": {name: _best(named, outcome) for name, outcome in outcomes.items()},
    }


def outcomes_of(runs: Sequence[Run]) -> dict[str, Outcome]:
    """What these runs are compared by, in the order in which a reader meets it."""
    over_time = any("c_index" in ((run.report.get("union") or {}).get("federated") or {}) for run in runs)
    return {**(OVER_TIME if over_time else {}), **OUTCOMES}


def coverage(runs: Sequence[Run]) -> list[str]:
    """What a seed draws anew, and what an interval over seeds therefore covers and does not."""
    sites = runs[0].report["sites"]
    simulated = [site["name"] for site in sites if site.get("simulated")]
    real = [site["name"] for site in sites if not site.get("simulated")]
    parted = [name for name in real if len({run.cohorts.get(name) for run in runs}) > 1]
    kept = [name for name in real if name not in parted]
    if len({run.seed for run in runs}) == 1:
        return ["All runs have one seed, so there is no interval and no test; another seed may turn any order around."]
    does = {
        "draws the simulated patients anew and parts them into training, validation and test patients": simulated,
        "parts the same patients anew into training, validation and test patients": parted,
        "leaves the patients and their parts as they are": kept,
    }
    said = [
        f"A seed {what}{f' at {len(names)} of {len(sites)} hospitals' if len(names) < len(sites) else ''}, "
        "and trains anew."
        for what, names in does.items()
        if names
    ]
    covers = [*(["simulated patients"] if simulated else []), *(["splits"] if simulated or parted else []), "trainings"]
    listed = f"{', '.join(covers[:-1])} and {covers[-1]}" if len(covers) > 1 else covers[0]
    said.append(f"An interval over seeds therefore covers other {listed}; it does not cover other hospitals.")
    if real:
        said.append(
            "Real patients are the same at every seed: over new ones an interval would be wider, and a p value here "
            "may be too small (Nadeau and Bengio 2003, doi:10.1023/A:1024068626366)."
        )
    return said


def _of_other_seeds(groups: Sequence[Group]) -> list[str]:
    if len({tuple(run.seed for run in group.runs) for group in groups}) == 1:
        return []
    return [
        "Not all groups have the same seeds, so their means are of different draws; only the differences pair them."
    ]


def _described(group: Group, outcomes: Mapping[str, Outcome], target: float) -> dict[str, Any]:
    """A group's own numbers, over its seeds."""
    reports = [run.report for run in group.runs]
    return {
        "seeds": [run.seed for run in group.runs],
        "outcomes": {name: _over_seeds(group, outcome).to_json() for name, outcome in outcomes.items()},
        "worst_sites": _worst_sites(reports),
        "reach": _reach(reports, target),
        "bytes": _mean_of([_bytes(report) for report in reports], "not reported").to_json(),
        "round_s": _mean_of([_round_s(report) for report in reports], "not reported").to_json(),
        "curve": _curve(reports),
        "runs": [
            {
                "folder": run.folder,
                "seed": run.seed,
                "values": {name: _number(outcome.of(run.report)) for name, outcome in outcomes.items()},
            }
            for run in group.runs
        ],
        "repeats": list(group.repeats),
    }


def _over_seeds(group: Group, outcome: Outcome) -> Measure:
    """The outcome's mean over seeds, or why there is none."""
    each = list(_by_seed(group, outcome).values())
    if (gone := _without_value(each)) is not None:
        return gone
    mean = mean_of_runs([found.value for found in each], least=outcome.least, most=outcome.most)
    partial = [found.note for found in each if found.note.startswith("mean of")]
    said = [mean.note, _in_runs(partial[0], len(partial), len(each)) if partial else ""]
    return replace(mean, note="; ".join(filter(None, said)))


def _by_seed(group: Group, outcome: Outcome) -> dict[int, Measure]:
    return {run.seed: outcome.of(run.report) for run in group.runs}


def _without_value(each: Sequence[Measure]) -> Measure | None:
    """What stands in place of a mean where a run has no value; None where all have one.

    A mean over the others would be one of chosen seeds.
    """
    gone = [found for found in each if not found.is_estimable]
    if not gone:
        return None
    reason = next((found.note for found in gone if found.note.startswith("withheld")), gone[0].note)
    return not_estimable(_in_runs(reason, len(gone), len(each)))


def _in_runs(note: str, n: int, of: int) -> str:
    return note if n == of else f"{note}, in {n} of {of} runs"


def _mean_of(values: Sequence[float | None], otherwise: str, most: float = math.inf) -> Measure:
    """The mean where every run has a value, else none for the reason `otherwise`."""
    known = [value for value in values if value is not None]
    return mean_of_runs(known, least=0.0, most=most) if len(known) == len(values) else not_estimable(otherwise)


def _worst_sites(reports: Sequence[Part]) -> dict[str, int]:
    titles = {site["name"]: site["title"] for report in reports for site in report["sites"]}
    worst = [(_federated(report).get("worst_site") or {}).get("name") for report in reports]
    return dict(Counter(titles.get(name, name) for name in worst if name is not None).most_common())


def _reach(reports: Sequence[Part], target: float) -> dict[str, Any]:
    """How many seeds reached the target, and the rounds and bytes that took."""
    known = [
        any(_number(_measure(row.get("auroc"))) is not None for row in report.get("rounds") or []) for report in reports
    ]
    if not all(known):
        nothing = not_estimable("no validation AUROC").to_json()
        return {"seeds": None, "rounds": nothing, "bytes_up": nothing}
    found = [reached for report in reports if (reached := _reached(report["rounds"], target)) is not None]
    rounds, sizes = [float(k) for k, _ in found], [size for _, size in found]
    return {
        "seeds": len(found),
        "rounds": _where_reached(rounds, len(reports)).to_json(),
        "bytes_up": _where_reached(sizes, len(reports)).to_json(),
    }


def _reached(rounds: Sequence[Part], target: float) -> tuple[int, float] | None:
    """The first round whose validation AUROC is the target or more, and what was sent up by then."""
    sent = 0.0
    for row in rounds:
        sent += row["bytes_up"]
        value = _number(_measure(row.get("auroc")))
        if value is not None and value >= target:
            return int(row["round"]), sent
    return None


def _where_reached(values: Sequence[float], of: int) -> Measure:
    if not values:
        return not_estimable("not reached")
    if len(values) == of:
        return mean_of_runs(values, least=0.0)
    # The seeds that would take longest are the ones missing: an interval would be of nothing.
    return Measure(math.fsum(values) / len(values), note=f"no interval: reached by {len(values)} of {of} seeds")


def _bytes(report: Part) -> float | None:
    cost = report.get("cost") or {}
    up, down = cost.get("bytes_up"), cost.get("bytes_down")
    return None if up is None or down is None else float(up + down)


def _round_s(report: Part) -> float | None:
    took = [row["took_s"] for row in report.get("rounds") or [] if row.get("took_s") is not None]
    return math.fsum(took) / len(took) if took else None


def _curve(reports: Sequence[Part]) -> list[dict[str, Any]]:
    """The mean validation AUROC by round, as far as all runs go."""
    return [
        {
            "round": rows[0]["round"],
            "auroc": _mean_of(
                [_number(_measure(row.get("auroc"))) for row in rows], "not estimable at every seed", most=1
            ).to_json(),
        }
        for rows in zip(*(report.get("rounds") or [] for report in reports), strict=False)
    ]


def _differences(named: Mapping[str, Group], first: str, outcome: Outcome) -> list[dict[str, Any]]:
    """Each other group less the first, seed by seed; p values adjusted for the number of groups."""
    others = [label for label in named if label != first]
    found = [_paired(named[label], named[first], outcome) for label in others]
    p_values = [p_of_mean(pairs) for _, pairs in found]
    return [
        {
            "label": label,
            "difference": difference.to_json(),
            "pairs": len(pairs),
            "p": None if math.isnan(p) else p,
            "p_holm": None if math.isnan(adjusted) else adjusted,
        }
        for label, (difference, pairs), p, adjusted in zip(others, found, p_values, holm(p_values), strict=True)
    ]


def _paired(group: Group, other: Group, outcome: Outcome) -> tuple[Measure, list[float]]:
    """The mean difference of two groups over the seeds that both have, and the differences."""
    ours, theirs = _by_seed(group, outcome), _by_seed(other, outcome)
    if (gone := _without_value([*ours.values(), *theirs.values()])) is not None:
        return gone, []
    pairs = [ours[seed].value - theirs[seed].value for seed in ours if seed in theirs]
    return (mean_of_runs(pairs) if pairs else not_estimable("no seed in common")), pairs


def _best(named: Mapping[str, Group], outcome: Outcome) -> str | None:
    """The group with the best mean, where its paired interval against the next lies on the better side of 0.

    Groups of other seeds may turn around on the seeds that both have; none is best then.
    """
    means = {label: _over_seeds(group, outcome) for label, group in named.items()}
    if outcome.higher_is_better is None or len(means) < 2 or not all(mean.is_estimable for mean in means.values()):
        return None
    best, second, *_ = sorted(means, key=lambda label: means[label].value, reverse=outcome.higher_is_better)
    difference, _ = _paired(named[best], named[second], outcome)
    is_told = difference.low > 0 if outcome.higher_is_better else difference.high < 0
    return best if is_told else None


def _federated(report: Part) -> Part:
    return next((row for row in report.get("comparison") or [] if row["who"] == "federated"), {})


def _in_union(name: str) -> Callable[[Part], Measure]:
    return lambda report: _measure(((report.get("union") or {}).get("federated") or {}).get(name))


def _measure(entry: Part | None) -> Measure:
    """The measure in a report's entry; what a report leaves out it withholds."""
    return not_estimable("withheld") if entry is None else Measure.from_json(dict(entry))


def _number(found: Measure) -> float | None:
    return found.value if found.is_estimable else None


#: What groups are compared by, and before it what they are where patients are followed over time.
OVER_TIME = {"c_index": Outcome("Harrell's C, within hospitals", _in_union("c_index"), higher_is_better=True, most=1)}
OUTCOMES = {
    "union_auroc": Outcome("AUROC, all patients together", _in_union("auroc"), higher_is_better=True, most=1),
    "mean_site_auroc": Outcome(
        "AUROC, mean of hospitals",
        lambda report: _measure(_federated(report).get("mean_site_auroc")),
        higher_is_better=True,
        most=1,
    ),
    "worst_site_auroc": Outcome(
        "AUROC, worst hospital",
        lambda report: _measure((_federated(report).get("worst_site") or {}).get("auroc")),
        higher_is_better=True,
        most=1,
    ),
    "log_loss": Outcome("Log loss", _in_union("log_loss"), higher_is_better=False),
    "calibration_slope": Outcome("Calibration slope", _in_union("calibration_slope"), None, least=-math.inf),
}
