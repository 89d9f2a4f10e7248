"""The summing engine: one sum of clipped gradients a round, which gets its noise under the mask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import torch

from fedhealth.core.errors import Refused
from fedhealth.privacy.sampling import drawn
from fedhealth.site.engines.plain import use_one_thread
from fedhealth.site.exact_network import ExactNetwork
from fedhealth.site.private_engine import Rows, check_rounding, clipped_total, copied, exact_risks, exact_scores

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.pull import Pull
    from fedhealth.core.risk_sets import Outcome
    from fedhealth.core.training import LocalTraining
    from fedhealth.privacy.distributed import Distributed
    from fedhealth.privacy.noise import NoiseSource


@dataclass(slots=True)
class SummingEngine:
    """DP-FedSGD's half at a hospital: what leaves must have its share of the noise first (`site.masked_round`).

    Exact and bounded as in `site.private_engine`.

    Attributes:
        mechanism: the study's settings.
        rate: each patient's chance to be in a step.
        left: the sums that were charged and not yet given.
        most: the most patients that a hospital may have, as all know.
        source: where coins come from.
        patients: [n] whose row each is, numbered from 0; None for one row a patient.
    """

    mechanism: Distributed
    rate: float
    left: int
    most: int
    source: NoiseSource
    patients: NDArray[np.int64] | None = None

    @property
    def size(self) -> int:
        """The weight of what leaves: 1, since how many patients are behind it is not told."""
        return 1

    def fit(
        self,
        network: nn.Module,
        x: NDArray[np.float32],
        y: Outcome,
        training: LocalTraining,
        rng: np.random.Generator,
        *,
        pull: Pull | None = None,
        only: Collection[str] | None = None,
    ) -> NoReturn:
        """Never: steps of its own would each need the whole noise.

        Raises:
            Refused: always.
        """
        del network, x, y, training, rng, pull, only
        raise Refused(
            "not_private",
            rule="hospitals that share their noise must send one sum a round",
            found="a method that trains at the hospital",
            remedy="Use strategy=fedsgd, or privacy=dp_sgd.",
        )

    def gradient(
        self, network: nn.Module, x: NDArray[np.float32], y: Outcome
    ) -> tuple[float, dict[str, NDArray[np.float64]]]:
        """No loss, so NaN, and by parameter the sum of the clipped gradients of patients drawn by secret coins.

        Raises:
            Refused: it was not charged, or the weights are too large.
        """
        if self.left < 1:
            raise Refused(
                "budget_spent",
                rule="a round must give no more sums than it was charged for",
                found="one more",
                remedy="Use strategy=fedsgd.",
            )
        self.left -= 1
        use_one_thread()
        twin = copied(network)
        exact, bound = ExactNetwork(twin), self.mechanism.max_grad_norm
        check_rounding(exact, patients=self.most, bound=bound)
        rows = Rows(torch.from_numpy(x).double(), torch.from_numpy(y).double(), self.patients)
        weights = dict(twin.named_parameters())
        taken = drawn(rows.patients, self.rate, self.source.words())
        per_layer = self.mechanism.clipping == "per_layer"
        total, _ = clipped_total(exact, list(weights), rows, taken, bound, per_layer=per_layer)
        parts = torch.split(total, [weight.numel() for weight in weights.values()])
        return math.nan, {
            name: part.view_as(weight).numpy() for (name, weight), part in zip(weights.items(), parts, strict=True)
        }

    def score(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """As `site.private_engine.exact_scores`."""
        return exact_scores(network, x)

    def predict(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """As `site.private_engine.exact_risks`."""
        return exact_risks(network, x)
