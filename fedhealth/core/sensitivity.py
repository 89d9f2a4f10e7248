"""Sensitivity: what a column's name says of how much it tells of a person.

A name is a guess, and a good enough one to refuse by: a column called `patient_name` or
`notes` becomes a feature only after somebody wrote down that it is something else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedhealth.core.features import Sensitivity

# Whole words of a column's name, the most telling class first. The direct identifiers are the 18 of the
# Safe Harbor rule, 45 CFR 164.514(b)(2).
_WORDS: dict[Sensitivity, frozenset[str]] = {
    "identifier": frozenset(
        [
            "name",
            "surname",
            "forename",
            "firstname",
            "lastname",
            "fullname",
            "maiden",
            "mrn",
            "ssn",
            "nhs",
            "email",
            "mail",
            "phone",
            "telephone",
            "mobile",
            "fax",
            "address",
            "street",
            "passport",
            "licence",
            "license",
            "account",
            "insurance",
            "iban",
            "url",
            "ip",
            "photo",
            "fingerprint",
            "identifier",
            "uuid",
            "guid",
            "id",
            "patientid",
            "personid",
            "dob",
            "birthdate",
        ]
    ),
    "text": frozenset(
        [
            "note",
            "notes",
            "comment",
            "comments",
            "remark",
            "remarks",
            "narrative",
            "freetext",
            "text",
            "report",
            "letter",
        ]
    ),
    "quasi": frozenset(
        [
            "age",
            "sex",
            "gender",
            "female",
            "male",
            "birth",
            "year",
            "zip",
            "zipcode",
            "postcode",
            "postal",
            "race",
            "ethnicity",
            "marital",
            "occupation",
            "religion",
            "language",
            "nationality",
            "ward",
            "admitted",
            "admission",
            "discharged",
        ]
    ),
    "sensitive": frozenset(
        [
            "hiv",
            "aids",
            "psychiatric",
            "depression",
            "alcohol",
            "drug",
            "smoking",
            "smoker",
            "pregnancy",
            "abortion",
            "genetic",
            "diabetes",
            "cancer",
            "diagnosis",
            "outcome",
            "died",
            "death",
        ]
    ),
}


def guessed(column: str) -> Sensitivity:
    """The class that a column's name suggests; `measure` where it suggests none."""
    words = set(re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower()))
    return next((found for found, telling in _WORDS.items() if words & telling), "measure")
