"""The spans of every vector that is a sum, worked out from the study alone: the same at every hospital."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.span import Span
from fedhealth.core.split import PARTS
from fedhealth.evaluation.margins import MARGINS, MarginLayout
from fedhealth.evaluation.moments import MomentLayout
from fedhealth.evaluation.scores import SummaryLayout
from fedhealth.evaluation.tables import TableLayout

if TYPE_CHECKING:
    from fedhealth.core.study import Study

#: By question, whose answer is a sum.
QUESTIONS = ("query.shape", "query.moments", "query.spread", "query.margins", "query.table", "evaluate")


def spans_of(study: Study, question: str, *, grouped: bool = False) -> tuple[Span, ...]:
    """What stands in the vector that answers a question, in its order.

    Raises:
        SettingError: no such question.
    """
    moments = MomentLayout(study.features)
    if question == "query.shape":
        return (Span("patients by part", len(PARTS), is_whole=True),)
    if question == "query.moments":
        return moments.first_spans()
    if question == "query.spread":
        return moments.second_spans()
    if question == MARGINS:
        return (Span("margins", MarginLayout.of(study).size),)
    if question == "query.table":
        return TableLayout.of(study).spans()
    if question == "evaluate":
        return SummaryLayout.of(study, grouped=grouped).spans()
    raise SettingError(
        f"a masked question must be one whose answer is a sum, found {question!r}. {did_you_mean(question, QUESTIONS)}"
    )
