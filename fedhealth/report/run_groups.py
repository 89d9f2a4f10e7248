"""Which runs can be compared, and in which groups: the runs of one config over its seeds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import DataError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: What runs must share to be compared: the patients and what is asked of them.
SHARED = ("task", "sites", "features", "split", "source")
#: What does not change what a run computes, and the seed.
ASIDE = ("seed", "name", "title", "run", "runtime")
#: The schema of report.json that is read here.
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Run:
    """What a comparison reads of a finished run.

    Attributes:
        folder: where it is.
        config: config.yaml.
        report: report.json.
        cohorts: the fingerprint of each hospital's training patients, from manifest.json.
    """

    folder: str
    config: Mapping[str, Any]
    report: Mapping[str, Any]
    cohorts: Mapping[str, str]

    @property
    def seed(self) -> int:
        """The seed of all that the run draws."""
        return int(self.config["seed"])


@dataclass(frozen=True, slots=True)
class Group:
    """The runs of one config, one a seed.

    Attributes:
        settings: every setting by its dotted path; a part also has its name at its own path.
        runs: rising by seed.
        repeats: the folders of runs that are left out, having the results of another.
    """

    settings: Mapping[str, Any]
    runs: tuple[Run, ...]
    repeats: tuple[str, ...]


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The runs in groups, in the order of each group's first run.

    Raises:
        SettingError: the runs don't answer one question about the same patients, or a
            config has two results for one seed.
        DataError: a report is of another schema.
    """
    _check(runs)
    found: dict[str, tuple[dict[str, Any], dict[int, Run], list[str]]] = {}
    for run in runs:
        settings = {
            path: value
            for key, part in run.config.items()
            if key not in (*ASIDE, *SHARED)
            for path, value in _flat(key, part)
        }
        _, by_seed, repeats = found.setdefault(repr(sorted(settings.items())), (settings, {}, []))
        same = by_seed.setdefault(run.seed, run)
        if same is run:
            continue
        if same.report.get("union") != run.report.get("union"):
            raise SettingError(
                f"a config must have one result for a seed, found two for seed={run.seed}: {same.folder} and "
                f"{run.folder}. Leave one out."
            )
        repeats.append(run.folder)
    return [
        Group(settings, tuple(by_seed[seed] for seed in sorted(by_seed)), tuple(repeats))
        for settings, by_seed, repeats in found.values()
    ]


def varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose value is not the same everywhere, in the order of their first appearance."""
    keys = dict.fromkeys(key for found in settings for key in found)
    return [key for key in keys if len({_told(found, key) for found in settings}) > 1]


def labelled(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each group: the fewest keys that tell all apart, a part before its settings."""
    parts = {key.removesuffix("._target_") for found in settings for key in found if key.endswith("._target_")}
    keys = sorted(varying(settings), key=lambda key: (key not in parts, key.endswith("._target_")))
    if not keys:
        return [_said(settings[0], ["strategy"])]
    for size in range(1, len(keys)):
        for chosen in combinations(keys, size):
            told = {tuple(_told(found, key) for key in chosen) for found in settings}
            if len(told) == len(settings) and not any(_lacks_its_part(key, chosen, keys, settings) for key in chosen):
                return [_said(found, chosen) for found in settings]
    return [_said(found, keys) for found in settings]


def _check(runs: Sequence[Run]) -> None:
    for run in runs:
        if run.report.get("schema") != SCHEMA:
            raise DataError(
                f"{run.folder}/report.json must have schema {SCHEMA}, found {run.report.get('schema')}. "
                f"Rebuild it: fedhealth report {run.folder}"
            )
    first = runs[0]
    ours = dict(_asked(first))
    for other in runs[1:]:
        theirs = dict(_asked(other))
        for key in ours | theirs:
            if ours.get(key) != theirs.get(key):
                raise SettingError(
                    f"runs that are compared must have the same `{key}`, found {_short(ours.get(key))} in "
                    f"{first.folder} and {_short(theirs.get(key))} in {other.folder}. Compare them apart."
                )
    for run, other in combinations(runs, 2):
        if run.seed == other.seed and (found := _other_count(run, other)):
            raise SettingError(
                f"runs of one seed must have the same patients, found {found} in {run.folder} and {other.folder}. "
                "A hospital changed between them; run one again."
            )


def _asked(run: Run) -> Iterator[tuple[str, Any]]:
    """The settings that compared runs share; the hospitals by name, however the config names them."""
    for key in SHARED:
        for path, value in _flat(key, run.config.get(key)):
            if path != "sites.names":
                yield path, value
    yield "sites.names", sorted(site["name"] for site in run.report["sites"])


def _other_count(run: Run, other: Run) -> str:
    """The first count of patients that both reports show and that differs; empty for none."""
    theirs = {site["name"]: site for site in other.report["sites"]}
    for site in run.report["sites"]:
        for part in ("train", "validation", "test"):
            here, there = site.get(part), theirs[site["name"]].get(part)
            if here is not None and there is not None and here != there:
                return f"{here} and {there} {part} patients at {site['name']}"
    return ""


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - a config's value
    """Every setting beneath, by its dotted path, and the name of each part."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield path, _part_name(str(value["_target_"]))
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}", inner)
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for place, inner in enumerate(value):
            yield from _flat(f"{path}.{place}", inner)
    else:
        yield path, value


def _part_name(target: str) -> str:
    """A part as its config is called: one of ours by its file, another's by its class."""
    module, _, name = target.rpartition(".")
    return module.rpartition(".")[2] if module.startswith("fedhealth.") else name.lower()


def _told(settings: Mapping[str, Any], key: str) -> str:
    """A text that two settings share where they share the value, or both have none."""
    return repr(settings[key]) if key in settings else ""


def _lacks_its_part(
    key: str, chosen: Sequence[str], keys: Sequence[str], settings: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether some groups lack `key` because they have another part, and the part is not among the chosen."""
    part = key.rpartition(".")[0]
    return part in keys and part not in chosen and any(key not in found for found in settings)


def _said(settings: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The keys as one would type them; what is not set is left out where that leaves any."""
    there = [f"{key}={typed(settings[key])}" for key in keys if key in settings]
    return " ".join(there) or f"{keys[0]}=unset"


def typed(value: Any) -> str:  # noqa: ANN401 - a config's value
    """A setting's value as an override has it."""
    if isinstance(value, list):
        return f"[{','.join(typed(inner) for inner in value)}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _short(value: Any) -> str:  # noqa: ANN401 - a config's value
    text = "nothing" if value is None else typed(value)
    return text if len(text) <= 60 else f"{text[:59]}\N{HORIZONTAL ELLIPSIS}"
