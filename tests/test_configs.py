"""Every config group mirrors its room: same stem, `_target_`, and the same defaults."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path

import pytest
import yaml
from composing import config_of

from fedhealth.compose import composed, options, resolved
from fedhealth.core.features import FeatureSpec
from fedhealth.core.parts import build
from fedhealth.core.settings import read
from fedhealth.core.study import Rules, study_from
from fedhealth.core.task import Task
from fedhealth.core.training import LocalTraining
from fedhealth.places import configs_folder
from fedhealth.simulate import RunSettings
from fedhealth.study_document import STUDY_KEYS

ROOMS = {
    "model": "fedhealth.models",
    "privacy": "fedhealth.privacy",
    "secagg": "fedhealth.secagg",
    "engine": "fedhealth.site.engines",
    "attack": "fedhealth.site.attacks",
    "runtime": "fedhealth.runtime",
}
#: Modules of those rooms that a config does not choose.
NO_PARTS = {
    "__init__",
    "weights",
    "accountant",
    "alias_table",
    "audit",
    "budget_settings",
    "gaussian",
    "guarantee",
    "ledger",
    "ledger_head",
    "noise",
    "noise_share",
    "patient_level",
    "over_intervals",
    "row_of_steps",
    "sampling",
}
#: Groups in which several configs may set one part.
SHARED = {"strategy": "fedhealth.strategies", "server_optimiser": "fedhealth.server.optimisers"}
STEMS = {
    group: [path.stem for path in sorted((configs_folder() / group).glob("*.yaml"))] for group in (*ROOMS, *SHARED)
}
PARTS = [(group, stem) for group, stems in STEMS.items() for stem in stems]


def defaults_of(part) -> dict:
    if dataclasses.is_dataclass(part):
        return {f.name: f.default for f in dataclasses.fields(part)}
    return {name: p.default for name, p in inspect.signature(part).parameters.items() if name != "self"}


@pytest.mark.parametrize(("group", "stem"), PARTS)
def test_a_part_can_be_built_from_its_yaml(group, stem):
    # Composed, so that what one part takes from another is there; with a part of every group that has as many, for a
    # composition takes a third of a second.
    number = STEMS[group].index(stem)
    config = config_of(*(f"{each}={stems[number]}" for each, stems in STEMS.items() if number < len(stems)))
    found = yaml.safe_load((configs_folder() / group / f"{stem}.yaml").read_text())
    assert config[group]["_target_"] == found["_target_"]
    assert build(config[group], where=group, room=ROOMS.get(group))


@pytest.mark.parametrize(("group", "stem"), [(g, s) for g, s in PARTS if g in ROOMS])
def test_a_yaml_has_the_stem_and_the_defaults_of_its_module(group, stem):
    found = yaml.safe_load((configs_folder() / group / f"{stem}.yaml").read_text())
    module, name = found.pop("_target_").rsplit(".", 1)
    defaults = defaults_of(getattr(importlib.import_module(module), name))
    assert module == f"{ROOMS[group]}.{stem}"
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()} == defaults


@pytest.mark.parametrize(("group", "stem"), [(g, s) for g, s in PARTS if g in SHARED])
def test_a_yaml_names_every_setting_of_its_part(group, stem):
    found = yaml.safe_load((configs_folder() / group / f"{stem}.yaml").read_text())
    module, name = found.pop("_target_").rsplit(".", 1)
    if module.startswith("flwr."):
        return
    part = getattr(importlib.import_module(module), name)
    assert set(found) == {f.name for f in dataclasses.fields(part)}
    if module == f"{SHARED[group]}.{stem}":
        assert {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()} == defaults_of(part)


def test_every_method_has_its_yaml():
    from fedhealth.strategies.method import Method

    folder = Path(importlib.import_module("fedhealth.strategies").__file__).parent
    missing = []
    for path in folder.glob("*.py"):
        module = importlib.import_module(f"fedhealth.strategies.{path.stem}")
        own = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Method)]
        if any(dataclasses.is_dataclass(v) and v.__module__ == module.__name__ for v in own):
            missing += [path.stem] if path.stem not in options("strategy") else []
    assert not missing, f"write configs/strategy/{{{','.join(missing)}}}.yaml with _target_ and every default"


@pytest.mark.parametrize(("group", "part"), [(g, p) for g in ("optimiser", "schedule") for p in options(g)])
def test_a_way_to_train_composes_and_is_accepted(group, part):
    training = read(LocalTraining, resolved(composed([f"{group}={part}"]))["training"], where="training")
    assert (training.optimiser if group == "optimiser" else training.schedule.kind) in (part, "sgd")


@pytest.mark.parametrize("group", [g for g in ROOMS if g != "runtime"])
def test_every_module_of_a_room_has_its_yaml(group):
    folder = Path(importlib.import_module(ROOMS[group]).__file__).parent
    parts = {path.stem for path in folder.glob("*.py")} - NO_PARTS
    missing = parts - set(options(group))
    assert not missing, f"write configs/{group}/{{{','.join(missing)}}}.yaml with _target_ and every default"


def test_the_config_states_the_defaults_of_the_study():
    config = resolved(composed([]))
    assert config["training"] == dataclasses.asdict(LocalTraining())
    assert config["rules"] == {f.name: f.default for f in dataclasses.fields(Rules)}
    assert set(config["run"]) == {f.name for f in dataclasses.fields(RunSettings)}


@pytest.mark.parametrize("task", options("task"))
def test_every_task_has_features_of_its_name(task):
    config = resolved(composed([f"task={task}"]))
    spec = read(FeatureSpec, config["features"], where="features")
    assert read(Task, config["task"], where="task").name == task
    assert spec.names


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_is_a_whole_study(experiment):
    config = resolved(composed([f"experiment={experiment}"]))
    study = study_from({**{key: config[key] for key in STUDY_KEYS}, "roster": config["sites"]["names"]})
    assert study.name == experiment
