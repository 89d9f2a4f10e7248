import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.core.errors import SettingError
from fedhealth.core.split import Split

PATIENTS = np.array([f"p{i}" for i in range(5000)])


def test_the_shares_are_met():
    parts = Split(train=0.6, validation=0.1, test=0.3).assign(PATIENTS, seed=1, site="a")
    for name, share in (("train", 0.6), ("validation", 0.1), ("test", 0.3)):
        assert abs((parts == name).mean() - share) < 4 * np.sqrt(share * (1 - share) / len(PATIENTS))


@given(st.sets(st.integers(0, 4999), min_size=1, max_size=50))
def test_a_patient_who_leaves_moves_no_other(gone):
    stay = np.ones(len(PATIENTS), dtype=bool)
    stay[list(gone)] = False
    whole = Split().assign(PATIENTS, seed=1, site="a")
    np.testing.assert_array_equal(Split().assign(PATIENTS[stay], seed=1, site="a"), whole[stay])


def test_seed_and_hospital_name_the_split():
    base = Split().assign(PATIENTS, seed=1, site="a")
    assert (base != Split().assign(PATIENTS, seed=2, site="a")).any()
    assert (base != Split().assign(PATIENTS, seed=1, site="b")).any()


def test_a_share_of_nothing_gets_nobody():
    parts = Split(train=0.5, validation=0.0, test=0.5).assign(PATIENTS, seed=1, site="a")
    assert not (parts == "validation").any()


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(SettingError, match="must be at least 0 and sum to 1"):
        Split(train=shares[0], validation=shares[1], test=shares[2])


@pytest.mark.parametrize("shares", [(0.0, 0.5, 0.5), (0.8, 0.2, 0.0)])
def test_somebody_trains_and_somebody_tests(shares):
    with pytest.raises(SettingError, match="train and test must have a share above 0 each, found"):
        Split(train=shares[0], validation=shares[1], test=shares[2])


def test_five_turns_of_a_fifth_test_every_patient_once():
    patients = np.array([f"p{i}" for i in range(2000)])
    turned = [Split(train=0.8, validation=0.0, test=0.2, turn=k / 5) for k in range(5)]
    tested = np.array([split.assign(patients, seed=3, site="ash") == "test" for split in turned])
    assert (tested.sum(axis=0) == 1).all()
    assert all(abs(share - 0.2) < 0.03 for share in tested.mean(axis=1))


def test_a_turn_is_a_share_of_the_whole():
    with pytest.raises(SettingError, match=r"`split.turn` must lie in \[0, 1\), found 1"):
        Split(turn=1.0)
