"""The page: a report as one HTML file with its style and figures inside."""

from __future__ import annotations

from importlib.resources import files
from itertools import count as counter
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, FunctionLoader
from markupsafe import Markup

from fedhealth.core.errors import DataError
from fedhealth.report import words
from fedhealth.report.many import MANY, SHARES, WORST, as_csv, auroc_of, below, worst
from fedhealth.report.plots import MOST_VARIABLES, NAMES, draw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fedhealth.core.measure import Measure

SCHEMA = 1
#: Beside the page of many hospitals, a line for each.
HOSPITALS = "hospitals.csv"
#: What the table by hospital leaves to report.json: AUROC has its own table.
NOT_BY_SITE = {"auroc", "log_loss", "ece", "accuracy"}
WHO = {
    "local": "its own model from its own patients",
    "federated": "hospitals train together, records stay",
    "pooled": "one model on all records in one place",
    "oracle": "the true risk behind the simulated patients",
}


class Tile(NamedTuple):
    """One key number: what it is, the number, and a line that puts it in place."""

    label: str
    value: str
    beside: str


def write_html(report: Mapping[str, Any], path: Path) -> None:
    """Write the page of `report` (the JSON of this package's docstring) to `path`, and of many hospitals a CSV beside it.

    The same report gives the same bytes under the same version of matplotlib.

    Raises:
        DataError: the report is of another schema.
    """
    path.write_text(html(report), encoding="utf-8", newline="\n")
    if len(report["sites"]) > MANY:
        path.with_name(HOSPITALS).write_text(as_csv(report["sites"]), encoding="utf-8", newline="\n")


def html(report: Mapping[str, Any]) -> str:
    """The page of `report` as text.

    Raises:
        DataError: the report is of another schema.
    """
    if report.get("schema") != SCHEMA:
        raise DataError(
            f"report.json must have schema {SCHEMA}, found {report.get('schema')}. "
            "Rebuild it with the FedHealth that made the run."
        )
    titles = report.get("measure_titles") or {}
    numbers = {"figure": counter(1), "table": counter(1)}
    whole = {
        "title": report["study"].get("name") or "Study",
        **{k: v for k, v in report["study"].items() if v is not None},
    }
    return (
        templates()
        .get_template("template.html.j2")
        .render(
            report=report,
            study=whole,
            sites=report["sites"],
            rows=worst(report["sites"]),
            spread=spread(report),
            finding=words.finding(report),
            pictures=draw(report),
            tiles=tiles(report),
            failures=failures(report),
            lost=lost(report),
            methods=methods(report),
            without=inestimable(report),
            titles=titles,
            hospital=titles_of(report),
            patients=words.patients(report["sites"]),
            names=NAMES,
            most_variables=MOST_VARIABLES,
            who_titles=WHO,
            sensitivity=next(
                (title for name, title in titles.items() if name.startswith("sensitivity")), "Sensitivity"
            ),
            costs=costs(report),
            all_took_part=all(site.get("status") == "took part" for site in report["sites"]),
            dashes=any(site.get(key) is None for site in report["sites"] for key in (*words.PARTS, "events")),
            shown=[who for who in NAMES if (report.get("union") or {}).get(who)],
            site_ways=[who for who in NAMES if any(site.get(who) for site in report["sites"])],
            site_measures=site_measures(report),
            next_of=lambda kind: next(numbers[kind]),
        )
    )


def spread(report: Mapping[str, Any]) -> str:
    """Of many hospitals, how their AUROC lies and where all of them are listed; empty of few."""
    sites = report["sites"]
    if len(sites) <= MANY:
        return ""
    found = {name: below(sites, "federated", share) for share, name in SHARES.items()}
    said = ", ".join(f"{name} lie below {value:.3f}" for name, value in found.items() if value is not None)
    known = sum(auroc_of(site, "federated") is not None for site in sites)
    lie = f" Of the {known:,} hospitals of {len(sites):,} whose federated AUROC is known, {said}." if said else ""
    return f"Shown are the {WORST} hospitals with the lowest federated AUROC; {HOSPITALS}, beside this page, lists all.{lie}"


