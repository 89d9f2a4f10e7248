from dataclasses import replace

import pytest

from fedhealth.core.errors import REFUSALS, Refused
from fedhealth.core.manifest import load_manifest
from fedhealth.governance.approval import OneStudy
from fedhealth.places import builtin_sites
from fedhealth.privacy.distributed import Distributed
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.plain import Plain
from fedhealth.privacy.release import Release
from fedhealth.site.cohort import load_cohort
from fedhealth.site.gate import open_round
from fedhealth.site.memory import Memory

NAME = "harrow-fen"


@pytest.fixture
def ask(smoke_study, tmp_path):
    folder = builtin_sites() / NAME
    manifest = load_manifest(folder)
    study = smoke_study
    cohort, _ = load_cohort(manifest, folder, spec=study.features, task=study.task, split=study.split, seed=study.seed)

    def opened(study=study, digest="a" * 64, purpose="train", mechanism=None, is_masked=False, **policy):
        changed = replace(manifest, policy=replace(manifest.policy, **policy))
        return open_round(
            changed, study, cohort, Memory(tmp_path),
            digest=digest, approved=OneStudy("a" * 64), is_masked=is_masked, round_=1, purpose=purpose,
            mechanism=mechanism or Plain(), ledger=Ledger(tmp_path / "ledger.sqlite"),
        )  # fmt: skip

    return opened


def test_an_approved_study_gets_a_permit(ask):
    assert ask().round_ == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"digest": "b" * 64}, "study_changed"),
        ({"paused": True}, "paused"),
        ({"require_masking": True}, "masking_required"),
        ({"min_cohort": 4}, "too_few_sites"),
        ({"min_patients": 10_000}, "cohort_too_small"),
        ({"purpose": "query.margins"}, "not_private"),
    ],
)
def test_a_rule_that_does_not_hold_refuses_by_its_code(ask, change, code):
    with pytest.raises(Refused) as refused:
        ask(**change)
    assert refused.value.code == code
    assert code in REFUSALS
    assert refused.value.exit_code == 3


@pytest.mark.parametrize(("most", "code"), [(10, "weight_out_of_range"), (131_072, None)])
def test_a_study_with_shared_noise_takes_no_hospital_larger_than_it_allows_for(ask, smoke_study, most, code):
    """For so many patients it bounds how their gradients round."""
    study = replace(
        smoke_study, secagg={"weight_max": most}, strategy={"_target_": "fedhealth.strategies.fedsgd.FedSgd"}
    )
    mechanism = Distributed(epsilon=None, noise_multiplier=1.0, delta=1e-6)
    asked = {"study": study, "mechanism": mechanism, "is_masked": True, "purpose": "query.shape"}
    if code is None:
        assert ask(**asked).study is study
        return
    with pytest.raises(Refused) as refused:
        ask(**asked)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("mechanism", "is_allowed"),
    [(Release(epsilon=9), True), (Release(epsilon=20), False), (Release(epsilon=1, insecure_seed=1), False)],
)
def test_counts_of_pairs_whose_noise_hides_nothing_are_refused(ask, mechanism, is_allowed):
    asked = {"mechanism": mechanism, "is_masked": True, "purpose": "query.margins", "delta": 1e-6}
    if is_allowed:
        assert ask(**asked).round_ == 1
        return
    with pytest.raises(Refused, match="epsilon of at most 10") as refused:
        ask(**asked)
    assert refused.value.code == "not_private"


def test_every_refusal_has_words_for_the_coordinator():
    assert all(words and not any(char.isdigit() for char in words) for words in REFUSALS.values())
