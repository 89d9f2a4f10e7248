"""Configs for tests that are not about composing: Hydra takes a third of a second for each.

Most of that goes into finding, reading and merging the same thirty files. Tests do it once for each choice of parts,
in Hydra's own code, and set the values on a copy, as Hydra does after it. Where a user's `configs` folder is searched
too, whose files a test may change, nothing is remembered.
"""

from __future__ import annotations

import copy
import pickle
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.plugins.config_source import ConfigResult

from fedhealth.compose import composed, resolved

Loader = config_loader_impl.ConfigLoaderImpl
#: Hydra's own.
LISTED = config_loader_impl.create_defaults_list
MERGED = Loader._compose_config_from_defaults_list
LOADED = ConfigRepository.load_config

_lists: dict[tuple[Any, ...], DefaultsList] = {}
#: By the identity of a list in `_lists`, which stays; pickled, since OmegaConf's own copy takes twice as long.
_merged: dict[int, bytes] = {}
_files: dict[tuple[str, ...], bytes] = {}


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
    ConfigRepository.load_config = _loaded


def forget_compositions() -> None:
    """Compose as Hydra does again."""
    config_loader_impl.create_defaults_list = LISTED
    Loader._compose_config_from_defaults_list = MERGED
    ConfigRepository.load_config = LOADED


def _listed(repo, config_name, overrides_list, **options) -> DefaultsList:
    if _searches_a_users(repo):
        return LISTED(repo, config_name, overrides_list, **options)
    values = Overrides(repo=repo, overrides_list=overrides_list).config_overrides
    parts = tuple(word.input_line for word in overrides_list if word not in values)
    key = (config_name, parts, *(source.path for source in repo.get_sources()), *sorted(options.items()))
    if key not in _lists:
        _lists[key] = LISTED(repo, config_name, overrides_list, **options)
    known = _lists[key]
    return DefaultsList(known.defaults, known.defaults_tree, values, known.overrides)


def _merged_of(self, defaults, repo):
    if _searches_a_users(repo):
        return MERGED(self, defaults, repo)
    if id(defaults) not in _merged:
        _merged[id(defaults)] = pickle.dumps(MERGED(self, defaults, repo))
    return pickle.loads(_merged[id(defaults)])


def _loaded(self, config_path) -> ConfigResult | None:
    if _searches_a_users(self):
        return LOADED(self, config_path)
    key = (config_path, *(source.path for source in self.get_sources()))
    if key not in _files:
        _files[key] = pickle.dumps(LOADED(self, config_path))
    return pickle.loads(_files[key])


def _searches_a_users(repo) -> bool:
    return any(source.provider.startswith("hydra.searchpath") for source in repo.get_sources())
