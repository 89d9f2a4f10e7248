"""YAML texts are read as PyYAML's reader in Python reads them, but for what nests without end."""

from __future__ import annotations

import pytest
import yaml

from fedhealth.core.yaml_text import DEEPEST, text_of, values_in
from fedhealth.places import builtin_sites, configs_folder

FILES = sorted([*configs_folder().rglob("*.yaml"), *builtin_sites().rglob("site.yaml")])


def test_every_file_of_ours_has_the_values_that_python_reads():
    assert len(FILES) > 50
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert values_in(text) == yaml.safe_load(text), path


@pytest.mark.parametrize(
    "text", ["", "a: 2026-01-05", "a: 1e3", "a: .nan ", "a: &x [1]\nb: *x", "- yes\n- 'ä'", "a: 1\na: 2"]
)
def test_a_text_has_the_values_that_python_reads(text):
    assert repr(values_in(text)) == repr(yaml.safe_load(text))


@pytest.mark.parametrize("text", ["[", "a: b: c", "!!python/object/apply:os.getcwd []", "a: *nobody", "--- 1\n--- 2"])
def test_what_python_refuses_is_refused(text):
    for read in (values_in, yaml.safe_load):
        with pytest.raises(yaml.YAMLError):
            read(text)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_what_nests_without_end_is_refused_and_the_process_lives(opening):
    with pytest.raises(RecursionError, match=f"at most {DEEPEST} deep"):
        values_in(opening * 200_000)


def test_as_deep_as_it_may_be_is_read():
    assert str(values_in("[" * DEEPEST + "]" * DEEPEST)) == "[" * DEEPEST + "]" * DEEPEST
    with pytest.raises(RecursionError):
        values_in("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))


def test_what_is_written_has_the_bytes_that_python_writes():
    found = [yaml.safe_load(path.read_text(encoding="utf-8")) or {} for path in FILES]
    words = {
        "title": 'ä — "x": y\'s #1',
        "path": "/a/" + "long " * 40,
        "lines": "one\ntwo\n",
        "n": [None, True, 1e-9, "1"],
    }
    for values in [*found, words]:
        assert text_of(values) == yaml.safe_dump(values, sort_keys=False)
        assert values_in(text_of(values)) == values
