"""`fedhealth synthesize STUDY --epsilon E --out FOLDER`: synthetic patients of a study's hospitals, from one masked sum.

Both sides meet here, as in `simulate.py`: hospitals are asked, the release is made from their sum alone, and
then it is compared with their patients, which only a process that holds all of them can do.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedhealth.evaluation.margins import MarginLayout
    from fedhealth.simulate import Simulation
    from fedhealth.site.release_check import Real

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

PATIENTS, CARD, CHECK = "patients.csv", "card", "validation"


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `synthesize` to the command line."""
    made = commands.add_parser("synthesize", help="make synthetic patients of a study's hospitals, with an epsilon")
    made.add_argument("words", nargs="*", metavar="key=value", help="what to change in configs/config.yaml")
    made.add_argument("--epsilon", type=float, help="what a patient loses at most by the release; must be given")
    made.add_argument("--out", type=Path, default=Path("release"), help="a fresh folder; default: release")
    made.set_defaults(run=_synthesize)


def _synthesize(chosen: argparse.Namespace) -> int:
    from fedhealth.cli import log_to
    from fedhealth.simulate import fresh_folder

    if chosen.epsilon is None:
        raise SettingError(
            "a release must have an epsilon, found none. Give --epsilon, such as 3; without noise it is no release."
        )
    out = chosen.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError(f"a release must have a folder of its own, found {out} there already. Choose another --out.")
    simulation = planned(chosen.words, chosen.epsilon)
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


def planned(words: list[str], epsilon: float) -> Simulation:
    """The study of a release: masked, with every hospital in the sum unless the words say otherwise.

    Each hospital's share of the noise is for the fewest hospitals a sum may be of, so where all must stay there
    is least of it.

    Raises:
        SettingError: the words are no config, or parts don't fit.
    """
    from fedhealth.compose import composed, resolved
    from fedhealth.simulate import checked

    masks = [] if any(word.startswith("secagg=") for word in words) else ["secagg=masked"]
    config = resolved(composed([*words, *masks, "privacy=release", f"privacy.epsilon={epsilon!r}"]))
    simulation = checked(config)
    if not any(word.startswith("secagg.min_cohort=") for word in words) and "min_cohort" in config["secagg"]:
        whole = {**config["secagg"], "min_cohort": max(len(simulation.study.roster), config["secagg"]["min_cohort"])}
        simulation = checked({**config, "secagg": whole})
    return simulation


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
    from fedhealth.core.parts import build
    from fedhealth.evaluation.margins import MarginLayout
    from fedhealth.privacy.release import Release
    from fedhealth.release.card import card, card_text, validation_text
    from fedhealth.release.fit import fitted
    from fedhealth.release.floor import refuse_few, refuse_near
    from fedhealth.release.records import csv_text, drawn
    from fedhealth.release.smoothing import smoothed
    from fedhealth.secagg.masked import Masked
    from fedhealth.server.margins import counted
    from fedhealth.server.store import Store
    from fedhealth.simulate import asked_here, identified
    from fedhealth.site.release_check import checked

    study = simulation.study
    mechanism = build(study.privacy, where="privacy", room="fedhealth.privacy")
    sealing = build(study.secagg, where="secagg", room="fedhealth.secagg")
    if not isinstance(mechanism, Release) or not isinstance(sealing, Masked):
        raise SettingError(
            f"a release must have privacy=release and secagg=masked, found {study.privacy['_target_']} and "
            f"{study.secagg['_target_']}. Leave both to fedhealth synthesize."
        )
    layout = MarginLayout.of(study)
    # Before anybody is asked: hospitals would find the same fault, and the noise would be spent.
    mechanism.lattice("query.margins", layout.size, rounds=1, shares=sealing.shares)
    store = Store(folder)
    with contextlib.contextmanager(store.lock)():
        simulation = identified(simulation, store)
        with asked_here(simulation, store) as grid:
            counts, hospitals = counted(study, grid)
    patients = layout.patients(counts)
    refuse_few(patients)
    noise = mechanism.noise_multiplier * layout.sensitivity * math.sqrt(hospitals / sealing.shares)
    mixture = fitted(layout, smoothed(layout, counts, noise=noise), seed=study.seed)
    cells = drawn(layout, mixture, round(patients), seed=study.seed)
    found = checked(study, layout, _real(simulation, layout), cells)
    out.mkdir(parents=True, exist_ok=True)
    _write(out, CHECK, found, validation_text(found))
    refuse_near(found["nearest_record_share"])
    text = csv_text(study, layout, cells, seed=study.seed)
    described = card(
        study, layout, rows=len(cells), hospitals=hospitals, promised=str(mechanism.planned()),
        alone=str(mechanism.opened(shares=sealing.shares)), statement=mechanism.statement(),
        noise=noise,
        digests={"study": simulation.digest, PATIENTS: hashlib.sha256(text.encode()).hexdigest()},
    )  # fmt: skip
    _write(out, CARD, described, card_text(described))
    (out / PATIENTS).write_text(text, encoding="utf-8")
    return found


def _real(simulation: Simulation, layout: MarginLayout) -> Real:
    """All hospitals' patients as cells."""
    import numpy as np

    from fedhealth.simulate import clients
    from fedhealth.site.release_check import Real

    parts: dict[str, list[NDArray[np.int64]]] = {"train": [], "held_out": []}
    groups: dict[str, list[NDArray[np.int64]]] = {name: [] for name in simulation.study.features.groups}
    for _, client in sorted(clients(simulation).items()):
        for name in ("train", "validation", "test"):
            part = client.cohort.part(name)
            parts["train" if name == "train" else "held_out"].append(layout.cells(part.columns, part.y))
            if name != "train":
                for group, codes in part.groups.items():
                    groups[group].append(codes)
    whole = {name: np.vstack(each) for name, each in parts.items()}
    return Real(whole["train"], whole["held_out"], {name: np.concatenate(each) for name, each in groups.items()})


def _write(out: Path, name: str, document: dict[str, Any], text: str) -> None:
    """Write one document for readers and one for programs."""
    (out / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(text, encoding="utf-8")
