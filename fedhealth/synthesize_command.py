"""`fedhealth synthesize STUDY --epsilon E --out FOLDER`: synthetic patients of a study's hospitals, from one masked sum.

Both sides meet here, as in `simulate.py`: hospitals are asked, the release is made from their sum alone, and
then it is compared with their patients, which only a process that holds all of them can do. What that finds is
un-noised and lies in a folder of its own: whoever publishes the release's folder publishes nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedhealth.asked_once import release_words
from fedhealth.core.errors import SettingError
from fedhealth.core.private_file import FOLDER_OWNER_ONLY, write_private

if TYPE_CHECKING:
    from fedhealth.simulate import Simulation

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

CHECK = "validation"


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `synthesize` to the command line."""
    made = commands.add_parser("synthesize", help="make synthetic patients of a study's hospitals, with an epsilon")
    made.add_argument("words", nargs="*", metavar="key=value", help="what to change in configs/config.yaml")
    made.add_argument("--epsilon", type=float, help="what a patient loses at most by the release; must be given")
    made.add_argument(
        "--out", type=Path, default=Path("release"), help="a fresh folder for what may leave; default: release"
    )
    made.add_argument(
        "--validation",
        type=Path,
        metavar="DIR",
        help="a fresh folder for what is the hospitals' alone; default: OUT-validation",
    )
    made.set_defaults(run=_synthesize)


def _synthesize(chosen: argparse.Namespace) -> int:
    from fedhealth.cli import log_to
    from fedhealth.releasing import CARD, PATIENTS
    from fedhealth.simulate import fresh_folder

    words = release_words(chosen.words, chosen.epsilon)
    out, validation = chosen.out, chosen.validation or Path(f"{chosen.out}-validation")
    _check_folders(out, validation)
    simulation = planned(words)
    folder = fresh_folder(simulation)
    log_to(folder / "run.log")
    found = released(simulation, folder, out, validation)
    area = {name: "not estimable" if value is None else f"{value:.3f}" for name, value in found["auroc"].items()}
    sys.stdout.write(
        f"{found['patients']['synthetic']:,} synthetic patients: {out / PATIENTS}\n"
        f"what they are and are not for: {out / CARD}.md\n"
        f"NOT to be published, for the hospitals alone: {validation / CHECK}.md (trained on them, AUROC {area['synthetic']} on real patients; on real "
        f"ones, {area['real']})\n"
    )
    return 0


def _check_folders(out: Path, validation: Path) -> None:
    """Refuse folders with something in them, and one within the other."""
    for path, what, option in ((out, "a release", "--out"), (validation, "its validation", "--validation")):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise SettingError(
                f"{what} must have a folder of its own, found {path} there already. Choose another {option}."
            )
    if validation.resolve().is_relative_to(out.resolve()):
        raise SettingError(
            f"a release's validation must lie outside it, since it is never published, found {validation} in {out}. Choose "
            "another --validation."
        )


def planned(words: list[str]) -> Simulation:
    """The study of a release.

    Raises:
        SettingError: the words, of `asked_once.release_words`, are no config, or parts don't fit.
    """
    from fedhealth.starting import config_of

    config = config_of(words)
    from fedhealth.simulate import checked

    return checked(config)


def released(simulation: Simulation, folder: Path, out: Path, validation: Path) -> dict[str, Any]:
    """Ask, make and check a release, and write it and what the check found; the latter.

    Args:
        simulation: its study, of `planned`.
        folder: of the run: hospitals' ledgers, keys and memory.
        out: of the release; not made where that is refused for lying too near to patients.
        validation: of what the check found, from real patients without noise; for their owner alone.

    Raises:
        SettingError: the study is no release, or is not masked.
        Refused: too few patients, or patients too near to real ones.
        QuorumError: too few hospitals answered.
    """
    from fedhealth.release.card import validation_text
    from fedhealth.release.floor import MOST_NEAR, refuse_near
    from fedhealth.releasing import Planned, made
    from fedhealth.server.margins import counted
    from fedhealth.server.store import Store
    from fedhealth.simulate import asked_here, clients, identified
    from fedhealth.site.release_check import Real, checked

    study, store = simulation.study, Store(folder)
    layout = Planned.of(study).layout
    with contextlib.contextmanager(store.lock)():
        simulation = identified(simulation, store)
        with asked_here(simulation, store) as grid:
            counts, hospitals, noise = counted(study, grid)
    compared = (
        f"At most {MOST_NEAR:.0%} of its patients lie nearer to a patient behind them than to one held out; the hospitals have "
        "the comparison, which is no part of the release."
    )
    release = made(study, simulation.digest, counts, hospitals, noise, compared=compared)
    real = Real.of(layout, [client.cohort for _, client in sorted(clients(simulation).items())])
    found = checked(study, layout, real, release.cells)
    validation.mkdir(parents=True, exist_ok=True, mode=FOLDER_OWNER_ONLY)
    write_private(validation / f"{CHECK}.json", (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
    write_private(validation / f"{CHECK}.md", validation_text(found).encode())
    refuse_near(found["nearest_record_share"])
    release.write(out)
    return found
