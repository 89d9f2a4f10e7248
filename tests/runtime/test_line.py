"""The line: repeated while nobody answers, and a refusal is an error in words that ends no process."""

from __future__ import annotations

from urllib.request import proxy_bypass

import httpx
import pytest

from fedhealth.runtime.deployment import line as module
from fedhealth.runtime.deployment.line import Declined, Line, NotAdmitted, RunOver, Unreachable


def answering(*answers):
    """A call that gives one after the other: an exception, or the status of an HTTP answer."""
    left = list(answers)

    def call():
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        response = httpx.Response(answer, json={"message": "the words"}, request=httpx.Request("POST", "https://there"))
        response.raise_for_status()
        return answer

    return call


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.0)


def test_a_call_is_repeated_until_it_is_answered_and_says_that_an_answer_may_be_lost():
    line = Line(10)
    assert line.invoke(answering(httpx.ConnectError("refused"), 503, httpx.ReadError("cut"), 200)) == 200
    assert line.broken == 2


@pytest.mark.parametrize(("status", "error"), [(401, NotAdmitted), (403, RunOver), (412, Declined), (404, Declined)])
def test_a_refusal_is_said_once_and_the_process_goes_on(status, error):
    # Flower's own invoker would send this process a signal for the first of them.
    with pytest.raises(error):
        Line(10).invoke(answering(status))


def test_nobody_there_is_an_error_once_patience_is_over():
    with pytest.raises(Unreachable, match="must answer within 0 s, found ConnectError refused. Check"):
        Line(0).invoke(answering(httpx.ConnectError("refused")))


def test_a_call_within_the_machine_goes_by_no_proxy_and_others_still_do(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "intranet")
    module.go_straight("127.0.0.1:9443")
    assert [proxy_bypass(host) for host in ("127.0.0.1", "intranet", "far.example")] == [1, 1, 0]


def test_a_certificate_of_somebody_elses_is_not_tried_again():
    with pytest.raises(NotAdmitted, match="a certificate of its own authority"):
        Line(10).invoke(answering(httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] unable to get issuer")))
