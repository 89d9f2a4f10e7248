"""Questions: which are the same in substance, so that a hospital answers them for one set of hospitals only.

The difference between two sums of one answer, over hospitals that differ by one, is that one's
own. So a question goes by its task, under which a hospital keeps for whom it answered, over all
studies it ever took part in.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedhealth.core.study import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedhealth.core.study import Study

    #: The numbers and words that come along with a question.
    Config = Mapping[str, str | int | float | bool]

#: How the questions about the patients themselves begin; the others are about a model.
STATISTIC = "query."
#: Of a feature, what changes what is shown of it and nothing of what is counted.
SHOWN = {"label", "bins", "sensitivity"}
#: Of a study, what changes what a hospital makes of a model.
WORK = ("seed", "training", "model", "strategy", "privacy", "engine")


class Question(Protocol):
    """What is asked, as it is sent and as it comes."""

    @property
    def purpose(self) -> str: ...  # noqa: D102
    @property
    def round_(self) -> int: ...  # noqa: D102
    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]: ...  # noqa: D102
    @property
    def config(self) -> Config: ...  # noqa: D102


def task_of(question: Question, study: Study) -> bytes:
    """SHA-256 over what decides the answer; no matter who is asked, nor what the study is called.

    A statistic is decided by the patients: by its purpose, the features, the outcome and the
    shares of the split. What comes along with it, and the seed that deals patients out, change
    the answer hardly or not in a way that hides a hospital, so with others it is the same
    question. A question about a model is decided by the model's bytes and the instruction too.
    """
    parts: dict[str, Any] = {"purpose": question.purpose, **_patients(study)}
    found = hashlib.sha256()
    if not question.purpose.startswith(STATISTIC):
        parts |= {name: asdict(study.training) if name == "training" else getattr(study, name) for name in WORK}
        parts["config"] = sorted((name, repr(value)) for name, value in question.config.items())
        for name in sorted(question.arrays):
            array = np.ascontiguousarray(question.arrays[name])
            shape = np.shape(question.arrays[name])
            found.update(hashlib.sha256(repr((name, array.dtype.str, shape)).encode()).digest())
            found.update(hashlib.sha256(array.tobytes()).digest())
    found.update(hashlib.sha256(canonical(parts).encode()).digest())
    return found.digest()


def _patients(study: Study) -> dict[str, Any]:
    """Of whom what is counted, without names to be shown and in one order."""
    features = [
        {key: value for key, value in asdict(feature).items() if key not in SHOWN}
        for feature in sorted(study.features.features, key=lambda feature: feature.name)
    ]
    task = study.task
    return {
        "features": features,
        "task": [task.outcome, task.positive_above, asdict(task.follow_up) if task.follow_up else None],
        "split": asdict(study.split),
    }
