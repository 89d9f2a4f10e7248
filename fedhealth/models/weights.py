"""A network's weights as named arrays: how they begin, leave a network and enter one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from fedhealth.core.errors import SettingError
from fedhealth.core.seeds import seed_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.models import Model


def first_network(model: Model, width: int, *, seed: int) -> nn.Module:
    """The model's network before training, the same for everyone with that seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, purpose="weights"))
        return model.network(width)


def weights_of(network: nn.Module) -> dict[str, NDArray[np.generic]]:
    """Copies of a network's weights by name."""
    return {name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}


def load_weights(network: nn.Module, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Give a network these weights.

    Raises:
        SettingError: names or shapes are not the network's.
    """
    found = {name: tuple(array.shape) for name, array in arrays.items()}
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if found != wanted:
        raise SettingError(f"the weights must fit the model {wanted}, found {found}. Use the study's own model.")
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
