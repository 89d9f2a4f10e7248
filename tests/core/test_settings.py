"""A setting that is missing is answered with what to write."""

from dataclasses import field
from typing import Any

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import read, settings


@settings
class Ward:
    beds: int
    open: bool = True


@settings
class House:
    name: str
    wards: dict[str, Ward]
    first: Ward
    others: tuple[Ward, ...]
    source: dict[str, Any] = field(metadata={"example": "{kind: csv}"})


GOOD = {"name": "x", "wards": {}, "first": {"beds": 1}, "others": [], "source": {}}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"name": None}, "x.yaml: `name` must be set, found nothing. Write name: <words>."),
        ({"first": None}, "`first` must be set, found nothing. Write first: {beds: <whole number>}."),
        ({"first": {}}, "`first.beds` must be set, found nothing. Write first: {beds: <whole number>}."),
        ({"wards": {"east": {}}}, "`wards.east.beds` must be set, found nothing. Write east: {beds: <whole number>}."),
        ({"others": None}, "`others` must be set, found nothing. Write others: [{beds: <whole number>}]."),
        ({"others": [{}]}, "`others.0.beds` must be set, found nothing. Write beds: <whole number>."),
        ({"source": None}, "`source` must be set, found nothing. Write source: {kind: csv}."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_missing_key_is_answered_with_an_example(change, line):
    found = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(SettingError) as error:
        read(House, found, where="x.yaml")
    assert line in str(error.value)
