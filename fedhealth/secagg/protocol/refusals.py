"""Why a site or the coordinator goes no further: one code for one reason.

A site's refusal ends the round for that site, whatever comes after. The coordinator's
refuses one message, and the round goes on without it while enough sites are left.
"""

from __future__ import annotations

from fedhealth.core.errors import Refused

_ASK = "Ask the coordinator for its log; the site takes part again in the next round."
_SITE = "Ask that site for its log; the round goes on without it where enough are left."
_WAIT = "Start the round when more sites are there, or lower min_cohort in the study."

#: By code: the rule, and what to do.
RULES: dict[str, tuple[str, str]] = {
    # What all sites sign
    "another_study": ("the round must be of the approved study", _ASK),
    "another_round": ("the round must be the one this site was asked for", _ASK),
    "another_task": ("every site must get the same model and instruction", _ASK),
    "another_layout": ("the summed vector must be laid out as the study says", _ASK),
    "another_threshold": ("min_cohort, colluders and losses must be those of the study", _ASK),
    "roster_changed": ("the roster must be the one the study was approved with", _ASK),
    "min_cohort_unsafe": ("min_cohort must be at least 3, and 2 more than the colluders", "Raise it in the study."),
    "min_cohort_below_floor": (
        "min_cohort must reach this site's own floor",
        "Raise it in the study, or the floor's owner lowers policy.min_cohort in site.yaml.",
    ),
    # Who takes part
    "not_on_roster": ("a site must be on the study's roster, under its own key", _ASK),
    "sender_differs": ("a message must be of the site that sent it", _SITE),
    "bad_signature": ("a message must be signed by its site, for this round and these terms", _ASK),
    "key_reused": ("keys must be fresh and of one site alone", _ASK),
    "key_unsound": ("a public key must give a secret and be in its one form", _ASK),
    "own_advert_changed": ("this site's advert must come back as it was sent", _ASK),
    "cohort_over_max": (
        "a cohort must have at most cohort_max sites, so that no sum wraps",
        "Raise cohort_max in the study.",
    ),
    "too_few_adverts": ("enough sites must take part", _WAIT),
    "too_few_shares": ("enough sites must have shared their keys", _WAIT),
    "too_few_survivors": ("enough sites must have sent their vector", _WAIT),
    "too_few_confirms": ("enough sites must have signed the same survivors", _WAIT),
    "too_few_reveals": ("enough sites must have revealed their shares", _WAIT),
    "no_majority": ("survivors and colluders must leave no room for a second set of survivors", _WAIT),
    "neighbours_lost": ("every survivor must keep enough of the sites it shares masks with", _WAIT),
    # Each step
    "out_of_order": ("a step must be taken in its order, and once", _ASK),
    "left_out": ("this site must be among the sites it works with", _ASK),
    "not_in_cohort": ("a site must have taken part in the step before", _ASK),
    "sent_twice": ("a site must send a step's message once", _SITE),
    "shares_missing": ("shares must come from each neighbour that shared, and from no other", _ASK),
    "share_not_authentic": ("a share must be the one its site sealed for this site and round", _ASK),
    "vector_not_authentic": ("a vector must come as its site sent it", _SITE),
    "another_view": ("a site must share and mask for the sites that the others were told", _SITE),
    "foreign_confirm": ("a confirmation must be of a survivor", _ASK),
    "reveal_mismatch": (
        "a site must reveal for each site it holds shares of the one kind that is due, and all keys of spare noise",
        _SITE,
    ),
    "bad_share": (
        "revealed shares must give what their owner committed to",
        "The round is over; that site shared falsely, or sites that revealed its shares did: ask all for their logs.",
    ),
    "query_repeated": (
        "a query answered once must not be answered for another cohort",
        "Ask for it with the same sites, or have each site set policy.allow_regrouping.",
    ),
    "rolled_back": (
        "a stored session must be as far as the round has come",
        "Leave this round; take part in the next.",
    ),
}


def refused(code: str, found: str) -> Refused:
    """The refusal with that code."""
    rule, remedy = RULES[code]
    return Refused(code, rule=rule, found=found, remedy=remedy)
