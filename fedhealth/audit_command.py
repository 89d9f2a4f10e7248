"""`fedhealth audit-privacy CONFIG | RUN`: the claimed epsilon, and what attacks on the mechanism find."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fedhealth.core.errors import IntegrityError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedhealth.privacy.audit import Finding
    from fedhealth.privacy.guarantee import Guarantee
    from fedhealth.simulate import Simulation

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


@dataclass(frozen=True, slots=True)
class Attacked:
    """What a study promises its patients, and what attacks on its mechanism found."""

    promised: Guarantee
    found: list[Finding]

    @property
    def alarms(self) -> list[Finding]:
        """What the mechanism failed."""
        return [one for one in self.found if one.is_alarm]


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `audit-privacy` to the command line."""
    audit = commands.add_parser("audit-privacy", help="attack a study's privacy mechanism, as the study sets it")
    audit.add_argument(
        "words", nargs="*", metavar="RUN|key=value", help="a run's folder, or what to change in the config"
    )
    audit.set_defaults(run=_audit)


def attacked(simulation: Simulation, sizes: Sequence[float]) -> Attacked | None:
    """The claim of a study, and attacks on its mechanism; None where it has none.

    Args:
        simulation: the study.
        sizes: how many training patients hospitals told of.
    """
    from fedhealth.privacy.distributed import Distributed
    from fedhealth.privacy.dp_sgd import DpSgd
    from fedhealth.server.plan import plan_for

    plan = plan_for(simulation.study)
    mechanism, study = plan.mechanism, simulation.study
    if not isinstance(mechanism, DpSgd | Distributed):
        return None
    from fedhealth.core.preprocessor import Preprocessor
    from fedhealth.models.weights import first_network
    from fedhealth.secagg.masked import Masked
    from fedhealth.server.private_plan import promised
    from fedhealth.site.private_engine import PrivateEngine
    from fedhealth.site.self_audit import MaskedHospitals, audited

    course = mechanism.course(plan.method.private_fits(study.training), rounds=study.rounds, size=min(sizes))
    width = Preprocessor.from_spec(study.features).width
    network = first_network(plan.model, width, seed=study.seed)
    engine: Callable[..., PrivateEngine] = PrivateEngine
    if isinstance(plan.sealing, Masked):
        engine = partial(MaskedHospitals, rounds=study.rounds, sharing=plan.sealing.sharing(len(study.roster)))
    return Attacked(
        promised(study, mechanism, plan.method, sizes),
        audited(mechanism, course, network, width, rounds=study.rounds, engine=engine),
    )


def in_words(found: Attacked) -> str:
    """The audit in one sentence."""
    bound = next(one for one in found.found if one.test == "Gaussian canaries")
    if found.alarms:
        return f"PRIVACY ALARM: attacks on the mechanism found {'; '.join(map(str, found.alarms))}."
    return (
        f"Attacks on the mechanism, as the study sets it, raised no alarm: canaries in one run show a loss of at "
        f"least ε = {bound.measured:.2f} in training, where {bound.allowed:.3g} is accounted; clipping, the noise's size "
        "and its freshness were within 1 %."
    )


def _audit(chosen: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    from fedhealth.progress import console

    simulation, sizes = _study(chosen.words)
    found = attacked(simulation, sizes)
    if found is None:
        raise SettingError(
            "an audit attacks what a hospital's own mechanism claims, found "
            f"{simulation.study.privacy['_target_']}, which claims nothing there. Use privacy=dp_sgd."
        )
    table = Table("attack", "measured", "allowed", "", box=None)
    for one in found.found:
        table.add_row(one.test, f"{one.measured:.4g}", f"{one.allowed:.4g}", "ALARM" if one.is_alarm else "passes")
    out = console()
    out.print(Text(f"claimed for the study: {found.promised}"), table, Text(in_words(found)), sep="\n")
    if found.alarms:
        raise IntegrityError(
            f"a mechanism must do what its epsilon was worked out for, found {len(found.alarms)} alarms. Use no result of it."
        )
    sys.stdout.write("an audit proves no privacy; it finds what is broken\n")
    return 0


def _study(words: list[str]) -> tuple[Simulation, list[float]]:
    """The study of a run or a config, and how many training patients its hospitals told or have."""
    from fedhealth.starting import config_of

    config = None if len(words) == 1 and "=" not in words[0] else config_of(words)
    from fedhealth.server.store import Store
    from fedhealth.simulate import checked, clients

    if config is None:
        store = Store(Path(words[0]))
        simulation = checked(store.read_config())
        return simulation, [float(shape[0]) for shape in store.read_json("statistics.json")["shapes"].values()]
    simulation = checked(config)
    return simulation, [float(client.cohort.shape.train) for client in clients(simulation).values()]
