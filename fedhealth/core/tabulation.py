"""The tabulation: which tables a study asks hospitals for, where it is a study of tables."""

from __future__ import annotations

import math
from itertools import pairwise

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings


@settings
class Tabulation:
    """The tables of a study, which is then asked for these, all in one answer, and for nothing else.

    They stand in the document that a hospital approves; no request can ask for another.

    Attributes:
        tables: each a column, or a column and the one beside it. A column is a feature's, the
            outcome's, or that of follow-up times.
        times: the times by which events are told, rising, in the unit of the follow-up.
    """

    tables: tuple[tuple[str, ...], ...] = ()
    times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for columns in self.tables:
            if not 1 <= len(columns) <= 2 or len(set(columns)) < len(columns):
                raise SettingError(
                    f"a table must be of one column or of two, found {list(columns)}. Ask for two tables, or leave one out."
                )
        if self.times and not (self.times[0] > 0 and all(a < b for a, b in pairwise((*self.times, math.inf)))):
            raise SettingError(
                f"`tabulation.times` must rise strictly, above 0 and finite, found {list(self.times)}. Sort them."
            )
