import hashlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.core.errors import Refused, SettingError
from fedhealth.core.features import Feature, FeatureSpec, Group
from fedhealth.core.manifest import load_manifest
from fedhealth.core.measure import Measure, not_estimable
from fedhealth.core.parts import build
from fedhealth.core.seeds import chosen, rng_of, seed_of
from fedhealth.core.study import digest, packed, unpacked
from fedhealth.places import builtin_sites, site_names

GOOD = """
name: x
title: X
source: {kind: synthetic, size: 300}
policy: {min_patients: 50, min_cell: 10, min_cohort: 3}
"""


def written(tmp_path, text):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "site.yaml").write_text(text)
    return tmp_path / "x"


def test_a_good_manifest_is_read(tmp_path):
    assert load_manifest(written(tmp_path, GOOD)).policy.min_cell == 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("title: X", "title: X\ncolour: red"), "`colour` is not a key here"),
        (
            ("min_cell: 10, ", ""),
            "`policy.min_cell` must be set, found nothing. Write policy: {min_patients: 20, min_cell: 10, min_cohort: 3}.",
        ),
        (("source: {kind: synthetic, size: 300}", ""), "Write source: {kind: csv, path: patients.csv}."),
        (("min_cohort: 3", "min_cohort: 2"), "policy.min_cohort must be at least 3, found 2"),
        (("min_cell: 10", "min_cell: -1"), "policy.min_cell must be at least 1, found -1"),
        (("min_cell: 10", "min_cell: few"), "`policy.min_cell` should be a valid integer"),
        (("name: x", "name: y"), "`name` must be its folder's name x, found y"),
        (("kind: synthetic, ", ""), "source.kind must be named, found none"),
        (("title: X", "title: [X"), "must be YAML, found a fault at line"),
        (("title: X", "title: 2020-13-45"), "must be YAML, found a ValueError in it. Quote its values"),
        (("title: X", "title: !!int many"), "must be YAML, found a ValueError in it"),
        (("title: X", f"title: {'[' * 5000}"), "must be YAML, found a RecursionError in it"),
    ],
    ids=lambda value: value[1][:40] if isinstance(value, tuple) else None,
)
def test_a_wrong_manifest_is_refused_in_one_line(tmp_path, change, words):
    with pytest.raises(SettingError) as error:
        load_manifest(written(tmp_path, GOOD.replace(*change)))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_policy_that_the_remedy_shows_is_a_good_one(tmp_path):
    with pytest.raises(SettingError) as error:
        load_manifest(written(tmp_path, GOOD.replace("policy: {min_patients: 50, min_cell: 10, min_cohort: 3}", "")))
    shown = str(error.value).partition("Write ")[2].rstrip(".")
    (tmp_path / "x" / "site.yaml").write_text(
        GOOD.replace("policy: {min_patients: 50, min_cell: 10, min_cohort: 3}", shown)
    )
    assert load_manifest(tmp_path / "x").policy.min_patients == 20


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_manifest_in_another_encoding_is_refused_in_one_line(tmp_path, encoding):
    folder = written(tmp_path, GOOD)
    (folder / "site.yaml").write_bytes(GOOD.replace("title: X", "title: Hôpital").encode(encoding))
    with pytest.raises(
        SettingError, match=r"^\S+site.yaml must be text in UTF-8, found a byte at position \d+ that is"
    ):
        load_manifest(folder)


def test_the_mark_that_some_editors_put_before_utf_8_is_no_fault(tmp_path):
    folder = written(tmp_path, GOOD)
    (folder / "site.yaml").write_bytes(GOOD.encode("utf-8-sig"))
    assert load_manifest(folder).name == "x"


@pytest.mark.parametrize("name", site_names(builtin_sites()))
def test_every_built_in_hospital_has_a_readable_manifest(name):
    assert load_manifest(builtin_sites() / name).description


def test_an_unknown_hospital_gets_the_nearest_name():
    with pytest.raises(SettingError, match="Did you mean norrvik"):
        load_manifest(builtin_sites() / "norvik")


def test_a_stream_depends_on_its_whole_name():
    base = seed_of(7, purpose="batches", round_=1, site="a")
    others = [seed_of(8, purpose="batches", round_=1, site="a"), seed_of(7, purpose="split", round_=1, site="a"),
              seed_of(7, purpose="batches", round_=2, site="a"), seed_of(7, purpose="batches", round_=1, site="b")]  # fmt: skip
    assert len({base, *others}) == 5
    assert rng_of(7, purpose="x").random() == rng_of(7, purpose="x").random()


