"""`fedhealth synthesize STUDY --epsilon E --out FOLDER`: synthetic patients of a study's hospitals, from one masked sum.

Both sides meet here, as in `simulate.py`: hospitals are asked, the release is made from their sum alone, and
then it is compared with their patients, which only a process that holds all of them can do.
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

if TYPE_CHECKING:
    from fedhealth.simulate import Simulation

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

CHECK = "validation"


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `synthesize` to the command line."""
    made = commands.add_parser("synthesize", help="make synthetic patients of a study's hospitals, with an epsilon")
    made.add_argument("words", nargs="*", metavar="key=value", help="what to change in configs/config.yaml")
    made.add_argument("--epsilon", type=float, help="what a patient loses at most by the release; must be given")
    made.add_argument("--out", type=Path, default=Path("release"), help="a fresh folder; default: release")
    made.set_defaults(run=_synthesize)


def _synthesize(chosen: argparse.Namespace) -> int:
    from fedhealth.cli import log_to
    from fedhealth.releasing import CARD, PATIENTS
    from fedhealth.simulate import fresh_folder

    words = release_words(chosen.words, chosen.epsilon)
    out = chosen.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError(f"a release must have a folder of its own, found {out} there already. Choose another --out.")
    simulation = planned(words)
    folder = fresh_folder(simulation)
    log_to(folder / "run.log")
    found = released(simulation, folder, out)
    area = {name: "not estimable" if value is None else f"{value:.3f}" for name, value in found["auroc"].items()}
    sys.stdout.write(
        f"{found['patients']['synthetic']:,} synthetic patients: {out / PATIENTS}\n"
        f"what they are and are not for: {out / CARD}.md\n"
        f"for the hospitals alone: {out / CHECK}.md (trained on them, AUROC {area['synthetic']} on real patients; on real "
        f"ones, {area['real']})\n"
    )
    return 0


def planned(words: list[str]) -> Simulation:
    """The study of a release.

    Raises:
        SettingError: the words, of `asked_once.release_words`, are no config, or parts don't fit.
    """
    from fedhealth.compose import composed, resolved
    from fedhealth.simulate import checked

    return checked(resolved(composed(words)))


def released(simulation: Simulation, folder: Path, out: Path) -> dict[str, Any]:
    """Ask, make and check a release, and write it to `out`; what the check found.

    Args:
        simulation: its study, of `planned`.
        folder: of the run: hospitals' ledgers, keys and memory.
        out: of the release. Where it is refused for lying too near to patients, the check alone is written.

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
        "the comparison."
    )
    release = made(study, simulation.digest, counts, hospitals, noise, compared=compared)
    real = Real.of(layout, [client.cohort for _, client in sorted(clients(simulation).items())])
    found = checked(study, layout, real, release.cells)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{CHECK}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / f"{CHECK}.md").write_text(validation_text(found), encoding="utf-8")
    refuse_near(found["nearest_record_share"])
    release.write(out)
    return found
