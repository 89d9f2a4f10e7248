"""The native engine: the batched one, with the training of small fully connected networks in C."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fedhealth.core.settings import settings
from fedhealth.site.engines.batched import Batched, say_once
from fedhealth.site.kernels.compiling import compiler
from fedhealth.site.kernels.native import fit_native, why_not

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedhealth.site.kernels.fit import FitJob
    from fedhealth.strategies.method import Fitted

log = logging.getLogger(__name__)


@settings
class Native(Batched):
    """Logistic regression and networks of linear layers with max(x, 0) between, trained by compiled code on one core.

    What else there is to do, and any other network, goes by `Batched`, which is the oracle: results agree with it but
    for rounding. Where a study names this engine, hospitals need a C compiler too.
    """

    def __post_init__(self) -> None:
        Batched.__post_init__(self)
        compiler()

    def fit_all(self, jobs: Sequence[FitJob]) -> list[Fitted]:
        """What training gave each job."""
        reasons = [why_not(job) for job in jobs]
        for reason in sorted(set(filter(None, reasons))):
            say_once(f"trained by engine=batched: {reason}", log.info)
        own = [job for job, reason in zip(jobs, reasons, strict=True) if not reason]
        found = dict(zip(map(id, own), fit_native(own), strict=True))
        rest = iter(Batched.fit_all(self, [job for job in jobs if id(job) not in found]))
        return [found[id(job)] if id(job) in found else next(rest) for job in jobs]