def tiles(report: Mapping[str, Any]) -> list[Tile]:
    """The key numbers that the report has, the finding first."""
    federated = (report.get("union") or {}).get("federated") or {}
    rows = {row["who"]: row for row in report.get("comparison") or []}
    found: list[Tile] = []
    auroc, order = (words.measure(federated.get(name)) for name in ("auroc", "c_index"))
    if order is not None:
        found.append(_measured("Harrell’s C, federated", order, beside="within hospitals"))
    if auroc is not None:
        at = f" at {report['follow_up']['horizon']}" if report.get("follow_up") else ""
        found.append(_measured(f"AUROC{at}, federated", auroc))
    found += _gains(rows)
    worst = (rows.get("federated", {}).get("worst_site")) or {}
    lowest = words.measure(worst.get("auroc"))
    if lowest is not None and lowest.is_estimable and len(report["sites"]) > 1:
        where = titles_of(report).get(worst["name"], worst["name"])
        found.append(_measured("AUROC, worst hospital", lowest, beside=f"{where}, chosen for it"))
    slope = words.measure(federated.get("calibration_slope"))
    if slope is not None:
        found.append(_measured("Calibration slope", slope, beside="1 is ideal"))
    counts = words.patients(report["sites"])
    if counts:
        beside = " \N{MIDDLE DOT} ".join(f"{words.count(counts[key])} {key}" for key in words.PARTS)
        among = (
            ""
            if counts["sites"] == len(report["sites"])
            else f", at {counts['sites']} of {len(report['sites'])} hospitals"
        )
        found.append(Tile("Patients", words.count(sum(counts[key] for key in words.PARTS)), beside + among))
    study, cost = report["study"], report.get("cost") or {}
    # Harrell's C makes one more; eight fill two rows, and the design says the rounds too.
    if study.get("rounds_done") is not None and order is None:
        best = study.get("best_round")
        beside = f"of {study.get('rounds_planned')} planned" + (f", round {best} kept" if best is not None else "")
        found.append(Tile("Rounds", words.count(study["rounds_done"]), beside))
    if cost.get("bytes_up") is not None:
        found.append(Tile("Sent by hospitals", words.size(cost["bytes_up"]), "updates and counts, no patient record"))
    return found


def _measured(label: str, found: Measure, beside: str = "") -> Tile:
    if not found.is_estimable:
        return Tile(label, "not estimable", found.note)
    return Tile(label, words.decimal(found.value), ", ".join(filter(None, (words.interval(found), beside))))


def _gains(rows: Mapping[str, Mapping[str, Any]]) -> list[Tile]:
    """What federation adds to the average hospital, and what pooling would add to that."""
    means = {who: words.measure(row.get("mean_site_auroc")) for who, row in rows.items()}
    ours = means.get("federated")
    found = []
    for who, label in (("local", "Gain over hospitals alone"), ("pooled", "Against pooled records")):
        other = means.get(who)
        if ours is not None and other is not None and ours.is_estimable and other.is_estimable:
            mean = ours.note or "the average hospital"
            beside = f"AUROC, {mean}: {words.decimal(other.value)} to {words.decimal(ours.value)}"
            found.append(Tile(label, words.gain(ours.value - other.value), beside))
    return found


