"""The line to a coordinator: a call is repeated while it can't be reached, and a refusal is said in words.

Flower's own clients end the process by a signal where a call is refused. Here a refusal is
an error like any other, and whoever called decides.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import httpx

from fedhealth.core.errors import FedHealthError

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 3.0
#: Answers of a server that is starting, ending or overloaded.
PASSING = frozenset({500, 502, 503, 504})


class Unreachable(FedHealthError):
    """The coordinator could not be reached for as long as it was tried."""


class NotAdmitted(FedHealthError):
    """The coordinator knows the caller, or its token, not or no longer."""

    exit_code: ClassVar[int] = 3


class RunOver(FedHealthError):
    """The run that a call is for has ended."""


class Declined(FedHealthError):
    """The coordinator understood a call and won't do it."""


@dataclass(slots=True)
class Line:
    """Calls over a network that comes and goes. It has the shape of Flower's retry invoker, and takes its place.

    Attributes:
        patience_s: for how long a call is repeated; 0 for once.
        broken: how many calls had to be repeated: what they asked for may have been done, and
            its answer lost.
    """

    patience_s: float
    broken: int = 0

    def invoke(self, target: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:  # noqa: ANN401 - any call
        """What the call gives.

        Raises:
            NotAdmitted: it was refused for who made it.
            RunOver: its run has ended.
            Declined: it was refused for what it asks.
            Unreachable: nobody answered.
        """
        deadline, pause = time.monotonic() + self.patience_s, FIRST_PAUSE_S
        while True:
            try:
                return target(*args, **kwargs)
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in PASSING or time.monotonic() >= deadline:
                    raise _refusal(error) from None
            except httpx.TransportError as error:
                if _is_untrusted(error):
                    raise NotAdmitted(
                        f"a coordinator must show a certificate of its own authority over TLS 1.3, found {_reason(error)}. "
                        "Compare fingerprints with the coordinator, and make the hospital's settings anew."
                    ) from None
                if time.monotonic() >= deadline:
                    raise Unreachable(
                        f"a coordinator must answer within {self.patience_s:g} s, found {_reason(error)}. "
                        "Check that it runs, the network and the proxy."
                    ) from None
                self.broken += 1
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def go_straight(address: str) -> None:
    """From now on call a host of this machine's without the proxy that the environment may name for others."""
    host = address.rpartition(":")[0].strip("[]")
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if known != "*" and host not in known.split(","):
        os.environ["no_proxy"] = f"{known},{host}".lstrip(",")


def _refusal(error: httpx.HTTPStatusError) -> FedHealthError:
    status, said = error.response.status_code, _said(error.response)
    if status == httpx.codes.UNAUTHORIZED:
        return NotAdmitted(
            "a caller must be known to the coordinator, found one whose token or key it does not take, or whose clock "
            "is wrong. Have it issued or enrolled, or set the clock."
        )
    if status == httpx.codes.FORBIDDEN and said.startswith("the role "):
        return NotAdmitted(f"a caller's role must allow what it asks for, found that {said}. Ask with another token.")
    if status == httpx.codes.FORBIDDEN:
        return RunOver(f"a run must be going on for this, found that it has ended: {said}.")
    return Declined(f"a coordinator must be able to do what it is asked, found status {status}: {said}. See its log.")


def _said(response: httpx.Response) -> str:
    """The words in an answer, cut short: they are somebody else's."""
    try:
        found = response.json()
        words = found.get("message") or found.get("detail") or found if isinstance(found, dict) else found
    except ValueError:
        words = response.text
    return " ".join(str(words).split()).rstrip(".")[:200] or "no reason given"


def _is_untrusted(error: httpx.TransportError) -> bool:
    return any(word in str(error).lower() for word in ("certificate", "tlsv1", "protocol version", "wrong version"))


def _reason(error: httpx.TransportError) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:200].rstrip(".")
