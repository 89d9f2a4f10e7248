"""What a column's name says of how much it tells of a person."""

import pytest
from composing import config_of

from fedhealth.compose import options
from fedhealth.core.sensitivity import guessed


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("patient_name", "identifier"),
        ("lastName", "identifier"),
        ("MRN", "identifier"),
        ("date of birth", "quasi"),
        ("dob", "identifier"),
        ("e-mail", "identifier"),
        ("nurse_notes", "text"),
        ("freetext", "text"),
        ("zip3", "quasi"),
        ("ZIP", "quasi"),
        ("sex", "quasi"),
        ("hiv_status", "sensitive"),
        ("creatinine", "measure"),
        ("trestbps", "measure"),
    ],
)
def test_a_name_is_classed_by_its_whole_words(column, expected):
    assert guessed(column) == expected


@pytest.mark.parametrize("spec", options("features"))
def test_no_feature_that_ships_would_be_refused_by_its_name(spec):
    features = config_of(f"features={spec}")["features"]["features"]
    assert not [feature["name"] for feature in features if guessed(feature["name"]) in ("identifier", "text")]
