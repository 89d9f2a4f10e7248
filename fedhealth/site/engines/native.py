"""The native engine: the batched one, with the training of small fully connected networks, and private steps, in C."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from fedhealth.core.settings import settings
from fedhealth.site.engines.batched import Batched, say_once
from fedhealth.site.kernels import native_private
from fedhealth.site.kernels.compiling import compiler
from fedhealth.site.kernels.native import fit_native, why_not
from fedhealth.site.kernels.private import fit_private

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedhealth.core.errors import FedHealthError
    from fedhealth.site.kernels.fit import FitJob
    from fedhealth.site.kernels.private import PrivateJob
    from fedhealth.strategies.method import Fitted

log = logging.getLogger(__name__)

J = TypeVar("J")
D = TypeVar("D")


@settings
class Native(Batched):
    """Logistic regression and networks of linear layers with max(x, 0) between, trained by compiled code on one core.

    Their private steps too, and those of GRUs and convolutions over time, noise included. What else there is to do, and any
    other network, goes by `Batched`, which is the oracle: results agree with it but for rounding. Where a study names this engine, hospitals need a C compiler too.
    """

    def __post_init__(self) -> None:
        Batched.__post_init__(self)
        compiler()

    def fit_all(self, jobs: Sequence[FitJob]) -> list[Fitted]:
        """What training gave each job."""
        return _split(jobs, why_not, fit_native, lambda rest: Batched.fit_all(self, rest))

    def fit_private(self, jobs: Sequence[PrivateJob]) -> list[Fitted | FedHealthError]:
        """What private training gave each job, or why a hospital refused."""
        return _split(
            jobs, native_private.why_not,
            lambda own: fit_private(own, sums=native_private.InC, noise=native_private.noisy_rows),
            lambda rest: Batched.fit_private(self, rest),
        )  # fmt: skip


def _split(
    jobs: Sequence[J], why_not: Callable[[J], str],
    native: Callable[[Sequence[J]], Sequence[D]], batched: Callable[[Sequence[J]], Sequence[D]],
) -> list[D]:  # fmt: skip
    """What is done for each job, by one way where it has no `why_not` and by the other where it has, which the log says."""
    reasons = [why_not(job) for job in jobs]
    for reason in sorted(set(filter(None, reasons))):
        say_once(f"trained by engine=batched: {reason}", log.info)
    own = iter(native([job for job, reason in zip(jobs, reasons, strict=True) if not reason]))
    rest = iter(batched([job for job, reason in zip(jobs, reasons, strict=True) if reason]))
    return [next(rest if reason else own) for reason in reasons]
