"""The statistics before training: two sums over the hospitals, and the preprocessor they give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.cohort_shape import CohortShape
from fedhealth.core.errors import DataError, QuorumError
from fedhealth.core.preprocessor import Preprocessor
from fedhealth.core.split import PARTS
from fedhealth.evaluation.moments import MomentLayout, global_means, global_moments
from fedhealth.runtime.codec import SUM, arrays_of, write_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedhealth.core.study import Study
    from fedhealth.runtime.policy import PolicyGrid


@dataclass(frozen=True, slots=True)
class Statistics:
    """What was learned before training.

    Attributes:
        shapes: patients by hospital and part; with noise where the study is private.
        first: by hospital, its vector of the first pass; nobody's where the study is private.
        second: by hospital, its vector of the second pass; nobody's where the study is private.
        preprocessor: fitted on the sums of both, or made from the feature spec alone.
    """

    shapes: dict[str, CohortShape]
    first: dict[str, NDArray[np.float64]]
    second: dict[str, NDArray[np.float64]]
    preprocessor: Preprocessor


def counted(study: Study, grid: PolicyGrid) -> Statistics:
    """The numbers of patients of the hospitals that answer, noisy where these made them so, and the scaling that needs none.

    Raises:
        QuorumError: too few answer.
    """
    found, _ = vectors(grid, "query.shape", len(PARTS))
    shapes = {site: CohortShape(*(max(round(count), 0) for count in vector)) for site, vector in found.items()}
    return Statistics(shapes, {}, {}, Preprocessor.from_spec(study.features))


def gather(study: Study, grid: PolicyGrid) -> Statistics:
    """The statistics of the hospitals that answer.

    Raises:
        QuorumError: too few answer, or of a masked study others answer the second pass than the first.
        DataError: the training patients are of one class, so there is nothing to learn; or nobody is left to test on.
    """
    layout = MomentLayout(study.features)
    shapes = {
        site: CohortShape(*(int(count) for count in vector))
        for site, vector in vectors(grid, "query.shape", len(PARTS))[0].items()
    }
    first, whose = vectors(grid, "query.moments", len(layout.names))
    if grid.is_masked:
        grid.ask(whose)
    while True:
        total = _total(first)
        second, whose_second = vectors(
            grid, "query.spread", len(layout.numeric), {"means": global_means(layout, total)}
        )
        if grid.is_masked and whose_second != whose:
            # Asked again without the one that left, the first pass would give it away by the difference.
            raise QuorumError(
                f"both passes of the statistics must be sums over the same hospitals, found "
                f"{', '.join(sorted(whose - whose_second))} lost in between. Resume the run when they are there, or have "
                "each hospital set policy.allow_regrouping and start a study without them."
            )
        both = sorted(shapes.keys() & first.keys() & second.keys())
        if both == sorted(first):
            break
        # A hospital left between the passes: squares are about the means of those that stay, so ask again.
        first = {site: first[site] for site in both}
        grid.ask(both)
    if not any(shapes[site].test for site in both):
        raise DataError(
            "at least one hospital must have test patients, found none. Name some in the column of source.split, or "
            "give split.test a larger share."
        )
    shapes, second = {site: shapes[site] for site in both}, {site: second[site] for site in both}
    grid.ask(study.roster)
    found = global_moments(layout, total, _total(second))
    # A class that hospitals withhold, each for being small, is there all the same. Everybody may have an event: at times.
    needed = found.outcome if study.task.follow_up is None else found.outcome[1:]
    if min(needed) == 0 and sum(found.outcome) == sum(shape.train for shape in shapes.values()):
        raise DataError(
            f"the training patients must hold {'both outcomes' if study.task.follow_up is None else 'an event'}, found {found.outcome[0]:g} without and "
            f"{found.outcome[1]:g} with the event. Check task.outcome and task.positive_above."
        )
    return Statistics(shapes, first, second, Preprocessor.from_moments(study.features, found))


def vectors(
    grid: PolicyGrid, purpose: str, width: int, arrays: Mapping[str, NDArray[np.float64]] | None = None
) -> tuple[dict[str, NDArray[np.float64]], frozenset[str]]:
    """Each answering hospital's vector for one question, [width], and whose they are; another shape is no answer."""
    messages = [write_request(purpose, node, arrays) for node in grid.get_node_ids()]

    def fault(found: Mapping[str, NDArray[np.generic]]) -> str | None:
        fits = found.keys() == {SUM} and found[SUM].shape == (width,)
        return None if fits else "a vector of another shape than the question's"

    usable = [reply for reply in grid.send_and_receive(messages, fault_of=fault) if reply.has_content()]
    found = {grid.site_of(reply): arrays_of(reply)[SUM].astype(np.float64) for reply in usable}
    return found, frozenset(site for reply in usable for site in grid.hospitals_of(reply))


def _total(by_site: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.sum([by_site[site] for site in sorted(by_site)], axis=0)  # type: ignore[no-any-return]
