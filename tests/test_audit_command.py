"""`fedhealth audit-privacy`: a claim beside what attacks find, and a failure where they find something."""

from __future__ import annotations

import numpy as np
import pytest

from fedhealth.cli import main
from fedhealth.simulate import checked, open_run, run

PRIVATE = ("privacy=dp_sgd", "privacy.epsilon=5", "rounds=2")


def test_a_config_is_audited_with_its_claim_beside_the_attacks(capsys):
    assert main(["audit-privacy", "experiment=smoke", *PRIVATE]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in ("claimed for the study: (ε = 5, δ = 1e-05) for a patient", "sensitivity", "noise scale",
                  "repeated noise", "Gaussian canaries", "guessed canaries", "raised no alarm"):  # fmt: skip
        assert words in out


def test_a_run_is_audited_by_its_folder(smoke, capsys):
    simulation = checked(smoke(*PRIVATE, "privacy.sampling_rate=null"))
    store = open_run(simulation)
    run(simulation, store, lambda row: None)
    assert main(["audit-privacy", str(store.folder)]) == 0
    assert "raised no alarm" in " ".join(capsys.readouterr().out.split())


def test_a_mechanism_without_noise_fails_the_audit_by_the_code_of_integrity(monkeypatch, capsys):
    monkeypatch.setattr("fedhealth.site.private_engine.noisy", lambda total, **_: np.asarray(total))
    assert main(["audit-privacy", "experiment=smoke", *PRIVATE]) == 4
    found = capsys.readouterr()
    assert "PRIVACY ALARM" in found.out
    assert "Use no result of it" in found.err


@pytest.mark.parametrize("words", [["experiment=smoke"], ["nowhere"], ["privacy=dp_sgd", "privacy.epsilon=-1"]])
def test_what_makes_no_claim_is_refused_in_one_line(words, capsys):
    assert main(["audit-privacy", *words]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
