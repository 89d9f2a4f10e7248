import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.features import Feature, FeatureSpec
from fedhealth.core.preprocessor import Moments, Preprocessor, Series

SPEC = FeatureSpec(
    name="three",
    features=(
        Feature(name="age"),
        Feature(name="dose", transform="log", range=(0.1, 100.0)),
        Feature(name="ward", kind="categorical", levels=("a", "b", "c")),
    ),
)
COLUMNS = {
    "age": np.array([40.0, 50.0, np.nan, 90.0]),
    "dose": np.array([1.0, 2.0, 4.0, 8.0]),
    "ward": np.array(["a", "b", None, "x"], dtype=object),
}


def fitted(spec=SPEC, **changes) -> Preprocessor:
    age, dose = np.array([40.0, 50.0, 90.0]), np.log(COLUMNS["dose"])
    moments = {
        "count": {"age": 3.0, "dose": 4.0},
        "mean": {"age": age.mean(), "dose": dose.mean()},
        "variance": {"age": age.var(), "dose": dose.var()},
        "levels": {"ward": {"a": 9.0, "b": 9.0, "c": 0.0}},
        "missing": {},
        "outcome": (1.0, 1.0),
    }
    return Preprocessor.from_moments(spec, Moments(**{**moments, **changes}))


def test_numbers_are_scaled_as_scikit_learn_scales_them():
    present = COLUMNS["age"][[0, 1, 3]]
    expected = StandardScaler().fit_transform(present[:, None])[:, 0]
    np.testing.assert_allclose(fitted().apply(COLUMNS)[[0, 1, 3], 0], expected, rtol=1e-6)


def test_a_missing_value_is_the_mean_and_says_so():
    row = dict(zip(fitted().names, fitted().apply(COLUMNS)[2].tolist(), strict=True))
    assert (row["age"], row["age_missing"]) == (0.0, 1.0)
    assert row["ward_missing"] == 1.0


def test_a_level_is_one_column_and_an_unknown_one_is_none():
    names = fitted().names
    assert [name for name in names if name.startswith("ward=")] == ["ward=a", "ward=b"]
    block = fitted().apply(COLUMNS)[:, [names.index("ward=a"), names.index("ward=b")]]
    assert block.tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]


def test_there_is_never_a_nan():
    assert np.isfinite(fitted().apply(COLUMNS)).all()


def test_a_constant_feature_is_not_divided_by_nothing():
    flat = fitted(variance={"age": 0.0, "dose": 1.0})
    assert flat.apply(COLUMNS)[0, 0] == pytest.approx(40 - 60, rel=1e-6)


def test_it_survives_json_to_the_last_bit():
    again = Preprocessor.from_json(fitted().to_json())
    assert again == fitted()
    assert again.digest == fitted().digest


def test_what_is_no_preprocessor_is_refused():
    with pytest.raises(SettingError, match="the preprocessor"):
        Preprocessor.from_json({"spec": "x"})


def test_a_feature_without_a_column_is_refused_by_name():
    with pytest.raises(DataError, match="found none for dose"):
        fitted().apply({"age": COLUMNS["age"], "ward": COLUMNS["ward"]})


def test_a_scaling_from_the_spec_alone_goes_by_bins_and_else_by_the_range():
    spec = FeatureSpec(
        name="public",
        features=(
            Feature(name="age", range=(0, 120), bins=(40.0, 60.0, 70.0, 100.0)),
            Feature(name="dose", transform="log", range=(1.0, float(np.exp(6)))),
            Feature(name="smoker", kind="binary"),
            Feature(name="ward", kind="categorical", levels=("a", "b")),
        ),
    )
    found = Preprocessor.from_spec(spec)
    age, dose, smoker, ward = found.features
    assert (age.mean, age.sd) == (65.0, 15.0)
    assert (dose.mean, dose.sd) == (pytest.approx(3.0), pytest.approx(1.0))
    assert (smoker.mean, smoker.sd) == (0.5, 0.5)
    assert ward.levels == ("a", "b")


def test_a_feature_of_which_nothing_is_known_cannot_be_scaled_without_asking_anybody():
    with pytest.raises(SettingError, match="age must have bins or a range"):
        Preprocessor.from_spec(FeatureSpec(name="bare", features=(Feature(name="age"),)))


def test_a_series_carries_the_last_value_on_and_says_since_when():
    series = Series(name="pulse", mean=80.0, sd=10.0, steps=4)
    found = series.encode(np.array([[np.nan, 90.0, np.nan, 70.0], [np.nan] * 4]))
    np.testing.assert_allclose(found[0, :, 0], [0, 1, 1, -1])
    np.testing.assert_array_equal(found[0, :, 1], [0, 1, 0, 1])
    np.testing.assert_allclose(found[0, :, 2], [0, 0, 0.25, 0])
    np.testing.assert_allclose(found[1], [[0, 0, 0], [0, 0, 0.25], [0, 0, 0.5], [0, 0, 0.75]])


def test_series_stand_at_the_end_of_a_row_step_after_step():
    spec = FeatureSpec(
        name="s",
        features=(
            Feature(name="pulse", kind="series", range=(0, 200), window_h=(0, 2)),
            Feature(name="age", range=(0, 100)),
            Feature(name="spo2", kind="series", range=(0, 100), window_h=(0, 2)),
        ),
    )
    made = Preprocessor.from_spec(spec)
    assert made.names == (
        "age", "age_missing",
        "pulse@0", "pulse@0_seen", "pulse@0_since", "spo2@0", "spo2@0_seen", "spo2@0_since",
        "pulse@1", "pulse@1_seen", "pulse@1_since", "spo2@1", "spo2@1_seen", "spo2@1_since",
    )  # fmt: skip
    columns = {"pulse": np.array([[100.0, np.nan]]), "age": np.array([50.0]), "spo2": np.array([[np.nan, 50.0]])}
    assert made.apply(columns).tolist() == [[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0.5, 0, 1, 0]]
    assert Preprocessor.from_json(made.to_json()) == made


def test_a_column_that_is_no_series_is_refused_as_one():
    with pytest.raises(DataError, match=r"pulse must be a series of 2 steps, found shape \[\]"):
        Series(name="pulse", mean=0.0, sd=1.0, steps=2).encode(np.array([1.0, 2.0]))


def test_series_of_different_lengths_are_refused():
    features = tuple(Feature(name=f"s{h}", kind="series", window_h=(0, h)) for h in (2, 3))
    with pytest.raises(SettingError, match=r"all series must have the same number of steps, found \[2, 3\]"):
        FeatureSpec(name="s", features=features)
