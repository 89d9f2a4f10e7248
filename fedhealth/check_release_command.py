"""`fedhealth site check-release`: a synthetic release beside a hospital's own patients, at the hospital and nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    import argparse

    Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

#: Below so many patients of either kind, who is nearest is too much a matter of chance to be judged by.
LEAST_COMPARED = 200


def add_to(records: argparse._SubParsersAction[Parser]) -> None:
    """Add `check-release` to what a hospital has of its own."""
    check = records.add_parser(
        "check-release", help="compare a synthetic release with the patients here; nothing leaves"
    )
    check.add_argument("study", type=Path, metavar="STUDY", help="the file of the release's study")
    check.add_argument("patients", type=Path, metavar="CSV", help="the release's patients.csv")
    check.add_argument("--site", type=Path, required=True, metavar="FOLDER", help="the hospital's, with site.yaml")
    check.set_defaults(run=_check)


def _check(chosen: argparse.Namespace) -> None:
    from fedhealth.core.manifest import load_manifest
    from fedhealth.evaluation.margins import MarginLayout
    from fedhealth.governance.proposal import read
    from fedhealth.release.card import validation_text
    from fedhealth.release.floor import refuse_near
    from fedhealth.release.records import cells_of
    from fedhealth.site.cohort import load_cohort
    from fedhealth.site.release_check import Real, checked

    for path, what in ((chosen.study, "a study that its proposer sent"), (chosen.patients, "a release's patients.csv")):
        if not path.is_file():
            raise SettingError(f"check-release must be given {what}, found no file {path}. Correct its name.")
    study = read(chosen.study.read_bytes()).proposal.asked
    layout = MarginLayout.of(study)
    synthetic = cells_of(study, layout, chosen.patients.read_text(encoding="utf-8"))
    folder = chosen.site.resolve()
    cohort, _ = load_cohort(
        load_manifest(folder), folder, spec=study.features, task=study.task, split=study.split, seed=study.seed
    )
    real = Real.of(layout, [cohort])
    compared = min(len(real.train), len(real.held_out))
    if not compared:
        raise SettingError(
            "check-release must have patients to train on and patients held out, found none of one kind. The release's "
            "study has a split; a hospital without held-out patients can't tell copies from likeness."
        )
    found = checked(study, layout, real, synthetic)
    sys.stdout.write(validation_text(found))
    if compared < LEAST_COMPARED:
        sys.stdout.write(
            f"\nNearness is not judged: {LEAST_COMPARED} patients of either kind must be compared, found {compared}.\n"
        )
        return
    refuse_near(found["nearest_record_share"])
