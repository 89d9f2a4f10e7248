"""A synthetic release: what a study of one must be, and the patients that are made of the one noisy sum it asks for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import SettingError
from fedhealth.core.parts import build
from fedhealth.evaluation.margins import MARGINS, MarginLayout
from fedhealth.privacy.release import Release
from fedhealth.release.card import card, card_text
from fedhealth.release.floor import refuse_few
from fedhealth.secagg.masked import Masked
from fedhealth.server.store import write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from fedhealth.core.study import Study

#: The files of a release: its patients, and what they are and are not for.
PATIENTS, CARD = "patients.csv", "card"


@dataclass(frozen=True, slots=True)
class Planned:
    """The parts of a study of a release, known to fit."""

    mechanism: Release
    sealing: Masked
    layout: MarginLayout

    @classmethod
    def of(cls, study: Study) -> Planned:
        """The parts of a study; asked before anybody else is, since hospitals would find the same fault when the noise is spent.

        Raises:
            SettingError: the study is no release, is not masked, or its noise can't be shared.
        """
        mechanism = build(study.privacy, where="privacy", room="fedhealth.privacy")
        sealing = build(study.secagg, where="secagg", room="fedhealth.secagg")
        if not isinstance(mechanism, Release) or not isinstance(sealing, Masked):
            raise SettingError(
                f"a release must have privacy=release and secagg=masked, found {study.privacy['_target_']} and "
                f"{study.secagg['_target_']}. Leave both to --synthesize or fedhealth synthesize."
            )
        layout = MarginLayout.of(study)
        mechanism.lattice(MARGINS, layout.size, rounds=1, sharing=sealing.sharing(len(study.roster)))
        return cls(mechanism, sealing, layout)


@dataclass(frozen=True, slots=True)
class Made:
    """A release: its patients as cells, [n, attributes], as CSV, and the card."""

    cells: NDArray[np.int64]
    text: str
    card: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write the patients and the card into a folder, which is made where there is none."""
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / f"{CARD}.json", (json.dumps(self.card, indent=1, ensure_ascii=False) + "\n").encode())
        write_bytes(folder / f"{CARD}.md", card_text(self.card).encode())
        write_bytes(folder / PATIENTS, self.text.encode())


def made(
    study: Study, study_digest: str, counts: NDArray[np.float64], hospitals: int, noise: float, *, compared: str
) -> Made:
    """The release of a noisy sum; the same sum gives the same one, and costs a patient no more.

    Args:
        study: of a release.
        study_digest: its digest, for the card.
        counts: of all hospitals together, [layout.size].
        hospitals: how many are in them.
        noise: the standard deviation of the noise in each.
        compared: what the card says of a comparison with real patients.

    Raises:
        Refused: the patients are too few.
    """
    # They load torch and scipy, which nobody else at a coordinator needs.
    from fedhealth.release.fit import fitted
    from fedhealth.release.records import csv_text, drawn
    from fedhealth.release.smoothing import smoothed

    planned = Planned.of(study)
    mechanism, layout, sharing = planned.mechanism, planned.layout, planned.sealing.sharing(len(study.roster))
    patients = layout.patients(counts)
    refuse_few(patients)
    mixture = fitted(layout, smoothed(layout, counts, noise=noise), seed=study.seed)
    cells = drawn(layout, mixture, round(patients), seed=study.seed)
    text = csv_text(study, layout, cells, seed=study.seed)
    described = card(
        study, layout, rows=len(cells), hospitals=hospitals, promised=str(mechanism.planned()),
        alone=str(mechanism.opened(sharing=sharing)), statement=mechanism.statement(), noise=noise, compared=compared,
        digests={"study": study_digest, PATIENTS: hashlib.sha256(text.encode()).hexdigest()},
    )  # fmt: skip
    return Made(cells, text, described)
