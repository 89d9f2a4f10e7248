from __future__ import annotations

import pytest
import torch

from fedhealth.runtime import flower


@pytest.fixture(autouse=True)
def a_run():
    """Messages can be made in a run only."""
    flower.begin_run(1)
    torch.set_num_threads(1)
