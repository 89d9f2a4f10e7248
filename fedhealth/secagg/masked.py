"""Masking: the coordinator sees the sum over enough hospitals, and of each hospital nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.core.lattice import Sharing
from fedhealth.core.settings import settings
from fedhealth.core.update import SealedUpdate
from fedhealth.secagg.content.averages import Averages
from fedhealth.secagg.content.noised import Noised
from fedhealth.secagg.content.question import task_of
from fedhealth.secagg.content.sums import SUM, Sums
from fedhealth.secagg.protocol.layout import Reals
from fedhealth.secagg.protocol.terms import Terms, check_floor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from fedhealth.core.lattice import Lattice
    from fedhealth.core.span import Span
    from fedhealth.core.study import Study
    from fedhealth.secagg.content import Content
    from fedhealth.secagg.content.question import Question
    from fedhealth.secagg.protocol.layout import Layout
    from fedhealth.secagg.protocol.messages import FromSite

#: The name of the one array of a message of the protocol: its bytes.
MESSAGE = "message"
#: How finely a training value times one patient must be held at least: a mean over a hundred
#: patients a hospital is then right to 1e-4.
LEAST_LEVELS = 100.0


class Averaged(Protocol):
    """What a round's training gives, of a method."""

    @property
    def told(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def is_by_patients(self) -> bool: ...  # noqa: D102
    def replies(self, arrays: dict[str, NDArray[np.generic]], /) -> dict[str, tuple[int, ...]]: ...  # noqa: D102


@settings
class Masked:
    """Secure aggregation over a study's hospitals (`fedhealth.secagg.protocol`).

    Attributes:
        bits: of a word of training, 32 or 64. 64 holds values to some 2^-36 of the bound; 32
            halves what is sent and needs bounds near what the values really are. Every other
            sum takes 64.
        min_cohort: the fewest hospitals in a sum. No hospital accepts less than its own floor.
        colluders: how many hospitals may side with a lying coordinator and learn nothing more.
            Each one costs a hospital that may be lost: of n, (n + colluders) // 2 + 1 must stay.
        weight_max: the most patients that one hospital may have in a part of the split.
        value_bound: the largest magnitude of a weight of the model, or of whatever else is
            averaged. Weights are of the order of 1; running variances and a Hessian of
            standardised features reach some hundreds.
        metric_bound: the largest magnitude of a hospital's mean loss, in nats.
    """

    bits: Literal[32, 64] = 64
    min_cohort: int = 3
    colluders: int = 1
    weight_max: int = 131_072
    value_bound: float = 16_384.0
    metric_bound: float = 1024.0

    def __post_init__(self) -> None:
        least = max(3, self.colluders + 2)
        if self.min_cohort < least:
            raise SettingError(
                f"`secagg.min_cohort` must be at least {least} with {self.colluders} colluders, found "
                f"{self.min_cohort}. Fewer hospitals can be told apart by subtraction; raise it."
            )
        for name, low in (("colluders", 0), ("weight_max", 1)):
            if getattr(self, name) < low:
                raise SettingError(f"`secagg.{name}` must be at least {low}, found {getattr(self, name)}. Raise it.")
        for name in ("value_bound", "metric_bound"):
            if not 0 < getattr(self, name) < 1e15:
                raise SettingError(
                    f"`secagg.{name}` must be above 0 and below 1e15, found {getattr(self, name)}. Correct it."
                )

    @property
    def is_masked(self) -> bool:
        """Always."""
        return True

    def sharing(self, sites: int) -> Sharing:
        """Among whom noise is shared in a study of so many hospitals."""
        return Sharing(sites, self.min_cohort, self.colluders)

    def check(self, sites: int) -> None:
        """Refuse a study that can't be masked.

        Raises:
            SettingError: too few hospitals, or words that can't hold their sum.
        """
        if sites < max(self.min_cohort, 3):
            raise SettingError(
                f"`secagg.min_cohort` must be at most the {sites} hospitals of the study, and those at least 3, found "
                f"{self.min_cohort}. Add hospitals, or use secagg=plain where every hospital allows it."
            )
        layout = self.averages({"model": (1,)}, ("loss",)).layout(sites)
        coarsest = min(layout.scale(slot) for slot in layout.slots if isinstance(slot, Reals))
        if coarsest < LEAST_LEVELS:
            raise SettingError(
                f"{self.bits}-bit words must hold a value of one patient to 1/{LEAST_LEVELS:g}, found 1/{coarsest:.2g} "
                f"with weight_max={self.weight_max} and value_bound={self.value_bound:g}. Lower those, or use "
                "secagg.bits=64."
            )

    def averages(
        self, shapes: Mapping[str, tuple[int, ...]], metrics: tuple[str, ...], *, is_by_patients: bool = True
    ) -> Averages:
        """What a round's training puts in the sum."""
        return Averages(
            shapes, metrics, is_by_patients, self.value_bound, self.metric_bound, self.weight_max, self.bits
        )

    def grain(self, sites: int, patients: float) -> float:
        """How far at most a mean over so many hospitals and patients is off, for the rounding of its terms."""
        layout = self.averages({"model": (1,)}, ()).layout(sites)
        (slot,) = (slot for slot in layout.slots if isinstance(slot, Reals))
        return sites / (layout.scale(slot) * patients) if patients else 0.0

    def sums(self, spans: tuple[Span, ...]) -> Sums:
        """What an answer that is a sum already puts in it."""
        return Sums(spans, self.weight_max)

    def asked(
        self,
        question: Question,
        study: Study,
        digest: str,
        *,
        method: Averaged,
        spans: Callable[..., tuple[Span, ...]],
        lattice: Callable[[str, int], Lattice] | None = None,
    ) -> tuple[Content, Terms]:
        """How an answer lies in the summed vector, and what every hospital signs for it.

        Each hospital and the coordinator work it out alike, or their signatures don't fit.

        Args:
            question: what is asked.
            study: of which.
            digest: of the study.
            method: the study's.
            spans: `evaluation.spans.spans_of`.
            lattice: by purpose and size, where hospitals share noise (`privacy.distributed.lattices`).

        Raises:
            Refused: `min_cohort_unsafe`, or the question has no private form.
            SettingError: no such question, or the keys are not one for each hospital.
        """
        content: Content
        if lattice is not None:
            shapes = (
                method.replies(question.arrays)
                if question.purpose == "train"
                else {SUM: (sum(span.size for span in spans(study, question.purpose)),)}
            )
            content = Noised(shapes, lattice(question.purpose, sum(map(math.prod, shapes.values()))))
        elif question.purpose == "train":
            content = self.averages(method.replies(question.arrays), method.told, is_by_patients=method.is_by_patients)
        else:
            content = self.sums(spans(study, question.purpose, grouped=bool(question.config.get("grouped", False))))
        task = task_of(question, study)
        terms = self.terms(digest, study.identities, question.round_, task, content.layout(len(study.roster)))
        return content, terms

    def terms(self, study: str, identities: Mapping[str, str], round_: int, task: bytes, layout: Layout) -> Terms:
        """What every hospital signs for one question.

        Args:
            study: the digest of the study.
            identities: by hospital, its public key in hex.
            round_: the study's round, 0 before the first.
            task: `task_of` the question.
            layout: of the answer.

        Raises:
            Refused: `min_cohort_unsafe`.
            SettingError: the keys are not one for each hospital.
        """
        roster = {name: bytes.fromhex(key) for name, key in identities.items()}
        terms = Terms(study, round_ + 1, roster, self.min_cohort, self.colluders, layout, task)
        check_floor(terms, 0)
        return terms

    def seal(self, message: FromSite) -> SealedUpdate:
        """A message of the protocol as it leaves: no count, no number, no array but its bytes."""
        content = np.frombuffer(message.pack(), dtype=np.uint8)
        return SealedUpdate(weight=0.0, arrays={MESSAGE: content}, metrics={}, is_masked=True)

    def statement(self) -> str:
        """What the coordinator sees."""
        helped = f" and up to {self.colluders} of them help it" if self.colluders else ""
        return (
            f"Secure aggregation: the coordinator sees sums over at least {self.min_cohort} hospitals and no hospital's "
            f"own part, also where it lies{helped}."
        )
