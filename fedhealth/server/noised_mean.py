"""The mean over hospitals with the coordinator's noise, as a Flower strategy around the study's own.

    replies ─clip, each alike→ ─mean, noise (`privacy.central`)→ one reply → the study's strategy

It is Flower's wrapper for central privacy with the two steps done otherwise; `privacy.central`
says why, and what is promised. The study's strategy sees one reply, the new model, and so
nothing that the noise does not cover.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
)

from fedhealth.core.errors import QuorumError
from fedhealth.runtime.codec import arrays_of, write_average

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy
    from numpy.typing import NDArray

    from fedhealth.core.pull import Arrays
    from fedhealth.privacy.central import Central

#: Flower's wrappers for central privacy, none of which a study may name.
FLOWERS_OWN = (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
)


class NoisedMean(DifferentialPrivacyServerSideFixedClipping):
    """The study's strategy, given the noised mean of the hospitals' updates.

    Args:
        strategy: the study's own, which keeps the mean it is given, and nothing from round to round.
        mechanism: the study's privacy.
        hospitals: how many there are, every one of which must answer.
        rounds: how many are planned.
    """

    def __init__(self, strategy: Strategy, mechanism: Central, *, hospitals: int, rounds: int) -> None:
        super().__init__(strategy, mechanism.multiplier(rounds), mechanism.clipping_norm, hospitals)
        self.mechanism, self.rounds = mechanism, rounds
        self._asked: list[Message] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's own messages; the model in them is what updates are counted from."""
        self._asked = list(super().configure_train(server_round, arrays, config, grid))
        return self._asked

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The strategy's new model from the one noised mean, and no metrics.

        Raises:
            QuorumError: another number of hospitals than planned answered, for which the noise is not made.
            DataError: an update is not finite.
        """
        usable = [reply for reply in replies if reply.has_content()]
        if len(usable) != self.num_sampled_clients:
            raise QuorumError(
                f"privacy=central needs an answer of each of {self.num_sampled_clients} hospitals, found {len(usable)}. "
                "Mend the others and resume; fewer would each move the mean by more than the noise is made for."
            )
        model = {name: array.numpy() for name, array in self.current_arrays.items()}
        start = _vector(model, model)
        # The weights that came with the replies are not read: every hospital counts the same.
        updates = [_vector(arrays_of(reply), model) - start for reply in usable]
        moved = start + self.mechanism.noised_mean(updates, rounds=self.rounds, round_=server_round)
        new = write_average(_arrays(moved, model), {}, 1.0, to=self._asked[0])
        arrays, _ = self.strategy.aggregate_train(server_round, [new])
        return arrays, None


def _vector(arrays: Arrays, like: Arrays) -> NDArray[np.float64]:
    """The arrays in one vector, in the order of `like`; one without axes is a number of it like any other."""
    return np.concatenate([np.ravel(arrays[name]).astype(np.float64) for name in like])


def _arrays(vector: NDArray[np.float64], like: Arrays) -> Arrays:
    """The inverse of `_vector`."""
    ends = np.cumsum([array.size for array in like.values()])
    parts = np.split(vector, ends[:-1])
    return {name: part.reshape(array.shape) for (name, array), part in zip(like.items(), parts, strict=True)}
