"""A site.yaml that makes no sense is refused in one line."""

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.core.settings import read
from fedhealth.synthetic import Hospital


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "size"),
        ({"size": 0}, "size must lie from 1"),
        ({"size": 100, "consent_rate": -0.1}, "consent_rate must lie from 0 to 1, found -0.1"),
        ({"size": 100, "consent_rat": 0.5}, "Did you mean consent_rate"),
        ({"size": 100, "missing": {"panels": {"vitals": -0.2}}}, "missing.panels.vitals must lie from 0 to 1"),
        ({"size": 100, "missing": {"panels": {"vitales": 0.2}}}, "Did you mean vitals"),
        ({"size": 100, "missing": {"rate_logit": {"lactat": 1}}}, "Did you mean lactate"),
        ({"size": 100, "devices": {"creatinin": {"gain": 1.1}}}, "Did you mean creatinine"),
        ({"size": 100, "devices": {"creatinine": {"gain": 0}}}, "devices.creatinine.gain must lie from 0.1 to 10"),
        ({"size": 100, "casemix": {"female": 1.5}}, "casemix.female must lie from 0 to 1"),
        ({"size": 100, "casemix": {"scheduled": 0.7, "surgical_emergency": 0.6}}, "must lie from 0 to 1, found 1.3"),
        ({"size": 100, "casemix": {"age_min": 80}}, "casemix.age_min"),
        ({"size": 100, "casemix": {"comorbidity": {"gout": 1}}}, "Known: cancer"),
        ({"size": 100, "concept": {"scale": -1}}, "concept.scale must lie from 0 to 1"),
        ({"size": 100, "policy": {"slope": "steep"}}, "policy.slope"),
        ({"size": float("nan")}, "size"),
    ],
)
def test_a_setting_that_breaks_its_rule_is_named(keys, words):
    with pytest.raises(SettingError, match=words) as refusal:
        read(Hospital, keys, where="sites/x/site.yaml")
    assert "\n" not in str(refusal.value)


def test_every_default_is_the_average_hospital():
    assert read(Hospital, {"size": 100}, where="test") == Hospital(size=100)