def test_names_do_not_collide_by_concatenation():
    assert seed_of(1, round_=12, purpose="x") != seed_of(11, round_=2, purpose="x")


@given(st.sets(st.text("abcdef", min_size=1), min_size=4, max_size=30), st.floats(0.2, 1.0), st.integers(1, 50))
def test_leaving_one_hospital_out_changes_no_others_turn(names, fraction, round_):
    gone = min(names)
    whole = chosen(names, fraction, seed=7, round_=round_, at_least=0)
    rest = chosen(names - {gone}, fraction, seed=7, round_=round_, at_least=0)
    assert rest == [name for name in whole if name != gone]


def test_a_hospitals_ticket_is_the_hash_of_its_own_name():
    def ticket(name):
        parts = (
            f"1:72:12{len(name)}:{name}6:sample"  # seed 7, round 12, the hospital, the purpose, each behind its length
        )
        return Fraction(int.from_bytes(hashlib.sha256(parts.encode()).digest()[:8], "big"), 2**64)

    names = ["ash", "elm", "Ålesund", *(f"site-{i}" for i in range(200))]

    assert chosen(names, 0.4, seed=7, round_=12) == sorted(name for name in names if ticket(name) < Fraction(0.4))
    assert chosen(names, 0.0, seed=7, round_=12, at_least=5) == sorted(sorted(names, key=ticket)[:5])
    assert seed_of(7, purpose="sample", round_=12, site="Ålesund") == ticket("Ålesund") * 2**64


def test_the_share_of_hospitals_is_met_in_expectation():
    names = [f"site-{i}" for i in range(2000)]
    assert abs(len(chosen(names, 0.3, seed=7, round_=1)) / 2000 - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2000)


def test_too_few_are_filled_up_by_the_lowest_tickets():
    names = [f"site-{i}" for i in range(10)]
    assert len(chosen(names, 0.0001, seed=7, round_=1, at_least=3)) == 3
    assert set(chosen(names, 0.0001, seed=7, round_=1, at_least=3)) < set(
        chosen(names, 0.0001, seed=7, round_=1, at_least=4)
    )


def test_a_study_survives_its_packing():
    document = {"b": [1, 2.5, None], "a": "Zürich 'quoted' \"twice\""}
    assert unpacked(packed(document)) == document
    assert digest(document) == digest(dict(reversed(document.items())))


@pytest.mark.parametrize("text", ["", "???", "WzFd", "bm8="])
def test_what_is_no_packed_study_is_refused(text):
    with pytest.raises(SettingError, match="a study must"):
        unpacked(text)


def test_a_part_from_outside_its_room_is_refused():
    with pytest.raises(Refused, match="must name a part of fedhealth.privacy, found 'os.system'"):
        build({"_target_": "os.system", "command": "true"}, where="privacy", room="fedhealth.privacy")


def test_a_room_is_not_its_namesake():
    with pytest.raises(Refused):
        build({"_target_": "fedhealth.privacy_evil.Plain"}, where="privacy", room="fedhealth.privacy")


def test_a_part_within_a_part_is_held_to_the_same_room():
    spec = {"_target_": "fedhealth.privacy.plain.Plain", "inner": {"_target_": "os.getcwd"}}
    with pytest.raises(Refused):
        build(spec, where="privacy", room="fedhealth.privacy")


def test_a_measure_without_a_value_says_so_and_is_never_zero():
    assert str(not_estimable("one class only")) == "not estimable"
    assert not_estimable("x").to_json()["value"] is None
    assert not Measure.from_json(not_estimable("x").to_json()).is_estimable


def test_a_measure_survives_json():
    measure = Measure(0.8, 0.7, 0.9, "DeLong", "")
    assert Measure.from_json(measure.to_json()) == measure
    assert str(measure) == "0.800 [0.700, 0.900]"


def test_a_column_grouped_in_two_ways_is_refused():
    groups = {"band": Group(column="age", cuts=(50.0,)), "decade": Group(column="age", cuts=(50.0, 60.0))}
    with pytest.raises(SettingError, match="a column may be grouped in one way, found two of age"):
        FeatureSpec(name="s", features=(Feature(name="age"),), groups=groups)
