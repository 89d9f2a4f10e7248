"""What the server app tells in lines, and what the waiting process hears."""

import pytest

from fedhealth.core.errors import DataError, FedHealthError, IntegrityError, QuorumError, Refused, SettingError
from fedhealth.runtime.told import Listener, error_in, said_of, tell


def test_what_is_told_is_heard_once_and_in_order(tmp_path):
    listener = Listener(tmp_path / "told")
    assert listener.news() == []
    tell(listener.path, "started")
    tell(listener.path, "round", {"round": 1, "auroc": 0.5})
    assert listener.news() == [("started", {}), ("round", {"round": 1, "auroc": 0.5})]
    assert listener.news() == []
    tell(listener.path, "done")
    assert listener.news() == [("done", {})]


def test_half_a_line_waits_for_its_other_half(tmp_path):
    listener = Listener(tmp_path / "told")
    listener.path.write_text('["started", {}]\n["rou')
    assert listener.news() == [("started", {})]
    with listener.path.open("a") as file:
        file.write('nd", {"round": 1}]\n')
    assert listener.news() == [("round", {"round": 1})]


@pytest.mark.parametrize("kind", [FedHealthError, QuorumError, SettingError, DataError, IntegrityError])
def test_an_error_arrives_with_its_class_its_line_and_its_exit_code(kind):
    found = error_in(said_of(kind("the rule, found this. Do that.")))
    assert type(found) is kind
    assert str(found) == "the rule, found this. Do that."


def test_a_refusal_arrives_with_its_code():
    found = error_in(said_of(Refused("paused", rule="a rule", found="this", remedy="Do that.")))
    assert (str(found), found.code, found.exit_code) == ("a rule, found this. Do that.", "paused", 3)


def test_a_full_disk_arrives_as_what_it_was():
    found = error_in(said_of(OSError(28, "No space left on device", "runs/x")))
    assert (found.errno, found.strerror, found.filename) == (28, "No space left on device", "runs/x")


def test_an_error_of_a_class_unknown_here_still_arrives():
    assert type(error_in({"kind": "Other", "args": ["line"], "details": {}})) is FedHealthError
