"""From the command line's words to a resolved config, by Hydra; and what may be wrong with them."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.places import configs_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

#: What Hydra's own code comes to grief with over a config that it did not foresee, such as one that holds itself.
UNFORESEEN = (ValueError, TypeError, AttributeError, LookupError, AssertionError, RecursionError)

#: Keys that are looked for where they are not, and where they are: what a hospital approves does not say how a simulation is run.
ELSEWHERE = {
    "engine.executor": "Use runtime.executor=fork or ray, with runtime.processes=N.",
    "engine.processes": "Use runtime.processes=N.",
}

#: Jobs of a sweep; more are a slip, and would fill the memory before the first has run.
MOST_JOBS = 10_000


def composed(overrides: Sequence[str]) -> DictConfig:
    """The config of these overrides, with the user's own `configs/` folder searched too.

    Raises:
        SettingError: an override is not one, or names what is not there.
    """
    import yaml
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    own = Path.cwd() / "configs"
    extra = [f"hydra.searchpath=[file://{own}]"] if own.is_dir() and own != configs_folder() else []
    try:
        with initialize_config_dir(str(configs_folder()), version_base="1.3", job_name="fedhealth"):
            return compose("config", overrides=[*extra, *overrides])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{mark.name} must be YAML, found a fault at line {mark.line + 1}" if mark else "configs must be YAML"
        raise SettingError(f"{where}. Mend the file.") from None
    except (HydraException, OmegaConfBaseException, *UNFORESEEN) as error:
        raise SettingError(_brief(error, overrides)) from None


def resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain values.

    Raises:
        SettingError: a value is missing, or refers to what is not there.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return dict(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except (OmegaConfBaseException, *UNFORESEEN) as error:
        raise SettingError(f"every config value must be set, found {_first_line(error)}. Give it a value.") from None


def swept(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep: every combination of the values that commas separate or `range` counts.

    Raises:
        SettingError: an override can't be parsed or has no value, or the jobs are too many.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        choices = [
            [
                f"{one.get_key_element()}={value}"
                for value in itertools.islice(one.sweep_string_iterator(), MOST_JOBS + 1)
            ]
            if one.is_sweep_override()
            else [str(one.input_line)]
            for one in parsed
        ]
    except (HydraException, *UNFORESEEN) as error:
        raise SettingError(_brief(error, overrides)) from None
    for one, values in zip(parsed, choices, strict=True):
        if not values:
            raise SettingError(f"a sweep must go over at least one value, found none in {one.input_line}. Give it one.")
    if math.prod(len(values) for values in choices) > MOST_JOBS:
        raise SettingError(f"a sweep must have at most {MOST_JOBS:,} jobs, found more. Mend the values between commas.")
    return [list(job) for job in itertools.product(*choices)]


def options(group: str) -> list[str]:
    """The parts of a config group."""
    folders = [configs_folder() / group, Path.cwd() / "configs" / group]
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def _brief(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's complaint as rule, found value, remedy, on one line."""
    text = str(error)
    if part := re.search(r"Could not find '([\w-]+)/([^']*)'", text):
        group, found = part.groups()
        return f"`{group}` must be one of its parts, found {group}={found}. {did_you_mean(found, options(group))}"
    if key := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        found = key[1] or key[2]
        return f"`{found}` must be a key of the config, found no such key. {ELSEWHERE.get(found) or _keys_near(found)}"
    if "Error parsing override" in text or "mismatched input" in text or "no viable alternative" in text:
        bad = next((word for word in overrides if word in text), " ".join(overrides))
        return f"an override must read key=value, found {bad!r}. Quote it in the shell, as in 'model.hidden=[64,32]'."
    return f"the config must compose, found: {_first_line(error)}. See fedhealth simulate --cfg job."


def _keys_near(found: str) -> str:
    known = _paths(dict(resolved(composed([]))))
    near = did_you_mean(found, known)
    return near.split(" Known:")[0] if near.startswith("Did") else "See fedhealth simulate --cfg job."


def _paths(tree: dict[str, Any], prefix: str = "") -> list[str]:
    inner = [
        path for key, value in tree.items() if isinstance(value, dict) for path in _paths(value, f"{prefix}{key}.")
    ]
    return [*(f"{prefix}{key}" for key in tree), *inner]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
