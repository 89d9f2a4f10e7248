"""A composed config for tests that are not about composing: Hydra takes a third of a second for each."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

from fedhealth.compose import composed, resolved


def config_of(*overrides: str) -> dict[str, Any]:
    """The config of these overrides, one's own to change."""
    # Hydra looks into the current folder too.
    return copy.deepcopy(_composed(overrides, Path.cwd()))


@cache
def _composed(overrides: tuple[str, ...], _: Path) -> dict[str, Any]:
    return resolved(composed(overrides))
