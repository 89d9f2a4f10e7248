"""The rules that every budget's settings keep, whoever it protects."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_budget(values: Mapping[str, float | None], *, delta: float, protected: str) -> None:
    """Refuse a budget that is given twice or not at all, a value that is no noise, and a delta that is no small chance.

    Args:
        values: by setting, what must be above 0; `epsilon` and `noise_multiplier` among them, one of which is None.
        delta: the chance with which the bound may fail.
        protected: of whom delta must be less than one over the number.

    Raises:
        SettingError: naming the setting.
    """
    if (values["epsilon"] is None) == (values["noise_multiplier"] is None):
        found = "neither" if values["epsilon"] is None else "both"
        raise SettingError(
            f"one of `privacy.epsilon` and `privacy.noise_multiplier` must be given, found {found}. "
            "Set the other to null."
        )
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise SettingError(
                f"`privacy.{name}` must be above 0 and finite, found {value}. Use privacy=plain for no protection."
            )
    if not 1e-10 <= delta < 1:
        raise SettingError(
            f"`privacy.delta` must lie in [1e-10, 1), found {delta}. Use less than one over {protected}."
        )
