"""Errors, each with the exit code that tells a script what kind of failure it was.

    FedHealthError            1  the run failed
    ├── QuorumError           1  too few hospitals answered
    ├── SettingError          2  bad input: a config, a manifest, a command line
    ├── DataError             2  bad input: a hospital's data
    ├── Refused               3  a hospital's policy said no
    └── IntegrityError        4  something stored was changed or is not whole

A message is one line: the rule, the value found, the remedy. It never holds a patient's
value, identifier or key.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class FedHealthError(Exception):
    """A failure that a user can act on; `exit_code` is what the command ends with."""

    exit_code: ClassVar[int] = 1


class QuorumError(FedHealthError):
    """Too few hospitals answered for the round to stand.

    Attributes:
        is_spent: whether every other one refused since its patients' budget, or the study's own, is spent.
    """

    def __init__(self, message: str, *, is_spent: bool = False) -> None:
        super().__init__(message)
        self.is_spent = is_spent


class SettingError(FedHealthError):
    """A setting breaks its rule."""

    exit_code: ClassVar[int] = 2


class DataError(FedHealthError):
    """A hospital's data can't become a cohort."""

    exit_code: ClassVar[int] = 2


class IntegrityError(FedHealthError):
    """Something stored is not what was written."""

    exit_code: ClassVar[int] = 4


class Refused(FedHealthError):
    """A hospital's own policy stops a round at that hospital.

    Only `code` leaves the hospital. `found` may say more than the coordinator should
    know (how many patients there are, say) and stays in the hospital's log.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, code: str, *, rule: str, found: str, remedy: str) -> None:
        super().__init__(f"{rule}, found {found}. {remedy}")
        self.code = code
        self.rule = rule
        self.found = found
        self.remedy = remedy


#: What a refusal code means, in words a coordinator may read. The code alone travels.
REFUSALS: dict[str, str] = {
    "study_changed": "the study is not the one this hospital approved",
    "not_approved": "the hospital has not approved the study",
    "study_denied": "the hospital has denied the study",
    "approval_expired": "the study, or the hospital's approval of it, is over",
    "approval_broken": "the hospital's record of its approval is not as it was signed",
    "unsigned": "the study is not signed by its proposer",
    "proposer_unknown": "the study is not signed by a proposer whom the hospital trusts",
    "another_code": "the hospital runs other code than the study was proposed for",
    "cohort_too_small": "fewer training patients than the hospital's min_patients floor",
    "too_few_sites": "the study has fewer hospitals than the hospital's min_cohort floor",
    "masking_required": "the hospital sends nothing without secure aggregation",
    "budget_spent": "the hospital's privacy budget does not allow it",
    "not_private": "the hospital sends this with a bound on what it reveals, or not at all, and it has no such form",
    "not_asked_for": "a study of tables asks for its tables alone, and another study for none",
    "told_before": "the hospital told a column of these tables before, in another table or of other patients, or two tables together tell of few",
    "delta_too_large": "the delta of the study or of the hospital is one over its patients or more",
    "batch_too_large": "the study's batches are larger than the hospital's cohort, or its epsilon can't be kept",
    "release_too_small": "a synthetic release is of too few patients",
    "release_too_near": "a synthetic release lies nearer to the patients behind it than chance has it",
    "no_size": "the hospital was not asked for its number of patients first",
    "data_not_fit": "of a feature that the study requires, too many patients at the hospital have no good value",
    "schema_differs": "the hospital's data is of another version of the feature spec",
    "paused": "the hospital has paused its client",
    "part_not_allowed": "the study names a part that is not in the installed package",
    # Secure aggregation (fedhealth/secagg/protocol/refusals.py holds the rules)
    "malformed": "a message is not of this version of the protocol",
    "weight_out_of_range": "the hospital has no patients for this round, or more than weight_max",
    "value_out_of_range": "a value is outside the bound the study agreed on",
    "study_spent": "the study has let this out as often as its epsilon was worked out for",
    "weights_not_finite": "the weights have values that are not finite",
    "weights_too_large": "the weights are so large that rounding could pass the clip",
    "not_finite": "training gave a number that is not finite",
    "wrong_shape": "what the hospital computed is not what the study's layout declares",
    "another_study": "the round is of another study",
    "another_round": "the round is another one",
    "another_task": "the hospital was given another model or instruction",
    "another_layout": "the summed vector is laid out otherwise than in the study",
    "another_threshold": "the round's thresholds are not those of the study",
    "roster_changed": "the roster is not the one the study was approved with",
    "min_cohort_unsafe": "so few sites, with so many colluders, could be told apart",
    "min_cohort_below_floor": "min_cohort is below the hospital's own floor",
    "not_on_roster": "a site is not on the roster, or not under its key",
    "sender_differs": "a message is of another site than its sender",
    "bad_signature": "a signature is not of its site, this round and these terms",
    "key_reused": "a key was used twice",
    "key_unsound": "a public key gives no secret",
    "own_advert_changed": "the hospital's own advert was changed",
    "cohort_over_max": "more sites than cohort_max",
    "too_few_adverts": "too few sites take part",
    "too_few_shares": "too few sites shared their keys",
    "too_few_survivors": "too few sites sent their vector",
    "too_few_confirms": "too few sites signed the same survivors",
    "too_few_reveals": "too few sites revealed their shares",
    "no_majority": "the survivors are too few to be the only ones",
    "neighbours_lost": "a survivor lost too many of the sites it shares masks with",
    "out_of_order": "a step was asked for out of order, or twice",
    "left_out": "the hospital is not among the sites it was asked to work with",
    "not_in_cohort": "a site is named that took no part in the step before",
    "sent_twice": "a site sent a step's message twice",
    "shares_missing": "shares are not from the sites that shared",
    "share_not_authentic": "a share was changed on its way",
    "vector_not_authentic": "a vector was changed on its way",
    "another_view": "a site shared or masked for other sites than the others",
    "foreign_confirm": "a confirmation is of a site that did not survive",
    "reveal_mismatch": "a site revealed other shares than were due",
    "bad_share": "revealed shares do not give what their owner committed to",
    "query_repeated": "a query answered before was asked again of other sites",
    "rolled_back": "the hospital's stored session is older than the round",
}


#: Refusals that no later round changes.
SPENT = frozenset({"budget_spent", "study_spent"})


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """The remedy for a wrong name: the nearest known one, and all of them."""
    names = sorted(known)
    near = get_close_matches(found, names, n=1)
    listed = ", ".join(names) if names else "none"
    return (f"Did you mean {near[0]}? " if near else "") + f"Known: {listed}."
