"""The batched engine: the plain engine's steps, for as many hospitals at once as there are.

A hospital that is by itself has the same steps alone, and bit for bit the same result as in company.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import settings
from fedhealth.models.row_of_steps import OverTime
from fedhealth.models.weights import load_weights, weights_of
from fedhealth.site.engines.plain import Plain, device_named, use_one_thread
from fedhealth.site.kernels.fit import FitJob, fit_all
from fedhealth.site.kernels.private import fit_private
from fedhealth.site.kernels.score import ScoreJob, Scores, score_all
from fedhealth.site.kernels.stack import why_not
from fedhealth.strategies.method import Fitted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fedhealth.core.errors import FedHealthError
    from fedhealth.core.pull import Pull
    from fedhealth.core.risk_sets import Outcome
    from fedhealth.core.training import LocalTraining
    from fedhealth.site.engines import Engine
    from fedhealth.site.kernels.private import PrivateJob

log = logging.getLogger(__name__)


@settings
class Batched:
    """Many hospitals' mini-batches in one matrix product a layer; what can't be stacked goes by `Plain`.

    Attributes:
        device: `cpu`, `cuda`, `cuda:N`, or `auto` for a GPU where there is one.
        cohort_bytes: of hospitals' patients that a process keeps loaded, about; of more hospitals those beyond are
            loaded, or drawn, anew for each question.
    """

    device: str = "cpu"
    cohort_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        if self.cohort_bytes < 0:
            raise SettingError(f"`cohort_bytes` must be 0 or more, found {self.cohort_bytes}. Use 1073741824.")
        device_named(self.device)

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
    ) -> tuple[float, int]:
        """As `Plain.fit`."""
        if not self._stacks(network, y):
            return self._plain.fit(network, x, y, training, rng, pull=pull, only=only)
        more = {} if pull is None else {"pull": pull}
        job = FitJob(network, weights_of(network), x, y, training, rng, only=None if only is None else frozenset(only), **more)  # fmt: skip
        (found,) = self.fit_all([job])
        load_weights(network, found.weights)
        return found.loss, found.steps

    def fit_all(self, jobs: Sequence[FitJob]) -> list[Fitted]:
        """What training gave each job; those that can't be stacked are trained one after the other."""
        use_one_thread()
        stacked = [job for job in jobs if self._stacks(job.network, job.y)]
        found = dict(zip(map(id, stacked), fit_all(stacked, device_named(self.device)), strict=True))
        return [found[id(job)] if id(job) in found else fit_alone(self._plain, job) for job in jobs]

    def fit_private(self, jobs: Sequence[PrivateJob]) -> list[Fitted | FedHealthError]:
        """What private training gave each job, or why a hospital refused; each has its own engine, and `device` no say."""
        return fit_private(jobs)

    def gradient(
        self, network: nn.Module, x: NDArray[np.float32], y: Outcome
    ) -> tuple[float, dict[str, NDArray[np.float32]]]:
        """As `Plain.gradient`."""
        return self._plain.gradient(network, x, y)

    def score(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n] what the network gives: logits, or log hazard ratios."""
        return self._scored(network, x).score

    def predict(self, network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n] probabilities of the outcome."""
        return self._scored(network, x).probability

    def score_all(self, jobs: Sequence[ScoreJob]) -> list[Scores]:
        """The scores of each job's patients."""
        use_one_thread()
        # A network over time scores faster by torch's own pass, which keeps nothing for a way back.
        stacked = [
            job for job in jobs if job.is_exact or (not isinstance(job.network, OverTime) and self._stacks(job.network))
        ]
        found = dict(zip(map(id, stacked), score_all(stacked, device_named(self.device)), strict=True))
        return [found[id(job)] if id(job) in found else self._score_alone(job) for job in jobs]

    def _scored(self, network: nn.Module, x: NDArray[np.float32]) -> Scores:
        (found,) = self.score_all([ScoreJob(network, weights_of(network), x)])
        return found

    def _stacks(self, network: nn.Module, y: Outcome | None = None) -> bool:
        """Whether a job goes into a stack; why not is logged, once a process."""
        reason = why_not(network)
        if y is not None and y.ndim > 1:
            reason = "a partial likelihood compares patients, and has no mini-batch"
        if reason:
            say_once("the network is trained one hospital after the other: " + reason, log.info)
        return not reason and (y is None or len(y) > 0)

    def _score_alone(self, job: ScoreJob) -> Scores:
        load_weights(job.network, job.weights)
        score = self._plain.score(job.network, job.x)
        return Scores(score, torch.sigmoid(torch.from_numpy(score)).numpy())

    @property
    def _plain(self) -> Plain:
        return Plain(device=device_named(self.device))


def fit_alone(engine: Engine, job: FitJob) -> Fitted:
    """What an engine's training gave one job."""
    load_weights(job.network, job.weights)
    loss, steps = engine.fit(job.network, job.x, job.y, job.training, job.rng, pull=job.pull, only=job.only)
    return Fitted(weights_of(job.network), loss, steps)


@lru_cache(maxsize=64)
def say_once(text: str, say: Callable[[str], None]) -> None:
    """Say it, unless this process has said it."""
    say(text)
