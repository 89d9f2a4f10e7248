"""What a hospital charges, and what it refuses, before it does anything for a request."""

from __future__ import annotations

import numpy as np
import pytest

from fedhealth.core.errors import IntegrityError, Refused
from fedhealth.core.manifest import Policy, SiteManifest
from fedhealth.core.privacy_event import Gaussian, PoissonSampledGaussian, Unbounded, event_from
from fedhealth.privacy import accountant
from fedhealth.privacy.dp_sgd import DpSgd
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.patient_level import Course
from fedhealth.privacy.plain import Plain
from fedhealth.site.budget import charge

COURSE = Course(rate=0.1, steps=10, noise_multiplier=1.0)


@pytest.fixture
def ask(smoke_study, tmp_path):
    """Ask for a purpose, under a policy; its ledger is `ask.ledger`."""

    def asked(
        purpose="train", *, mechanism=None, course=COURSE, patients=300, digest="a" * 64, is_simulated=False, **policy
    ):
        manifest = SiteManifest(
            name="a-hospital", title="A", source={"kind": "csv"},
            policy=Policy(min_patients=1, min_cell=1, min_cohort=3, **policy),
        )  # fmt: skip
        charge(
            asked.ledger, manifest, smoke_study, mechanism or DpSgd(epsilon=None, noise_multiplier=1.0),
            digest=digest, purpose=purpose, patients=patients, course=course, is_simulated=is_simulated,
        )  # fmt: skip

    asked.ledger = Ledger(tmp_path / "ledger.sqlite")
    return asked


def events(ledger):
    return [event_from(row.event) for row in ledger.rows()]


def test_each_request_is_an_event_of_its_own_on_the_hospitals_one_account(ask):
    ask("query.shape", course=None)
    ask("train")
    ask("evaluate")
    assert events(ask.ledger) == [
        Gaussian(noise_multiplier=10.0),
        PoissonSampledGaussian(noise_multiplier=1.0, sampling_rate=0.1, count=10),
        Gaussian(noise_multiplier=4.0),
    ]
    assert {row.cohort for row in ask.ledger.rows()} == {"a-hospital"}


def test_a_round_that_comes_again_is_charged_again(ask):
    ask()
    ask()
    assert len(ask.ledger.rows()) == 2


def test_a_spent_budget_refuses_the_next_round_of_any_study_and_writes_nothing(ask):
    cap = 1.02 * accountant.epsilon(
        [PoissonSampledGaussian(noise_multiplier=1.0, sampling_rate=0.1, count=20)], Policy(min_patients=1, min_cell=1, min_cohort=3).delta
    )  # fmt: skip
    ask(epsilon_cap=cap)
    ask(epsilon_cap=cap)
    with pytest.raises(Refused, match="spent and .* asked for train") as refused:
        ask(epsilon_cap=cap, digest="b" * 64)
    assert refused.value.code == "budget_spent"
    assert f"{cap:g}" in refused.value.rule
    assert len(ask.ledger.rows()) == 2


@pytest.mark.parametrize("policy", [{}, {"delta": 1 / 300}])
def test_a_delta_of_one_over_the_patients_is_refused(ask, policy):
    mechanism = DpSgd(delta=1e-5 if policy else 1 / 300)
    with pytest.raises(Refused) as refused:
        ask(mechanism=mechanism, **policy)
    assert refused.value.code == "delta_too_large"
    assert ask.ledger.rows() == []
    ask(mechanism=mechanism, patients=299, **policy)


@pytest.mark.parametrize("purpose", ["query.moments", "query.spread"])
def test_sums_that_have_no_private_form_are_refused(ask, purpose):
    with pytest.raises(Refused) as refused:
        ask(purpose, course=None)
    assert refused.value.code == "not_private"
    assert ask.ledger.rows() == []


def test_a_seeded_run_is_charged_as_one_without_noise_so_a_cap_refuses_it(ask):
    seeded = DpSgd(insecure_seed=1)
    ask(mechanism=seeded)
    assert events(ask.ledger) == [Unbounded()]
    with pytest.raises(Refused, match="no bound"):
        ask(mechanism=seeded, epsilon_cap=1000.0)


def test_a_study_without_privacy_is_refused_by_a_hospital_with_a_cap(ask):
    with pytest.raises(Refused) as refused:
        ask(mechanism=Plain(), epsilon_cap=8.0)
    assert refused.value.code == "budget_spent"


def test_a_study_without_privacy_stands_once_in_every_hospitals_ledger(ask):
    for digest in ("a" * 64, "a" * 64, "b" * 64):
        ask(mechanism=Plain(), digest=digest)
    assert events(ask.ledger) == [Unbounded()] * 2
    assert [row.digest[0] for row in ask.ledger.rows()] == ["a", "b"]


def test_a_simulation_without_privacy_makes_no_ledger_but_that_which_the_hospital_names(ask):
    ask(mechanism=Plain(), is_simulated=True)
    assert not ask.ledger.path.exists()
    ask(mechanism=Plain(), is_simulated=True, ledger="own.sqlite")
    assert events(ask.ledger) == [Unbounded()]


def test_a_study_gets_no_more_than_its_own_plan_whatever_the_cap(ask, smoke_study):
    for _ in range(smoke_study.rounds):
        ask()
    with pytest.raises(Refused, match=f"here {smoke_study.rounds} times") as refused:
        ask()
    assert refused.value.code == "study_spent"
    assert len(ask.ledger.rows()) == smoke_study.rounds
    ask(digest="b" * 64)  # another study has a plan of its own


def test_a_broken_ledger_lets_nothing_be_done_and_says_how_to_restore_it(ask):
    ask()
    content = bytearray(ask.ledger.path.read_bytes())
    for path in ask.ledger.path.parent.glob("ledger.sqlite-*"):
        path.unlink()
    at = content.rindex(b"train")
    content[at : at + 5] = b"trian"
    ask.ledger.path.write_bytes(content)
    with pytest.raises(IntegrityError, match="joins no round until it is mended: put back"):
        ask()


def test_no_row_holds_anything_but_what_was_done(ask):
    ask(patients=271)
    assert "271" not in str([row[1:7] for row in ask.ledger.rows()])
    assert np.isfinite(ask.ledger.spent("a-hospital", delta=1e-5).epsilon)
