"""A simulation's config is composed by one process while another loads torch, and is the same config."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedhealth.compose import composed, resolved
from fedhealth.core.errors import SettingError
from fedhealth.starting import LOADED, VALUELESS, config_of

AND_SAY = """
import gc, json, sys
from fedhealth import starting
from fedhealth.core.errors import SettingError

def said(words):
    try:
        config, refusal = starting.config_of(words), ""
    except SettingError as error:
        config, refusal = None, str(error)
    loaded = [name for name in (*starting.LOADED, starting.VALUELESS, "hydra") if name in sys.modules]
    searched = len(gc.get_objects()) if gc.isenabled() else None
    json.dump({"config": config, "refusal": refusal, "loaded": loaded, "searched": searched}, sys.stdout)
"""


def started(code: str, folder: Path) -> dict:
    """What a fresh process says."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    words, env = [sys.executable, "-c", AND_SAY + code], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


pytestmark = pytest.mark.slow

WORDS = [
    "experiment=demo",
    "rounds=3",
    "model=mlp",
    "model.hidden=[5, 7]",
    "training.learning_rate=1e-3",
    "strategy=fedprox",
]


def test_the_config_is_the_one_composed_here_and_this_process_loads_all_but_hydra(tmp_path):
    said = started(f"said({WORDS!r})", tmp_path)
    assert said["config"] == resolved(composed(WORDS))
    assert said["loaded"] == list(LOADED)
    # What was loaded, some half a million objects, is left out of every later search for garbage.
    assert said["searched"] < 100_000


def test_while_the_system_links_torch_nothing_waits_for_it(tmp_path):
    # One library at a time is linked: Python code alone can be loaded beside torch's.
    watches = """
import threading
from importlib.machinery import ExtensionFileLoader
import fedhealth.__main__
found, create, links = [], ExtensionFileLoader.create_module, starting._link
def watched(loader, spec):
    found.append(spec.name)
    return create(loader, spec)
def link():
    found.clear()
    links()
ExtensionFileLoader.create_module, starting._link = watched, link
starting.load()
json.dump({"linked": found[:1], "threads": threading.active_count()}, sys.stdout)
"""
    assert started(watches, tmp_path) == {"linked": ["torch._C"], "threads": 1}


def test_where_torch_can_not_be_linked_ahead_its_own_import_does(tmp_path):
    fails = "import os\nstarting.os.fsencode = lambda path: b'/nowhere.so'\n"
    assert started(f"{fails}said({WORDS!r})", tmp_path)["loaded"] == list(LOADED)


@pytest.mark.parametrize("words", [["strategy=fedavgg"], ["study.title=${nothing}"]])
def test_a_wrong_word_is_refused_as_here_and_before_torch_is_loaded(tmp_path, words):
    with pytest.raises(SettingError) as refused:
        resolved(composed(words))
    # However long the other process takes, this one hears of it before it loads the next.
    waits = "starting.Aside.is_ready = lambda self: self._answer.poll(30)\n"
    said = started(f"{waits}said({words!r})", tmp_path)
    assert said["refusal"] == str(refused.value)
    assert not {"torch", "hydra"} & set(said["loaded"])


def test_where_the_other_process_says_nothing_the_config_is_composed_here(tmp_path):
    dies = (
        "import os\nme = os.getpid()\ncompose = starting.composed\n"
        "starting.composed = lambda words: compose(words) if os.getpid() == me else os._exit(9)\n"
    )
    said = started(f"{dies}said({WORDS!r})", tmp_path)
    assert said["config"] == resolved(composed(WORDS))
    assert "hydra" in said["loaded"]


def test_a_config_keeps_keys_that_are_numbers_and_a_part_of_ones_own_finds_all_of_torch(tmp_path):
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "mine.yaml").write_text("_target_: mine.Model\nby_number: {1: one}\n")
    composes = "config = starting.config_of(['model=mine'])\nassert config['model']['by_number'] == {1: 'one'}\n"
    assert VALUELESS in started(composes + "said([])", tmp_path)["loaded"]


def test_a_config_of_many_named_hospitals_comes_whole(tmp_path):
    # Far more than a pipe holds.
    names = [f"hospital-{number:0500}" for number in range(400)]
    many = "names = [f'hospital-{number:0500}' for number in range(400)]\n"
    said = started(f"{many}said(['+named=[' + ','.join(names) + ']'])", tmp_path)
    assert said["config"]["named"] == names


@pytest.mark.parametrize("name", ["fork", "pipe"])
def test_where_processes_or_files_are_too_many_the_config_is_composed_here(tmp_path, name):
    refuses = f"import os\ndef refuse():\n    raise OSError(11, 'too many')\nos.{name} = refuse\n"
    assert started(f"{refuses}said({WORDS!r})", tmp_path)["config"] == resolved(composed(WORDS))


def test_where_torch_is_loaded_no_process_is_forked(monkeypatch):
    import torch  # noqa: F401

    monkeypatch.setattr(os, "fork", None)
    assert config_of(WORDS) == resolved(composed(WORDS))
