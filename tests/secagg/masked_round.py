"""A whole round in one place: every message goes through its bytes, and sites get lost where a test says."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Mapping
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.core.errors import Refused
from fedhealth.secagg.protocol.layout import Layout, Reals
from fedhealth.secagg.protocol.messages import unpack
from fedhealth.secagg.protocol.server import ServerSession
from fedhealth.secagg.protocol.site import SiteSession
from fedhealth.secagg.protocol.terms import Terms

STEPS = ("advertise", "share", "mask", "confirm", "reveal")


def names_of(n: int) -> list[str]:
    return [f"site-{i:03d}" for i in range(n)]


def identity_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(random.Random(name).randbytes(32))


def roster_of(names: Collection[str]) -> dict[str, bytes]:
    return {name: identity_of(name).public_key().public_bytes_raw() for name in names}


def terms_of(n: int, *, d: int = 5, bits: int = 32, cohort_max: int | None = None, **change) -> Terms:
    layout = Layout((Reals("model", d - 1, 1.0),) if d > 1 else (), 1000, cohort_max or max(n, 3), bits)
    given = {"min_cohort": 3, "colluders": 0, "round": 1, "study": "study", "task": bytes(32), **change}
    return Terms(**{"roster": roster_of(names_of(n)), "layout": layout, **given})


def seed_of(name: str, seed: int = 0) -> bytes:
    return random.Random(f"{seed} {name}").randbytes(32)


def session(
    terms: Terms, name: str, *, seed: int = 0, floor: int = 3, spare: tuple[tuple[int, bytes], ...] = ()
) -> SiteSession:
    return SiteSession.start(terms, name, identity_of(name), floor=floor, seed=seed_of(name, seed), spare=spare)


def words_of(terms: Terms, name: str) -> np.ndarray:
    """Any words at all: the masks do not care what they hide."""
    rng = np.random.default_rng(int.from_bytes(seed_of(name)[:8], "big"))
    bits = terms.layout.bits
    return rng.integers(0, 2**bits, terms.layout.dimension, dtype=f"u{bits // 8}")


def plain_sum(terms: Terms, names: Collection[str]) -> list[int]:
    """The sum by whole numbers."""
    words = [words_of(terms, name).tolist() for name in names]
    return [sum(column) % 2**terms.layout.bits for column in zip(*words, strict=True)]


def passed(message):
    """The message after a journey as bytes."""
    received = unpack(message.pack())
    assert received.pack() == message.pack()
    return received


def refusal(step: Callable[..., object], *given, **more) -> str:
    """The code with which a step is refused; "" where it is not."""
    try:
        step(*given, **more)
    except Refused as refused:
        return refused.code
    return ""


@cache
def _up_to(step: str) -> MaskedRound:
    masked = MaskedRound(terms_of(5))
    masked.until(step)
    return masked


def round_at(step: str) -> MaskedRound:
    """A round of five sites with everything before this step done, to go on with."""
    return _up_to(step).fork()


class MaskedRound:
    """All sessions of a round.

    `refusals` has the code with which a site left, `transcript` every message of a site.
    """

    def __init__(
        self,
        terms: Terms,
        *,
        seed: int = 0,
        threads: int = 1,
        spare: Mapping[str, tuple[tuple[int, bytes], ...]] | None = None,
    ) -> None:
        self.terms, self.threads = terms, threads
        first = next(iter((spare or {"": ()}).values()))
        self.server = ServerSession(
            terms, seed=seed_of("coordinator", seed), threads=threads, spare_from=tuple(least for least, _ in first)
        )
        self.sites = {name: session(terms, name, seed=seed, spare=(spare or {}).get(name, ())) for name in terms.names}
        self.asked: dict[str, tuple] = dict.fromkeys(terms.names, ())
        self.total: np.ndarray | None = None
        self.refusals: dict[str, str] = {}
        self.transcript: list[bytes] = []

    def run(self, lost: Mapping[str, Collection[str]] | None = None) -> list[int]:
        """The whole round; `lost` says by step who sends nothing from there on.

        Raises:
            Refused: by the coordinator.
        """
        return self.until(None, lost).tolist()

    def until(self, step: str | None, lost: Mapping[str, Collection[str]] | None = None, *, tolerant: bool = False):
        """All steps from here to this one; all that are left, and the sum, where it is None."""
        for now in STEPS[self.server.phase : STEPS.index(step) if step else None]:
            self.one(now, (lost or {}).get(now, ()), tolerant=tolerant)
        return self.total

    def one(self, step: str, without: Collection[str] = (), *, tolerant: bool = False) -> None:
        """One step of everyone; a tolerant coordinator goes on without whoever it refuses."""
        for name, message in self.messages(step, without).items():
            try:
                self.server.take(name, message)
            except Refused as refused:
                if not tolerant:
                    raise
                self.refusals[name] = refused.code
        self.close()

    def messages(self, step: str, without: Collection[str] = ()) -> dict:
        """One step of every site that is asked for it, but for some; and of each what it sends."""
        found = {name: self.act(name, step, *self.asked[name]) for name in sorted(set(self.asked) - set(without))}
        return {name: message for name, message in found.items() if message is not None}

    def act(self, name: str, step: str, *given):
        """One step of one site: what it sends, or None where it refuses."""
        more = (words_of(self.terms, name),) if step == "mask" and len(given) == 1 else ()
        threads = {"threads": self.threads} if step == "mask" else {}
        try:
            message = getattr(self.sites[name], step)(*given, *more, **threads)
        except Refused as refused:
            self.refusals[name] = refused.code
            return None
        self.transcript.append(message.pack())
        return passed(message)

    def close(self) -> None:
        """Close the coordinator's step and ask the sites for the next one; at the end, keep the sum."""
        step = STEPS[self.server.phase]
        if step == "share":
            self.asked = {name: (passed(inbox),) for name, inbox in self.server.inboxes().items()}
            return
        if step == "reveal":
            self.total = self.server.total()
            return
        found = {"advertise": self.server.cohort, "mask": self.server.survivors, "confirm": self.server.quorum}[step]()
        self.asked = {name: (passed(found),) for name in self.server.awaited}

    def fork(self) -> MaskedRound:
        """The same round again, to go on otherwise; its sites come from their dumps."""
        other = copy.copy(self)
        other.server = copy.deepcopy(self.server)
        other.sites = {
            name: SiteSession.load(site.dump(), identity_of(name), at_least=site.stage)
            for name, site in self.sites.items()
        }
        other.asked, other.refusals, other.transcript = dict(self.asked), dict(self.refusals), list(self.transcript)
        return other
