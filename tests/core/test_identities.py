"""A masked study's keys: one for each hospital of the roster, readable, and each its own."""

from __future__ import annotations

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.core.study import study_from
from fedhealth.study_document import STUDY_KEYS

GOOD = {"galen-heart": "a" * 64, "harrow-fen": "b" * 64, "port-amity": "c" * 64}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"port-amity": "a" * 64}, "must be keys of their own, found one twice"),
        ({"port-amity": "01" + 31 * "00"}, "`identities.port-amity` must be a key.*found a key of small order"),
        ({"port-amity": "02" + 31 * "00"}, "`identities.port-amity` must be a key.*found no point of the curve"),
        ({"port-amity": 32 * "ff"}, "`identities.port-amity` must be a key.*found a second way to write a key"),
        ({"port-amity": "c" * 63}, "`identities.port-amity` must be a public key of 64 hex digits"),
        ({"port-amity": "C" * 64}, "must be a public key of 64 hex digits"),
        ({"norrvik": "d" * 64}, "one key for each hospital of the roster, found 'norrvik' in one of them only"),
        ({"port-amity": None}, "found 'port-amity' in one of them only"),
    ],
)
def test_keys_that_are_not_one_for_each_hospital_are_refused_without_being_quoted(smoke, change, rule):
    config = smoke()
    keys = {name: key for name, key in (GOOD | change).items() if key is not None}
    with pytest.raises(SettingError, match=rule) as refused:
        study_from({**{key: config[key] for key in STUDY_KEYS}, "roster": config["sites"]["names"], "identities": keys})
    assert "ccc" not in str(refused.value)
    assert "aaa" not in str(refused.value)


def test_keys_for_each_hospital_are_the_studys(smoke):
    config = smoke()
    document = {**{key: config[key] for key in STUDY_KEYS}, "roster": config["sites"]["names"], "identities": GOOD}
    assert study_from(document).identities == GOOD
