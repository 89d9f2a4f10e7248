"""A feature spec that could not be meant is refused where it is read."""

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.core.features import Conversion, Feature, FeatureSpec, Group


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


def test_each_level_of_a_group_has_a_title_of_its_own():
    with pytest.raises(SettingError, match="group of sex: each level must have a title of its own"):
        Group(column="sex", levels={"0": "other", "1": "other"})


@pytest.mark.parametrize("levels", [(), ("a", "b", "a")])
def test_the_levels_of_a_word_are_named_once_each(levels):
    with pytest.raises(SettingError, match="feature ward: levels must be named where the feature is categorical"):
        Feature(name="ward", kind="categorical", levels=levels)


def test_a_unit_is_not_brought_to_nothing():
    with pytest.raises(SettingError, match="factor must not be 0"):
        Conversion(factor=0)


WARD = Feature(name="ward", kind="categorical", levels=("a", "b"))


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (Group(column="wrad"), r"a group's column must be a feature, found wrad\. Did you mean ward\?"),
        (Group(column="ward"), "group of ward: levels must be named where the feature is categorical"),
    ],
)
def test_a_group_fits_its_column(group, words):
    with pytest.raises(SettingError, match=words):
        FeatureSpec(name="s", features=(WARD,), groups={"g": group})


@pytest.mark.parametrize("kind", ["identifier", "text"])
def test_a_direct_identifier_or_free_text_is_no_feature(kind):
    with pytest.raises(SettingError, match="a direct identifier or free text can't be a feature, found sensitivity="):
        Feature(name="mrn", sensitivity=kind)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window_h": (24, 0)}, "window_h must run from early to late"),
        ({"kind": "series", "window_h": (0, 48), "step_h": 5}, "step_h must divide the 48 hours of window_h, found 5"),
        ({"step_h": 0}, "step_h must divide the 24 hours"),
    ],
)
def test_a_window_is_one(settings, words):
    with pytest.raises(SettingError, match=words):
        Feature(name="x", **settings)


def test_a_series_has_a_number_a_step():
    assert Feature(name="x", kind="series", window_h=(0, 48), step_h=2).steps == 24
    assert Feature(name="x", window_h=(0, 48)).steps == 1
