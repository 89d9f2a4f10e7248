"""Server optimisers: how the coordinator moves the model towards what its strategy gave.

An optimiser is a `@settings` class with one verb, `step`. It takes the strategy's model
less the old one as a descent direction, so it goes with every strategy; `plain` takes the
strategy's model as it is. Flower's FedAvgM, FedAdagrad, FedAdam and FedYogi hold one
themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fedhealth.core.pull import Arrays


class ServerOptimiser(Protocol):
    """What every file of this room offers."""

    def step(self, old: Arrays, new: Arrays, memory: Arrays) -> tuple[Arrays, Arrays]:
        """The next model and the optimiser's memory.

        Args:
            old: the model that the round began with.
            new: what the strategy made of it.
            memory: what the last step gave; empty before the first.
        """
        ...
