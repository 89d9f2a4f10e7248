"""Which parts a private study may have, said before anything runs."""

from __future__ import annotations

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.simulate import checked

PRIVATE = ("privacy=dp_sgd", "privacy.epsilon=null", "privacy.noise_multiplier=1")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["strategy=newton"], "found strategy NewtonServer"),
        (["strategy=afl"], "found strategy AflServer"),
        (["strategy=qfedavg"], "found strategy QFedAvg"),
        (["strategy=apfl"], "learns from patients in other ways"),
        (["strategy=finetune"], "learns from patients in other ways"),
        (["strategy=scaffold", "strategy.option=I"], "scaffold with option II"),
        (["model=mlp", "model.normalisation=batch"], "found batch normalisation.*model.normalisation=layer"),
        (["task=survival", "model=cox"], "whose partial likelihood compares them"),
        (["secagg=masked"], "whose counts are noisy"),
        (["training.clip_norm=1"], "Use privacy.max_grad_norm alone"),
        (["rules.patience=2"], "needs looks at validation patients"),
        (["privacy.epsilon=0.3", "privacy.noise_multiplier=null"], "must leave something for training"),
        (["privacy.epsilon=1"], "found both"),
        (["+privacy.budget=1"], "budget"),
    ],
)
def test_a_part_that_has_no_private_form_is_refused_by_name(smoke, words, found):
    with pytest.raises(SettingError, match=found):
        checked(smoke(*PRIVATE, *words))


@pytest.mark.parametrize(
    "words",
    [
        ["strategy=scaffold"],
        ["strategy=fedper", "model=mlp"],
        ["strategy=krum", "strategy.num_malicious_nodes=0"],
        ["model=mlp", "model.normalisation=layer"],
        ["rules.patience=2", "privacy.evaluate_every=1"],
    ],
)
def test_a_part_that_has_one_is_not(smoke, words):
    assert checked(smoke(*PRIVATE, *words)).study.score_bins == 20