def failures(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Hospital, reason and rounds of every kind of failure, in order of the first."""
    rounds: dict[tuple[str, str], list[int]] = {}
    for row in report.get("rounds") or []:
        for failed in row.get("failed") or []:
            rounds.setdefault((failed["site"], failed["reason"]), []).append(row["round"])
    titles = titles_of(report)
    return [(titles.get(site, site), reason, words.rounds_listed(at)) for (site, reason), at in rounds.items()]


def lost(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of a masked run: hospital, exchange and rounds of every loss."""
    titles, found = titles_of(report), (report.get("masking") or {}).get("lost") or []
    rows = []
    for row in found:
        at = words.rounds_listed([number for number in row["rounds"] if number is not None])
        after = "the last evaluation" if None in row["rounds"] else ""
        rows.append((titles.get(row["site"], row["site"]), row["stage"], ", ".join(filter(None, (at, after)))))
    return rows


def titles_of(report: Mapping[str, Any]) -> dict[str, str]:
    """The hospitals' titles by name."""
    return {site["name"]: site["title"] for site in report["sites"]}


def methods(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Measure, method of its interval and remark, for the federated model's measures."""
    titles = report.get("measure_titles") or {}
    federated = (report.get("union") or {}).get("federated") or {}
    return [
        (titles.get(name, name), found["method"] or "no interval", found["note"])
        for name, found in federated.items()
        if found is not None and found["value"] is not None
    ]


def inestimable(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which measures of the federated model have no value where, and why; once for each reason and place."""
    titles = report.get("measure_titles") or {}
    places: list[tuple[str, Mapping[str, Any]]] = [
        ("all hospitals", (report.get("union") or {}).get("federated") or {})
    ]
    places += [
        (site["title"], {"auroc": site.get("federated"), **(site.get("measures") or {})})
        for site in report["sites"]
        if site.get("shared", True)
    ]
    found: dict[tuple[str, str], list[str]] = {}
    for place, measures in places:
        for name, m in measures.items():
            if m is not None and m["value"] is None:
                found.setdefault((place, m["note"] or "no reason given"), []).append(titles.get(name, name))
    held = {place: len(measures) for place, measures in places}
    return [
        (f"{place}, {'every measure' if len(names) == held[place] > 1 else ', '.join(names)}", note)
        for (place, note), names in found.items()
    ]


def costs(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the run took: quantity, total, and a round's share where that means something."""
    cost, rounds = report.get("cost") or {}, report.get("rounds") or []
    n = len(rounds)
    took = [row["took_s"] for row in rounds if row.get("took_s") is not None]
    rows = [
        ("Sent by hospitals", "bytes_up", words.size, cost.get("bytes_up")),
        ("Sent to hospitals", "bytes_down", words.size, cost.get("bytes_down")),
        ("Messages", "messages", words.count, cost.get("messages")),
        ("Wall-clock time", "wall_s", words.duration, sum(took) if took else None),
        ("of it before and after the rounds", "start_s", words.duration, None),
        ("Processor time", "cpu_s", words.duration, None),
        ("Peak memory", "peak_memory_bytes", words.size, None),
    ]
    return [
        (label, said(cost[key]), said(in_rounds / n) if in_rounds is not None and n else "")
        for label, key, said, in_rounds in rows
        if cost.get(key) is not None
    ]


def site_measures(report: Mapping[str, Any]) -> list[str]:
    """The measures, AUROC aside, that the table by hospital shows, in the report's order."""
    found = dict.fromkeys(name for site in report["sites"] for name in site.get("measures") or {})
    return [name for name in found if name not in NOT_BY_SITE]


def templates() -> Environment:
    """The page templates of this folder, with the filters that say numbers as `words` does."""
    here = files("fedhealth.report")
    found = Environment(
        autoescape=True,
        loader=FunctionLoader(lambda name: here.joinpath(name).read_text(encoding="utf-8")),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        count=words.count, counted=words.counted, decimal=words.decimal, size=words.size, duration=words.duration,
        measured=_cell, spoken=_spoken,
        moment=words.moment, one_reason=_one_reason,
    )  # fmt: skip
    return found


def _cell(found: Mapping[str, Any] | None, *, stacked: bool = False) -> Markup:
    """A measure in a table's cell: value and interval, the reason where it has none, a dash where it is absent."""
    m = words.measure(found)
    if m is None:
        return Markup("&ndash;")
    if not m.is_estimable:
        if m.note.startswith("withheld"):
            return Markup('<span class="none">{}</span>').format(m.note)
        note = Markup("<small>{}</small>").format(m.note) if m.note else ""
        return Markup('<span class="none">not estimable {}</span>').format(note)
    between = Markup("<br>") if stacked else " "
    ends = Markup('{}<span class="ci">{}</span>').format(between, words.interval(m)) if words.interval(m) else ""
    return Markup("{}{}").format(words.decimal(m.value), ends)


def _spoken(found: Mapping[str, Any] | None) -> str:
    """A measure inside a sentence."""
    m = words.measure(found)
    return "not reported" if m is None else words.with_interval(m)


def _one_reason(found: Mapping[str, Mapping[str, Any] | None], names: Sequence[str]) -> str:
    """Why none of the named measures has a value, where they all lack it for one reason; else empty."""
    each = [found.get(name) for name in names]
    reasons = {m["note"] if m and m["value"] is None else "" for m in each}
    reason = reasons.pop() if len(reasons) == 1 and len(each) > 1 else ""
    return reason if not reason or reason.startswith("withheld") else f"not estimable: {reason}"
