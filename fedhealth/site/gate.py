"""The gate: what must hold before a hospital does anything for a study.

Every request passes here, and nothing leaves that did not. The order is: the study is
approved (`governance.approval`); the hospital is not paused; masking is on where the hospital demands it;
the floors hold; what is asked for is what the study is for, and no table of before can be
subtracted from it; the patients' budget allows it, and is charged. Rows without consent are already
out of the cohort (`site.cohort`). What comes later (quarantine, receipts) is one more rule in
`open_round`, before the charge: a refusal after it would cost without giving.

That a floor does not hold, or that there are more patients than a masked study allows for, is told without noise,
to whoever asks.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from fedhealth.core.errors import Refused
from fedhealth.evaluation.margins import MARGINS
from fedhealth.evaluation.tables import TableLayout
from fedhealth.privacy.distributed import Distributed, SharesNoise
from fedhealth.privacy.dp_sgd import DpSgd
from fedhealth.privacy.patient_level import PatientLevel
from fedhealth.privacy.release import Release
from fedhealth.site.attacks.plain import Plain
from fedhealth.site.budget import charge
from fedhealth.site.private_round import course_of
from fedhealth.site.told_columns import ToldColumns, reads_of

if TYPE_CHECKING:
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.study import Study
    from fedhealth.governance.approval import Approved
    from fedhealth.privacy import Mechanism
    from fedhealth.privacy.ledger import Ledger
    from fedhealth.privacy.patient_level import Course
    from fedhealth.site.attacks import Attack
    from fedhealth.site.cohort import Cohort
    from fedhealth.site.memory import Memory
    from fedhealth.site.turns import Turns

log = logging.getLogger(__name__)

#: Simulated hospitals up to which each answer has its lines in the log.
EACH_LOGGED = 256

#: The one question of a study of tables.
TABLES = "query.table"
#: The largest epsilon of counts that need no floors: less noise hides no small one.
MOST_EPSILON = 10.0


class Permit(NamedTuple):
    """One request let through, with the cohort it may use and the memory it may read and write.

    `attack` is what a simulated hospital does in place of its honest training; see `site.attacks`.
    `private` is how the hospital must train, as it was charged; None where training has no bound.
    `turns` are there where it trains at once with others of this thread.
    """

    study: Study
    manifest: SiteManifest
    cohort: Cohort
    memory: Memory
    round_: int
    attack: Attack = Plain()
    private: tuple[PatientLevel, Course] | None = None
    turns: Turns | None = None


def open_round(
    manifest: SiteManifest,
    study: Study,
    cohort: Cohort,
    memory: Memory,
    *,
    digest: str,
    approved: Approved,
    is_masked: bool,
    round_: int,
    purpose: str,
    mechanism: Mechanism,
    ledger: Ledger,
    is_known: bool = False,
    is_simulated: bool = False,
    attack: Attack | None = None,
    turns: Turns | None = None,
) -> Permit:
    """The permit for one request.

    Args:
        manifest: the hospital's own.
        study: the study as it came with the request.
        cohort: the hospital's cohort for that study.
        memory: what the hospital kept of that study's earlier rounds.
        digest: the digest of the study as it came.
        approved: says which studies this hospital approved.
        is_masked: whether what leaves is masked.
        round_: the round asked for.
        purpose: what is asked for.
        mechanism: the study's privacy.
        ledger: the hospital's, which is charged.
        is_known: whether the answer is one that left before, which costs nothing.
        is_simulated: whether the hospital is one of a simulation.
        attack: as of `Permit`; None for none.
        turns: as of `Permit`.

    Raises:
        Refused: a rule of the hospital's does not hold.
        IntegrityError: the ledger is not as it was written.
    """
    policy = manifest.policy
    n = len(cohort.part("train").y)
    go_on(manifest, digest=digest, approved=approved)
    if policy.require_masking and not is_masked:
        raise Refused(
            "masking_required",
            rule="secagg must be masked",
            found="secagg=plain",
            remedy="Use a masked study, or change policy.require_masking.",
        )
    if len(study.roster) < policy.min_cohort:
        raise Refused(
            "too_few_sites",
            rule=f"a study must have at least {policy.min_cohort} hospitals",
            found=str(len(study.roster)),
            remedy="Add hospitals, or lower policy.min_cohort in site.yaml.",
        )
    if n < policy.min_patients:
        raise Refused(
            "cohort_too_small",
            rule=f"a round must have at least {policy.min_patients} training patients",
            found=str(n),
            remedy="Wait for more patients, or lower policy.min_patients in site.yaml.",
        )
    if isinstance(mechanism, DpSgd) and is_masked:
        raise Refused(
            "not_private",
            rule="a study with privacy=dp_sgd must be without masks, which count whole patients",
            found="both",
            remedy="Use privacy=distributed under masks, or secagg=plain.",
        )
    if isinstance(mechanism, SharesNoise) and not is_masked:
        raise Refused(
            "not_private",
            rule="a study whose hospitals share noise must be masked, since each adds a share of it only",
            found="secagg=plain",
            remedy="Use secagg=masked.",
        )
    _must_be_for(study, mechanism, purpose=purpose)
    if isinstance(mechanism, Distributed) and n > (most := int(study.secagg["weight_max"])):
        # What others' rounding can do to a sum is bounded for so many.
        raise Refused(
            "weight_out_of_range",
            rule=f"a hospital of the study must have at most {most} training patients",
            found=str(n),
            remedy="Agree on a larger secagg.weight_max.",
        )
    if purpose in (TABLES, MARGINS) and isinstance(mechanism, PatientLevel | Release):
        _must_hide(mechanism, delta=policy.delta)
    course = None
    if isinstance(mechanism, PatientLevel) and purpose in ("train", "evaluate"):
        course = course_of(study, mechanism, memory)
    if purpose == TABLES and not isinstance(mechanism, PatientLevel):
        ToldColumns(ledger.path.with_suffix(".told.json")).admit(
            TableLayout.of(study), cohort, reads=reads_of(study, manifest), floor=policy.min_cell
        )
    if not is_known:
        charge(
            ledger, manifest, study, mechanism, digest=digest, purpose=purpose,
            patients=len(cohort.patients), course=course, is_simulated=is_simulated,
        )  # fmt: skip
    log.log(
        loudness(study, is_simulated=is_simulated),
        "opened site=%s study=%s round=%d purpose=%s", manifest.name, digest[:12], round_, purpose,
    )  # fmt: skip
    private = (mechanism, course) if isinstance(mechanism, PatientLevel) and course is not None else None
    return Permit(study, manifest, cohort, memory, round_, attack or Plain(), private, turns)


def loudness(study: Study, *, is_simulated: bool) -> int:
    """The level of a line that tells of one hospital's answer; of a simulation's hundreds nobody reads it."""
    return logging.DEBUG if is_simulated and len(study.roster) > EACH_LOGGED else logging.INFO


def go_on(manifest: SiteManifest, *, digest: str, approved: Approved) -> None:
    """Do nothing where the study is approved and the hospital is not paused: what each message needs.

    Raises:
        Refused: one of them does not hold.
    """
    approved.require(digest)
    if manifest.policy.paused:
        raise Refused(
            "paused",
            rule="the client must not be paused",
            found="policy.paused=true",
            remedy="Unpause it in site.yaml.",
        )


def _must_be_for(study: Study, mechanism: Mechanism, *, purpose: str) -> None:
    """Refuse a question that the study or its privacy is not for."""
    if purpose == MARGINS and not isinstance(mechanism, Release):
        raise Refused(
            "not_private",
            rule="counts of pairs of values must leave with privacy=release, whose noise hides a rare pair",
            found=str(study.privacy.get("_target_")),
            remedy="Ask by fedhealth synthesize.",
        )
    if bool(study.tabulation.tables) != (purpose == TABLES):
        raise Refused(
            "not_asked_for",
            rule="a study of tables must ask for its tables alone, and another study for none",
            found=purpose,
            remedy="Approve another study for the rest.",
        )


def _must_hide(mechanism: PatientLevel | Release, *, delta: float) -> None:
    """Refuse noise in whose name counts of few patients would leave as they are: with it no floor acts."""
    # It loads scipy's optimisers, which nothing else at a hospital's start needs.
    from fedhealth.privacy.gaussian import epsilon_of

    found = "noise that follows from privacy.insecure_seed"
    if mechanism.is_private:
        noise = mechanism.noise_multiplier if isinstance(mechanism, Release) else mechanism.statistics_noise
        epsilon = epsilon_of(1 / noise, delta)
        if epsilon <= MOST_EPSILON:
            return
        found = f"{epsilon:.3g} at delta {delta:g}"
    raise Refused(
        "not_private",
        rule=f"counts with noise must be of an epsilon of at most {MOST_EPSILON:g}, since nothing else is withheld of them",
        found=found,
        remedy="Ask with a smaller --epsilon; tables also without, exact and with floors.",
    )
