"""Privacy events: one text each, and nothing that an accountant could not read."""

from __future__ import annotations

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.core.privacy_event import Gaussian, PoissonSampledGaussian, Unbounded, as_json, event_from

WRITTEN = [
    (
        PoissonSampledGaussian(noise_multiplier=1.1, sampling_rate=0.05, count=20),
        '{"count":20,"kind":"poisson_sampled_gaussian","noise_multiplier":1.1,"sampling_rate":0.05}',
    ),
    (Gaussian(noise_multiplier=20.0), '{"count":1,"kind":"gaussian","noise_multiplier":20.0}'),
    (Unbounded(), '{"kind":"unbounded"}'),
]


@pytest.mark.parametrize(("event", "text"), WRITTEN, ids=lambda part: type(part).__name__)
def test_an_event_has_one_text_and_comes_back_from_it(event, text):
    assert as_json(event) == text
    assert event_from(text) == event


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", '{"count":1}', '{"kind":"laplace"}', '{"kind":["gaussian"]}', '{"kind":"gaussian"}',
     '{"kind":"gaussian","noise_multiplier":1,"seed":3}', '{"kind":"gaussian","noise_multiplier":NaN}'],
)  # fmt: skip
def test_what_no_accountant_knows_is_refused(text):
    with pytest.raises(SettingError) as refusal:
        event_from(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("noise", [0.0, -1.0, float("inf"), float("nan"), 1e-7, 1e10])
def test_no_noise_is_not_an_event_with_noise(noise):
    with pytest.raises(SettingError, match="noise_multiplier"):
        Gaussian(noise_multiplier=noise)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01, float("nan"), 1e-10])
def test_a_sampling_rate_is_a_chance(rate):
    with pytest.raises(SettingError, match="sampling_rate"):
        PoissonSampledGaussian(noise_multiplier=1.0, sampling_rate=rate)


@pytest.mark.parametrize("count", [0, 10**7 + 1])
def test_an_event_happened_at_least_once_and_not_without_end(count):
    with pytest.raises(SettingError, match="count"):
        Gaussian(noise_multiplier=1.0, count=count)
