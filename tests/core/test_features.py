"""A feature spec that could not be meant is refused where it is read."""

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.core.features import Feature, Group


@pytest.mark.parametrize("kind", ["numeric", "binary"])
def test_a_missing_code_of_a_number_is_a_number(kind):
    with pytest.raises(SettingError, match=r"feature age: missing must list numbers .* found '\?'\. Name such a cell"):
        Feature(name="age", kind=kind, missing=("-9", "?"))


def test_a_missing_code_of_a_word_is_any_word():
    assert Feature(name="ward", kind="categorical", levels=("a",), missing=("?",)).missing == ("?",)
    assert Feature(name="age", missing=("-9", "9e3", "nan")).missing == ("-9", "9e3", "nan")


@pytest.mark.parametrize("cuts", [(65.0, 40.0), (40.0, 40.0)])
def test_the_cuts_of_a_group_rise(cuts):
    with pytest.raises(SettingError, match="group of age: cuts must rise strictly, found"):
        Group(column="age", cuts=cuts)
