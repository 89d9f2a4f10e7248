"""Cases of a parametrised test that only the whole suite runs."""

from __future__ import annotations

import pytest


def slow(*cases):
    """The cases, each marked as slow."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in cases]
