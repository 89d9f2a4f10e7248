"""A hospital's client: the one way out.

    request ─open_round (the gate, which charges the ledger)→ Permit ─work→ Update
        ─privatise→ PrivateUpdate ─seal→ SealedUpdate

Each arrow is one verb with one owner, and nothing goes back. In a masked study the seal is a
protocol: `begin` keeps the update and gives its first message, `step` each later one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fedhealth.core.errors import SettingError
from fedhealth.core.manifest import SiteManifest, load_manifest
from fedhealth.core.parts import build
from fedhealth.core.settings import read
from fedhealth.core.study import digest, study_from, unpacked
from fedhealth.evaluation.spans import spans_of
from fedhealth.governance.approval import OneStudy
from fedhealth.privacy.distributed import SharesNoise, lattices
from fedhealth.privacy.dp_sgd import DpSgd
from fedhealth.privacy.noise_share import NoiseShare
from fedhealth.secagg.content.noised import Noised
from fedhealth.secagg.plain import Plain
from fedhealth.secagg.protocol.refusals import refused
from fedhealth.site.answers import Answers
from fedhealth.site.approvals import approvals_of
from fedhealth.site.attacks import ROOM
from fedhealth.site.attacks.plain import Plain as Honest
from fedhealth.site.cohort import load_cohort
from fedhealth.site.gate import go_on, loudness, open_round
from fedhealth.site.ledger_place import ledger_of
from fedhealth.site.masked_round import STEPS, MaskedRound
from fedhealth.site.private_round import keep_size
from fedhealth.site.shelf import Shelf
from fedhealth.site.work import work_for
from fedhealth.strategies.method import method_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedhealth.core.study import Study
    from fedhealth.core.update import PrivateUpdate, SealedUpdate, Update
    from fedhealth.governance.approval import Approved
    from fedhealth.privacy import Mechanism
    from fedhealth.privacy.ledger import Ledger
    from fedhealth.runtime.codec import Request
    from fedhealth.secagg.masked import Masked
    from fedhealth.site.attacks import Attack
    from fedhealth.site.cohort import Cohort
    from fedhealth.site.gate import Permit
    from fedhealth.site.keys import Keys
    from fedhealth.site.memory import Memory
    from fedhealth.site.quality import QualityReport
    from fedhealth.site.turns import Turns

log = logging.getLogger(__name__)

#: Hospitals whose manifests are kept in one process, and the bytes of cohorts where the engine does not say.
MOST_HOSPITALS, COHORT_BYTES = 16384, 1 << 30

_SHELF: Shelf[tuple[Cohort, QualityReport]] = Shelf()


class Opened(NamedTuple):
    """A request that the gate let through; `told` is what was answered when it came before, where that counts."""

    request: Request
    permit: Permit
    told: Update | None


@dataclass(frozen=True)
class Client:
    """One hospital taking part in one study.

    Attributes:
        folder: the hospital's own, with its site.yaml.
        packed_study: the study as it came (`core.study.packed`).
        approved: in a simulation, the digest of the one study there is; empty where the hospital's own
            records say what it approved.
        packed_source: in a simulation, the source that stands in for the manifest's.
        packed_attack: in a simulation, what this hospital does in place of honest training.
        run_folder: in a simulation, the run's, where the ledger lies that the hospital does not name.
        packed_manifest: in a simulation, the manifest of a hospital that was drawn and has no folder.
    """

    folder: Path
    packed_study: str
    approved: str
    packed_source: str = ""
    packed_attack: str = ""
    run_folder: str = ""
    packed_manifest: str = ""

    def answer(self, request: Request, memory: Memory, keys: Keys | None = None) -> SealedUpdate:
        """What leaves the hospital for a request.

        Args:
            request: what the coordinator asks.
            memory: what the hospital keeps of this study from round to round.
            keys: the hospital's own; a plain study needs none.

        Raises:
            Refused: a rule of the hospital's does not hold.
            DataError: the hospital's data can't become a cohort.
        """
        # Before the study is built from or a patient's row is read: it may be anybody's.
        go_on(self.manifest, digest=self.digest, approved=self.approvals)
        if request.purpose in STEPS:
            return self._round(memory, keys).step(request)
        opened = self.opened(request, memory)
        return self.closed(opened, self.work_of(opened)(), memory, keys)

    def computed(self, request: Request, memory: Memory, ledger: Ledger) -> PrivateUpdate:
        """What the hospital has to say to a request, charged to `ledger`; errors as of `answer`."""
        opened = self.opened(request, memory, ledger)
        return self.privatised(opened, self.work_of(opened)(), memory)

    def opened(
        self, request: Request, memory: Memory, ledger: Ledger | None = None, turns: Turns | None = None
    ) -> Opened:
        """The request past the gate, and charged: to `ledger`, or the hospital's own; `turns` as of `Permit`."""
        told = Answers(memory.folder / "answers").find(request) if isinstance(self.mechanism, DpSgd) else None
        permit = open_round(
            self.manifest,
            self.study,
            self.cohort,
            memory,
            digest=self.digest,
            approved=self.approvals,
            is_masked=self.sealing.is_masked,
            round_=request.round_,
            purpose=request.purpose,
            mechanism=self.mechanism,
            ledger=ledger or self.ledger,
            is_known=told is not None,
            is_simulated=bool(self.run_folder),
            attack=self.attack,
            turns=turns,
        )
        return Opened(request, permit, told)

    def work_of(self, opened: Opened) -> Callable[[], Update]:
        """Computes what the hospital has to say, or says what it told before.

        It raises `Awaited` where it is to be called again, once what it waits for is in the turns with which it was opened.
        """
        told = opened.told
        if told is not None:
            return lambda: told
        return partial(work_for(opened.request.purpose), opened.permit, opened.request)

    def closed(self, opened: Opened, update: Update, memory: Memory, keys: Keys | None) -> SealedUpdate:
        """What leaves: the update made private and sealed."""
        return self._sealed(opened.request, self.privatised(opened, update, memory), memory, keys)

    def privatised(self, opened: Opened, update: Update, memory: Memory) -> PrivateUpdate:
        """The update as it may be sealed; of a private study it is kept, to be told again as it is."""
        request = opened.request
        if opened.told is not None and isinstance(self.mechanism, DpSgd):
            return self.mechanism.told_before(update, what=request.purpose)
        stream = f"{self.manifest.name} {request.round_}"
        private = self.mechanism.privatise(update, what=request.purpose, stream=stream)
        if isinstance(self.mechanism, DpSgd):
            if request.purpose == "query.shape":
                keep_size(memory, private)
            Answers(memory.folder / "answers").keep(request, private.update)
        return private

    def _sealed(self, request: Request, private: PrivateUpdate, memory: Memory, keys: Keys | None) -> SealedUpdate:
        """What leaves: the update, or the first message of a masked round."""
        log.log(
            loudness(self.study, is_simulated=bool(self.run_folder)),
            "leaves site=%s spend=%s", self.manifest.name, private.spend,
        )  # fmt: skip
        if isinstance(self.sealing, Plain):
            return self.sealing.seal(private)
        return self._begun(request, private, self.sealing, self._round(memory, keys))

    def _begun(self, request: Request, private: PrivateUpdate, masked: Masked, opened: MaskedRound) -> SealedUpdate:
        """The first message of a masked round, on terms that this hospital worked out itself."""
        method = method_of(self.study.strategy)
        mechanism = self.mechanism
        content, terms = masked.asked(
            request, self.study, self.digest, method=method, spans=spans_of,
            lattice=lattices(mechanism, rounds=self.study.rounds, sharing=masked.sharing(len(self.study.roster))),
        )  # fmt: skip
        noise = None
        if isinstance(mechanism, SharesNoise) and isinstance(content, Noised):
            source = mechanism.source(f"{self.manifest.name} {request.round_} {request.purpose} share")
            noise = NoiseShare(content.lattice, source)
        return opened.begin(
            private, content, terms, self.manifest.name, floor=self.manifest.policy.min_cohort, noise=noise
        )

    def _round(self, memory: Memory, keys: Keys | None) -> MaskedRound:
        """The masked round that may be open.

        Raises:
            Refused: the study is not masked.
            SettingError: the hospital has no keys.
        """
        if isinstance(self.sealing, Plain):
            raise refused("out_of_order", "a study without masking")
        if keys is None:
            raise SettingError("a masked study needs the hospital's keys, found none. Run fedhealth site keys init.")
        return MaskedRound(
            self.sealing,
            keys,
            self.digest,
            memory.folder / "masked-round",
            may_regroup=self.manifest.policy.allow_regrouping,
        )

    @cached_property
    def manifest(self) -> SiteManifest:
        """The hospital's manifest, read from its own folder."""
        return _manifest(self.folder, self.packed_source, self.packed_manifest)

    @cached_property
    def study(self) -> Study:
        """The study as it came."""
        return _study(self.packed_study)[0]

    @cached_property
    def digest(self) -> str:
        """The digest of the study as it came."""
        return _study(self.packed_study)[1]

    @cached_property
    def approvals(self) -> Approved:
        """Who says whether the study is approved."""
        return OneStudy(self.approved) if self.approved else approvals_of(self.manifest, self.folder)

    @property
    def cohort(self) -> Cohort:
        """The hospital's cohort for the study: loaded once, or anew where its process has no room for so many."""
        return self._loaded[0]

    @property
    def quality(self) -> QualityReport:
        """What was found wrong in the hospital's data, in counts."""
        return self._loaded[1]

    @cached_property
    def mechanism(self) -> Mechanism:
        """The study's privacy mechanism, from the installed package only."""
        return build(self.study.privacy, where="privacy", room="fedhealth.privacy")  # type: ignore[no-any-return]

    @cached_property
    def ledger(self) -> Ledger:
        """The record of what the hospital's patients have spent."""
        return ledger_of(self.manifest, self.folder, run=Path(self.run_folder) if self.run_folder else None)

    @cached_property
    def sealing(self) -> Plain | Masked:
        """The study's secure aggregation, from the installed package only."""
        return build(self.study.secagg, where="secagg", room="fedhealth.secagg")  # type: ignore[no-any-return]

    @cached_property
    def attack(self) -> Attack:
        """What the simulation has this hospital do in place of honest training: nothing, but where it says so."""
        if not self.packed_attack:
            return Honest()
        return build(unpacked(self.packed_attack), where="attack", room=ROOM, does="train")  # type: ignore[no-any-return]

    @property
    def _loaded(self) -> tuple[Cohort, QualityReport]:
        return _SHELF.get(self._place, self._load, _size_of, most_bytes=self._most_bytes)

    @cached_property
    def _place(self) -> tuple[Path, str, str, str]:
        """Names the cohort, which a simulation's check before the run and the run itself share."""
        return self.folder, self.packed_study, self.packed_source, self.packed_manifest

    @property
    def _most_bytes(self) -> int:
        return int(self.study.engine.get("cohort_bytes", COHORT_BYTES))

    def _load(self) -> tuple[Cohort, QualityReport]:
        study, manifest = self.study, _manifest(self.folder, self.packed_source, self.packed_manifest)
        return load_cohort(
            manifest, self.folder, spec=study.features, task=study.task, split=study.split, seed=study.seed
        )


@lru_cache(maxsize=16)
def _study(packed: str) -> tuple[Study, str]:
    """The study and its digest, which all hospitals of a simulation share."""
    document = unpacked(packed)
    return study_from(document), digest(document)


@lru_cache(maxsize=MOST_HOSPITALS)
def _manifest(folder: Path, packed_source: str, packed_manifest: str) -> SiteManifest:
    """A hospital's manifest, with the source that a simulation puts in its own's place."""
    own = read(SiteManifest, unpacked(packed_manifest), where=folder.name) if packed_manifest else load_manifest(folder)
    return replace(own, source=unpacked(packed_source)) if packed_source else own


def _size_of(loaded: tuple[Cohort, QualityReport]) -> int:
    return loaded[0].size_bytes


def forget_folders() -> None:
    """Read manifests and cohorts anew from here on."""
    _manifest.cache_clear()
    _SHELF.clear()
