"""From words to configs: which jobs a sweep has."""

from __future__ import annotations

import pytest
from composing import forget_compositions, remember_compositions

from fedhealth.compose import composed, resolved, swept
from fedhealth.core.errors import SettingError


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("seed=1,2,3", ["1", "2", "3"]),
        ("seed=range(5)", ["0", "1", "2", "3", "4"]),
        ("seed=range(1,4)", ["1", "2", "3"]),
        ("seed=range(0,10,4)", ["0", "4", "8"]),
        ("seed=7", ["7"]),
    ],
)
def test_a_seed_is_swept_by_commas_or_by_a_range(word, values):
    assert swept([word]) == [[f"seed={value}"] for value in values]


def test_a_sweep_is_every_combination_the_last_word_turning_fastest():
    jobs = swept(["experiment=smoke", "seed=range(1,3)", "strategy=fedavg,fedadagrad", "model.hidden=[64,32]"])
    assert [job[1:3] for job in jobs] == [
        ["seed=1", "strategy=fedavg"],
        ["seed=1", "strategy=fedadagrad"],
        ["seed=2", "strategy=fedavg"],
        ["seed=2", "strategy=fedadagrad"],
    ]
    assert {(job[0], job[3]) for job in jobs} == {("experiment=smoke", "model.hidden=[64,32]")}


def test_a_range_without_a_number_in_it_is_refused():
    with pytest.raises(SettingError, match=r"at least one value, found none in seed=range\(3,1\)"):
        swept(["seed=range(3,1)"])


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=smoke", "+source={kind: synthetic, size: 300}", "~strategy.fraction_train", "rounds=7"],
        ["model=mlp", "model.hidden=[3]", "strategy=ditto", "++strategy.strength=3"],
        ["strategy=ditt"],
    ],
    ids=lambda words: words[0],
)
def test_what_tests_remember_of_a_composition_makes_the_config_that_hydra_makes(words):
    def made() -> str:
        try:
            return str(resolved(composed(words)))
        except SettingError as error:
            return str(error)

    # Twice, since what is remembered is copied at the first time and must stay as it was at the second.
    remembered = made(), made()
    forget_compositions()
    try:
        assert remembered == (hydras := made(), hydras)
    finally:
        remember_compositions()
