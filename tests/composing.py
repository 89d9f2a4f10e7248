"""Configs for tests that are not about composing: Hydra takes a third of a second for each.

Most of that goes into finding, reading and merging the same thirty files. Tests do it once for each choice of parts,
in Hydra's own code, and set the values on a copy, as Hydra does after it. Where a user's `configs` folder is searched
too, whose files a test may change, nothing is remembered.
"""

from __future__ import annotations

import copy
import pickle
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.default_element import ResultDefault
from hydra.plugins.config_source import ConfigResult
from omegaconf.base import Box

from fedhealth.compose import composed, resolved

Loader = config_loader_impl.ConfigLoaderImpl
#: Hydra's own.
LISTED = config_loader_impl.create_defaults_list
MERGED = Loader._compose_config_from_defaults_list
PLACED = Loader._load_single_config
LOADED = ConfigRepository.load_config
CHOSEN = defaults_list._create_interpolation_map
REPARENTED = Box._re_parent

_lists: dict[tuple[Any, ...], DefaultsList] = {}
#: Pickled, since OmegaConf's own copy takes twice as long; by the identity of a list in `_lists`, which stays.
_merged: dict[int, bytes] = {}
#: A file's contents at its place in the config, and what the files of Hydra itself come to, pickled too.
_placed: dict[tuple[Any, ...], bytes] = {}
#: Files as they were read, which Hydra changes no more: what it merges is a copy.
_files: dict[tuple[str, ...], ConfigResult | None] = {}


def config_of(*overrides: str) -> dict[str, Any]:
    """The config of these overrides, one's own to change."""
    # Hydra looks into the current folder too.
    return copy.deepcopy(_composed(overrides, Path.cwd()))


@cache
def _composed(overrides: tuple[str, ...], _: Path) -> dict[str, Any]:
    return resolved(composed(overrides))


def remember_compositions() -> None:
    """From here on this process composes each choice of parts once."""
    config_loader_impl.create_defaults_list = _listed
    Loader._compose_config_from_defaults_list = _merged_of
    Loader._load_single_config = _placed_of
    ConfigRepository.load_config = _loaded
    defaults_list._create_interpolation_map = _chosen


def forget_compositions() -> None:
    """Compose as Hydra does again."""
    config_loader_impl.create_defaults_list = LISTED
    Loader._compose_config_from_defaults_list = MERGED
    Loader._load_single_config = PLACED
    ConfigRepository.load_config = LOADED
    defaults_list._create_interpolation_map = CHOSEN


def _listed(repo, config_name, overrides_list, **options) -> DefaultsList:
    if _searches_a_users(repo):
        return LISTED(repo, config_name, overrides_list, **options)
    values = Overrides(repo=repo, overrides_list=overrides_list).config_overrides
    parts = tuple(word.input_line for word in overrides_list if word not in values)
    key = (config_name, parts, *_folders(repo), *sorted(options.items()))
    if key not in _lists:
        _lists[key] = LISTED(repo, config_name, overrides_list, **options)
    known = _lists[key]
    return DefaultsList(known.defaults, known.defaults_tree, values, known.overrides)


def _merged_of(self, defaults, repo):
    if _searches_a_users(repo):
        return MERGED(self, defaults, repo)
    if id(defaults) not in _merged:
        _merged[id(defaults)] = pickle.dumps(_merged_once(self, _hydras_as_one(self, defaults, repo), repo))
    return pickle.loads(_merged[id(defaults)])


def _merged_once(self, defaults, repo):
    """What Hydra merges; who is whose parent is looked after once, and not over the whole config with each file."""
    for each in defaults:
        _placed_of(self, each, repo)
    Box._re_parent = lambda _: None
    try:
        found = MERGED(self, defaults, repo)
    finally:
        Box._re_parent = REPARENTED
    found._re_parent()
    return found


def _hydras_as_one(self, defaults, repo) -> list[ResultDefault]:
    """The files to merge, with Hydra's own, which come first and are the same in most choices, as one."""
    hydras = list(takewhile(lambda each: each.config_path.startswith("hydra/"), defaults))
    one = ResultDefault(config_path=str([_place(each) for each in hydras]))
    key = (_place(one), *_folders(repo))
    if key not in _placed:
        config = MERGED(self, hydras, repo)
        _placed[key] = pickle.dumps(ConfigResult("hydra", "", config, {}))
    return [one, *defaults[len(hydras) :]]


def _placed_of(self, default, repo) -> ConfigResult:
    if _searches_a_users(repo):
        return PLACED(self, default, repo)
    key = (_place(default), *_folders(repo))
    if key not in _placed:
        _placed[key] = pickle.dumps(PLACED(self, default, repo))
    return pickle.loads(_placed[key])


def _loaded(self, config_path) -> ConfigResult | None:
    if _searches_a_users(self):
        return LOADED(self, config_path)
    key = (config_path, *_folders(self))
    if key not in _files:
        _files[key] = LOADED(self, config_path)
    return _files[key]


def _chosen(overrides, defaults, self_added):
    """Hydra makes a config of all choices at each file, which only files with a choice that names another need."""
    return CHOSEN(overrides, defaults, self_added) if any(each.is_interpolation() for each in defaults) else None


def _place(default) -> tuple[Any, ...]:
    return default.config_path, default.package, default.primary


def _folders(repo) -> list[str]:
    return [source.path for source in repo.get_sources()]


def _searches_a_users(repo) -> bool:
    return any(source.provider.startswith("hydra.searchpath") for source in repo.get_sources())
