"""Attacks: what a simulated hospital does in place of its honest share of a round; `plain` is honest.

They are there to measure what a strategy withstands. An attack is how a simulation is run and
no part of a study: it stands in a node's config, where the simulation puts it, and no message
and no study is read for one. So no client on a network can be told to attack.

An attack is a `@settings` class with one verb, `train`, which has the method's honest one at
hand. It may change the patients before (`chosen` says which) or the update after (`moved`);
what follows, privacy and sealing, is as for any update. Statistics before training, and
evaluation, are honest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedhealth.core.seeds import rng_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.network_names import NetworkNames
    from fedhealth.core.pull import Arrays
    from fedhealth.site.trainer import SiteTrainer
    from fedhealth.strategies.method import Method, Received, Trained

ROOM = "fedhealth.site.attacks"


class Attack(Protocol):
    """What every file of this room offers."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The hospitals that attack."""
        ...

    def check(self, features: FeatureSpec) -> None:
        """Refuse features that the attack can't work with.

        Raises:
            SettingError: naming the rule and the remedy.
        """
        ...

    def statement(self) -> str:
        """How `sites` attacked, as a report says it: the words after "attacked by"; empty where none did."""
        ...

    def train(self, method: Method, trainer: SiteTrainer, received: Received, memory: Arrays | None) -> Trained:
        """This hospital's half of a round, in place of `method.train`."""
        ...


def chosen(trainer: SiteTrainer, share: float) -> NDArray[np.bool_]:
    """[n] which training patients are poisoned: that share of them, rounded, the same in every round."""
    n = len(trainer.patients)
    rng = rng_of(trainer.study.seed, site=trainer.site, purpose="attack")
    found = np.zeros(n, dtype=np.bool_)
    found[rng.permutation(n)[: round(share * n)]] = True
    return found


def moved(
    honest: Trained, idle: Trained, names: NetworkNames, change: Callable[[NDArray[Any]], NDArray[Any]]
) -> Trained:
    """The update idle + change(honest - idle), array by array; its weight and its memory stay honest.

    `idle` is what the hospital would send had it learned nothing (`Method.idle`), so this holds
    for weights, directions, control variates and gradients alike. What training did not move
    stays as it is: how many steps there were, the curvature, a fairness weight. Running
    statistics stay honest too: a variance below 0 would be no model.
    """
    untrained = set(names.all) - set(names.trained)
    arrays = dict(honest.arrays)
    for name, array in honest.arrays.items():
        still = idle.arrays[name]
        if name not in untrained and not np.array_equal(array, still):
            arrays[name] = (still + change(array - still)).astype(array.dtype)
    return replace(honest, arrays=arrays)
