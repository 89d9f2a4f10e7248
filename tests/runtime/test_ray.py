"""The settings of Ray, and what is said where it can't start. Whole studies on it: tests/test_on_ray.py."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from fedhealth import cli
from fedhealth.core.errors import FedHealthError, SettingError
from fedhealth.runtime.ray import Job, Ray
from fedhealth.simulate import checked


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"cpus_per_site": 0}, "`cpus_per_site` must be at least 1, found 0"),
        ({"cpus": 1, "cpus_per_site": 2}, "`cpus` must be at least cpus_per_site=2, found 1"),
        ({"cpus": 2, "address": "auto"}, "`cpus` must be null with an `address`, found 2"),
        ({"address": "ray://head:10001"}, "`address` must be host:port or auto, found 'ray://head:10001'"),
        ({"address": "head"}, "`address` must be host:port or auto, found 'head'"),
        ({"start_timeout_s": 0.0}, "`start_timeout_s` must be above 0 seconds, found 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_wrong_setting_gets_one_helpful_line(settings, line):
    with pytest.raises(SettingError) as caught:
        Ray(**settings)
    assert line in str(caught.value)


def test_ray_gets_no_more_cores_than_the_hospitals_can_use_or_the_machine_has():
    there = os.cpu_count()
    assert Ray()._cpus(nodes=1) == 1
    assert Ray()._cpus(nodes=10_000) == there
    assert Ray(cpus=64)._cpus(nodes=1) == 64
    assert Ray(address="auto")._cpus(nodes=1) is None
    with pytest.raises(SettingError, match=f"must be at most this machine's cores {there}"):
        Ray(cpus_per_site=there + 1)._cpus(nodes=1)


def test_without_ray_installed_the_line_says_what_to_install_and_nothing_is_left(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    folder = tmp_path / "run"
    code = cli.main(["simulate", "experiment=smoke", "runtime=ray", f"run.folder={folder}"])
    assert (code, capsys.readouterr().err) == (
        2,
        "fedhealth: runtime=ray needs Ray, found none installed. Run: pip install 'fedhealth[ray]'\n",
    )
    assert not folder.exists()


def test_a_report_on_a_run_on_ray_needs_no_ray(monkeypatch, smoke):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert checked(smoke("runtime=ray")).study.name == "smoke"


def test_an_address_where_nobody_is_gets_one_line():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(SettingError, match=f"must be a Ray's head, found nobody at {address}"):
            Ray(address=address).require()


def test_nothing_phones_home_and_a_ray_of_ones_own_wants_a_token(tmp_path):
    found = Ray()._environment(tmp_path)
    off = ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED")
    assert [found[name] for name in off] == ["0", "0"]
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == found["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert (found["RAY_ADDRESS"], found["RAY_AUTH_MODE"]) == ("local", "token")
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert Ray(address="head:6379")._environment(tmp_path)["RAY_ADDRESS"] == "head:6379"


def test_a_long_private_folder_is_not_given_to_ray_whose_sockets_would_not_fit(tmp_path):
    far = tmp_path / ("x" * 40)
    far.mkdir()
    assert "RAY_TMPDIR" not in Ray()._environment(far)


def job(tmp_path) -> Job:
    return Job(server="none", client="none", run_config={}, nodes=1, log=tmp_path / "flower.log")


@pytest.mark.process
def test_what_does_not_start_in_time_is_ended_and_said(tmp_path):
    with pytest.raises(FedHealthError, match=r"within 0\.2 s, found Flower and Ray still starting"):
        Ray(start_timeout_s=0.2).run(job(tmp_path), watch=lambda row: None)


@pytest.mark.process
def test_an_end_without_results_is_said_with_the_log_to_read(tmp_path):
    with pytest.raises(FedHealthError, match=r"simulation must last .* ended with code 1\. See .*flower\.log"):
        Ray().run(job(tmp_path), watch=lambda row: None)
    assert "Invalid Flower App configuration" in (tmp_path / "flower.log").read_text()
