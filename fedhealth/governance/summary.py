"""A proposal in a clinician's words: what is asked, of which patients, what would leave, and what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedhealth.governance.installed import code_hash, packages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedhealth.core.study import Study
    from fedhealth.governance.approval import Decision
    from fedhealth.governance.proposal import Proposal, Signed

#: Lines, each with what it is about.
Lines = list[tuple[str, str]]

#: What a part of the study is called, by its key; longer keys first where both fit.
NAMES = {
    "privacy.epsilon": "privacy lost (ε)",
    "privacy": "privacy",
    "secagg": "masking",
    "strategy": "strategy",
    "model": "model",
    "engine": "computation",
    "rounds": "rounds",
    "roster": "hospitals",
    "identities": "hospitals' keys",
    "task": "outcome",
    "features": "features",
    "split": "who trains, who tests",
    "training": "training here",
    "rules": "when a round stands",
    "server_optimiser": "coordinator's step",
    "title": "title",
    "name": "short name",
    "seed": "seed",
}
TARGET = "_target_"
NONE = "nothing"


def asked(signed: Signed, *, site: str, is_trusted: bool) -> Lines:
    """Who asks for what, with whom."""
    proposal = signed.proposal
    study = proposal.asked
    others = [name for name in study.roster if name != site]
    where = f"this hospital and {len(others)} others: {', '.join(others)}"
    if site not in study.roster:
        where = f"NOT this hospital, but {', '.join(others)}"
    who = f"{proposal.proposer.name}, on {proposal.proposed_at[:10]}"
    trust = "whose key this hospital knows" if is_trusted else "whose key this hospital does NOT know"
    return [
        ("study", f"{study.title} ({study.name})"),
        ("purpose", proposal.purpose),
        ("proposed by", f"{who}, {trust}"),
        ("runs until", f"{proposal.expires} at the latest"),
        ("hospitals", where),
        ("predicts", _predicts(study)),
        ("learns", _learns(study)),
    ]


def _learns(study: Study) -> str:
    if study.tabulation.tables:
        return "no model: tables of patients are counted, once"
    if _is(study.privacy, "Release"):
        return "no model: synthetic patients are made from counts, once"
    return f"a model of kind {_part(study.model)}, by {_part(study.strategy)}, in {_rounds(study.rounds)}"


def read_of_patients(study: Study) -> Lines:
    """What would be read of each patient who allows research, by how sensitive it is."""
    words = {"quasi": "may identify", "sensitive": "sensitive", "measure": "measurements"}
    lines = []
    for kind, title in words.items():
        names = [feature.title for feature in study.features.features if feature.sensitivity == kind]
        if names:
            lines.append((title, ", ".join(names)))
    task = study.task
    follow_up = f", and the time until then ({task.follow_up.time})" if task.follow_up else ""
    return [*lines, ("outcome", f"{task.outcome.replace('_', ' ')}{follow_up}")]


def leaves(study: Study) -> Lines:
    """What would leave this hospital, and when."""
    scores = "how many patients of either outcome were given which risk"
    if study.task.follow_up is not None:
        scores += ", and how many pairs in the right order"
    if _is(study.privacy, "Release"):
        counts = (
            "how many training patients have each value and each pair of values, of all features and the outcome cut into "
            "bins, with this hospital's share of the noise"
        )
        return [("once", counts), ("never", "a patient's row, name or identifier")]
    if study.tabulation.tables:
        named = "; ".join(" by ".join(columns) for columns in study.tabulation.tables)
        how = (
            "with noise"
            if _protects_patients(study.privacy)
            else "without noise, rows below this hospital's min_cell withheld"
        )
        counts = f"of all patients, in bins and levels, and means and variances of single numbers, {how}: {named}"
        return [("once", counts), ("never", "a patient's row, name or identifier")]
    groups = ", ".join(group.label or name for name, group in study.features.groups.items())
    by = f", also by {groups}" if groups else ""
    if _protects_patients(study.privacy):
        every = study.privacy.get("evaluate_every")
        when = f"every {every} rounds, and at the end" if every else "at the end"
        lines = [
            ("before training", "how many patients train, validate and test, with noise"),
            (_times(study.rounds), f"{_trained_privately(study)}, and no loss"),
            (when, f"{scores}, in {study.privacy.get('score_bins')} steps and with noise"),
        ]
    elif _is(study.privacy, "Central"):
        lines = [
            ("before training", "how many patients train, validate and test"),
            (_times(study.rounds), f"{_trained(study)}, without noise, and no loss"),
            ("at the end", f"{scores}, over the test patients{by}"),
        ]
    else:
        lines = [
            ("before training", "how many patients train, validate and test"),
            ("before training", "of each feature, counts and sums over the training patients, for scaling"),
            (_times(study.rounds), f"{_trained(study)}, and its mean loss"),
            (_times(study.rounds), f"{scores}, over the validation patients"),
            ("at the end", f"the same over the test patients{by}"),
        ]
    return [*lines, ("never", "a patient's row, name or identifier")]


def protection(study: Study) -> Lines:
    """What bounds what the numbers tell of a patient."""
    privacy, secagg = study.privacy, study.secagg
    if not _protects_patients(privacy) and not _is(privacy, "Plain"):
        bound = (
            f"none for a patient at this hospital: what leaves has no noise. {_part(privacy)} acts at the coordinator, "
            "which is trusted with these numbers as they are; see --whole for what it promises to others"
        )
    elif _is(privacy, "Plain"):
        bound = "none: no bound is given on what these numbers reveal about a patient"
    elif privacy.get("insecure_seed") is not None:
        bound = "NONE: the noise follows from a seed, which undoes it"
    elif privacy.get("epsilon") is not None:
        bound = (
            f"the whole study costs a patient at most ε = {privacy['epsilon']:g}, but for a chance δ = "
            f"{privacy.get('delta', 0):g}; this hospital's ledger refuses more than its own cap"
        )
    else:
        bound = (
            f"noise of {privacy.get('noise_multiplier'):g} times what a patient moves a step; what that costs depends on "
            "how many patients there are, and this hospital's ledger refuses more than its own cap"
        )
    masks = "none: the coordinator gets this hospital's numbers by themselves"
    if not _is(secagg, "Plain"):
        masks = f"the coordinator gets sums over at least {secagg.get('min_cohort')} hospitals, and no hospital's own numbers"
    return [("privacy", bound), ("masking", masks)]


def code(proposal: Proposal) -> Lines:
    """Which code would compute it, and how that differs from what is installed here."""
    asked_for = f"FedHealth {proposal.code.version} ({proposal.code.sha256[:12]})"
    here = (
        "as installed here"
        if proposal.code.sha256 == code_hash()
        else f"NOT what is installed here ({code_hash()[:12]})"
    )
    own = packages()
    differ = [
        f"{name} {proposal.packages.get(name, 'none')} there, {own.get(name, 'none')} here"
        for name in sorted({*own, *proposal.packages})
        if proposal.packages.get(name) != own.get(name)
    ]
    lock = f"{len(own)} packages ({proposal.lock[:12]})"
    return [("code", f"{asked_for}, {here}"), ("stands on", f"{lock}, {'; '.join(differ) or 'as installed here'}")]


def changes(proposal: Proposal, last: Decision | None) -> Lines:
    """What is otherwise than in the study approved last; no lines for the same, or where there was none."""
    if last is None:
        return []
    old, new = last.signed.proposal, proposal
    lines = []
    was, now = (_features(document.study) for document in (old, new))
    if more := sorted(now - was):
        lines.append(("features", f"more is read: {', '.join(more)}"))
    if less := sorted(was - now):
        lines.append(("features", f"no longer read: {', '.join(less)}"))
    was, now = (set(document.study["roster"]) for document in (old, new))
    if more := sorted(now - was):
        lines.append(("hospitals", f"new: {', '.join(more)}"))
    if less := sorted(was - now):
        lines.append(("hospitals", f"gone: {', '.join(less)}"))
    if old.purpose != new.purpose:
        lines.append(("purpose", f"was: {old.purpose}"))
    if old.proposer.key != new.proposer.key:
        lines.append(("proposer", f"was {old.proposer.name}, by another key"))
    bounds = (dict(protection(document.asked)) for document in (old, new))
    lines += [(about, f"was {words}") for (about, words), now in zip(*(found.items() for found in bounds), strict=True)
              if (about, words) != now]  # fmt: skip
    lines += _values(old.study, new.study)
    if old.code.sha256 != new.code.sha256:
        was_code, now_code = (f"{one.version} ({one.sha256[:12]})" for one in (old.code, new.code))
        lines.append(("code", f"FedHealth {was_code} → {now_code}"))
    if old.lock != new.lock:
        lines.append(("stands on", f"other versions of packages ({old.lock[:12]} → {new.lock[:12]})"))
    return lines


def _trained(study: Study) -> str:
    if _is(study.strategy, "Newton"):
        return "the slope and curvature of the model's loss over the patients here"
    return "the model after training here, with what the strategy needs beside it"


def _protects_patients(privacy: Mapping[str, Any]) -> bool:
    """Whether a mechanism is known to put noise on what leaves a hospital; of one not known here nothing is claimed."""
    return any(_is(privacy, name) for name in ("DpSgd", "Distributed", "Release"))


def _trained_privately(study: Study) -> str:
    if _is(study.privacy, "Distributed"):
        return "one sum over patients drawn by secret coins, with this hospital's share of the noise"
    return "the model after training here with noise in every step"


def _predicts(study: Study) -> str:
    task = study.task
    if task.follow_up is not None:
        return f"{task.title}: when, by {task.follow_up.horizon_title}"
    return f"{task.title}: {task.positive_label} or {task.negative_label}"


def _rounds(n: int) -> str:
    return f"{n} round{'' if n == 1 else 's'}"


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _is(part: Mapping[str, Any], name: str) -> bool:
    return str(part.get(TARGET, "")).rpartition(".")[2] == name


def _part(part: Mapping[str, Any]) -> str:
    return str(part.get(TARGET, "something")).rpartition(".")[2]


def _values(old: Mapping[str, Any], new: Mapping[str, Any]) -> Lines:
    """Every value that differs; of a part that is another one, its settings in one line."""
    lines, parts = [], []
    for key in sorted(old.keys() & new.keys()):
        before, after = old[key], new[key]
        if isinstance(after, dict) and before.get(TARGET) != after.get(TARGET):
            settings = [
                f"{name} {_value(value)}" for name, value in after.items() if name != TARGET and value is not None
            ]
            with_ = f", with {', '.join(settings)}" if settings else ""
            lines.append((_name(key), f"{_part(before)} → {_part(after)}{with_}"))
            parts.append(key)
    olds, news = (_flat({key: part for key, part in study.items() if key not in parts}) for study in (old, new))
    for path in sorted(olds.keys() | news.keys()):
        before, after = olds.get(path), news.get(path)
        if before != after and path != "roster":
            lines.append((_name(path), f"{_value(before)} → {_value(after)}"))
    return lines


def _features(study: Mapping[str, Any]) -> set[str]:
    return {str(feature.get("label") or feature["name"]) for feature in study["features"]["features"]}


def _flat(value: Any, path: str = "") -> dict[str, Any]:  # noqa: ANN401 - a study's value
    """By dotted path, every value of a document; features by their name, since their order says nothing."""
    if path == "features.features":
        value = {feature["name"]: feature for feature in value}
        return {key: found for key, found in _flat(value, "features").items() if not key.endswith(".name")}
    if isinstance(value, dict) and value:
        inner = [_flat(part, f"{path}.{key}" if path else str(key)) for key, part in value.items()]
        return {key: found for part in inner for key, found in part.items()}
    return {path: value}


def _name(path: str) -> str:
    known = next((title for key, title in NAMES.items() if path == key or path.startswith(f"{key}.")), path)
    rest = path.split(".", 1)[1] if "." in path and path not in NAMES else ""
    return f"{known}: {rest}" if rest and rest != TARGET else known


def _value(value: Any) -> str:  # noqa: ANN401 - a study's value
    if isinstance(value, list):
        return ", ".join(map(str, value)) or NONE
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: NONE}[value]
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    return str(value).rpartition(".")[2] if str(value).startswith(("fedhealth.", "flwr.")) else str(value)
