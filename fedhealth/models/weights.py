"""A network's weights as named arrays: how they begin, leave a network and enter one."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedhealth.core.errors import SettingError
from fedhealth.core.network_names import NetworkNames
from fedhealth.core.seeds import seed_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.models import Model


#: Held while the process's generator is seeded and drawn from.
_drawing = Lock()


def first_network(model: Model, width: int, *, seed: int) -> nn.Module:
    """The model's network before training, the same for everyone with that seed, in every thread."""
    # The network's layers draw from torch's one generator of the process. `torch.manual_seed` would also keep a
    # note of each call for a GPU that may never come.
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, purpose="weights"))
        return model.network(width)


def weights_of(network: nn.Module) -> dict[str, NDArray[np.generic]]:
    """Copies of a network's weights by name."""
    return {name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}


def names_of(network: nn.Module) -> NetworkNames:
    """A network's weights by name and by what they are for."""
    layers = {name: layer for name, layer in network.named_modules() if not list(layer.children())}
    own = {name: _joined(name, layer.state_dict()) for name, layer in layers.items()}
    kinds = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm, torch.nn.GroupNorm)  # noqa: SLF001 - no public name
    trained = tuple(name for name, _ in network.named_parameters())
    with_weights = [name for name, names in own.items() if set(names) & set(trained)]
    return NetworkNames(
        all=tuple(network.state_dict()),
        trained=trained,
        normalisation=frozenset(n for name, layer in layers.items() if isinstance(layer, kinds) for n in own[name]),
        head=frozenset(own[with_weights[-1]]),
        is_linear=isinstance(network, torch.nn.Linear),
    )


def _joined(layer: str, names: Iterable[str]) -> list[str]:
    return [f"{layer}.{name}" if layer else name for name in names]


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
