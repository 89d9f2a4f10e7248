from __future__ import annotations

import gc

import pytest
import torch

from fedhealth.runtime import flower


@pytest.fixture(autouse=True)
def a_run():
    """Messages can be made in a run only."""
    flower.begin_run(1)
    torch.set_num_threads(1)
    # Some of Flower's strategies collect garbage once a reply, among all that was not frozen.
    gc.freeze()
