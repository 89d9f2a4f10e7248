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


@pytest.mark.parametrize("sign", ["\x00", "\x1b[31m", "\x7f", "\x85", "\ud800", "\uffff"])
def test_a_control_character_is_refused_wherever_it_stands(sign):
    for change in ({"name": f"a{sign}"}, {"source": {"x": ["y", {"z": sign}]}}, {"source": {f"x{sign}": 1}}):
        with pytest.raises(SettingError, match="x.yaml: words must be free of control characters, found one in"):
            read(House, {**GOOD, **change}, where="x.yaml")


def test_a_tab_and_the_end_of_a_line_are_no_control_characters():
    assert read(House, {**GOOD, "name": "a\tb\r\nc ü\u00a0μ 😀"}, where="x.yaml").name


def test_a_block_that_holds_itself_is_no_endless_search():
    source = {"kind": "csv"}
    source["self"] = source
    assert read(House, {**GOOD, "source": source}, where="x.yaml").source["kind"] == "csv"
