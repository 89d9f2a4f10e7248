"""The budget: what a request costs the hospital's patients, charged to its ledger before anything is done for it.

The account is the hospital's name, whatever the study, since studies draw on the same patients.
A request that comes again gets the answer it got (`site.answers`). Where there is none, since it was
cut short, it is charged again: fresh noise over the same patients is one more look at them,
and a seed that repeats the old noise is not private. What a study lets out it lets out no more
often than its own epsilon was worked out for.

`privacy=plain` has no bound, and `central` none towards the coordinator. A hospital with a cap
refuses both; any other has it in its ledger once a study, but for simulations, whose ledgers
would say it of made-up patients.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedhealth.core.errors import Refused
from fedhealth.core.privacy_event import Unbounded, as_json
from fedhealth.privacy.ledger import Entry
from fedhealth.privacy.patient_level import PatientLevel
from fedhealth.privacy.release import Release

if TYPE_CHECKING:
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.privacy_event import Event
    from fedhealth.core.study import Study
    from fedhealth.privacy import Mechanism
    from fedhealth.privacy.ledger import Ledger
    from fedhealth.privacy.patient_level import Course


def charge(
    ledger: Ledger,
    manifest: SiteManifest,
    study: Study,
    mechanism: Mechanism,
    *,
    digest: str,
    purpose: str,
    patients: int,
    course: Course | None,
    is_simulated: bool = False,
) -> None:
    """Charge what a request for `purpose` costs; it is spent from here on.

    Args:
        ledger: the hospital's.
        manifest: its own, with the cap.
        study: who asks.
        mechanism: the study's.
        digest: of the study.
        purpose: what is asked for.
        patients: how many the hospital has for the study.
        course: how it would train; None where nothing is trained.
        is_simulated: whether the hospital is one of a simulation.

    Raises:
        Refused: the cap would be passed or the study's plan, delta is no small chance here, or what is asked has no private form.
        IntegrityError: the ledger is not as it was written.
    """
    event: Event = Unbounded()
    most = None
    if isinstance(mechanism, PatientLevel | Release):
        for name, delta in (("privacy.delta", mechanism.delta), ("policy.delta", manifest.policy.delta)):
            _check_delta(name, delta, patients)
        event, most = mechanism.event(purpose, course), mechanism.planned_times(purpose, study.rounds)
    elif manifest.policy.epsilon_cap is None and (
        (is_simulated and not manifest.policy.ledger) or _stands(ledger, digest)
    ):
        return
    cap = manifest.policy.epsilon_cap
    view = mechanism.view if isinstance(mechanism, PatientLevel | Release) else "updates"
    entry = Entry(study=study.name, digest=digest, what=purpose, event=event, view=view, cohort=manifest.name)
    ledger.charge(entry, epsilon_cap=math.inf if cap is None else cap, delta=manifest.policy.delta, most=most)


def _check_delta(name: str, delta: float, patients: int) -> None:
    """Refuse a delta with which giving one whole record away would count as private."""
    if delta * patients >= 1:
        raise Refused(
            "delta_too_large",
            rule=f"`{name}` must be below one over the hospital's patients",
            found=f"{delta:g} with {patients} of them",
            remedy="Lower it.",
        )


def _stands(ledger: Ledger, digest: str) -> bool:
    """Whether the ledger already says that this study had no bound."""
    return any(row.digest == digest and row.event == as_json(Unbounded()) for row in ledger.rows())
