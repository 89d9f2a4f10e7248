"""The study: everything that decides what is computed, as one canonical document.

Its digest is what a hospital approves. Where the results go, how they are shown and
which runtime carries the messages is not part of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from fedhealth.core.errors import SettingError
from fedhealth.core.features import FeatureSpec
from fedhealth.core.lattice import Sharing
from fedhealth.core.settings import read, settings
from fedhealth.core.signing_key import fault_of_key
from fedhealth.core.split import Split
from fedhealth.core.tabulation import Tabulation
from fedhealth.core.task import Task
from fedhealth.core.training import LocalTraining

if TYPE_CHECKING:
    from collections.abc import Mapping


@settings
class Rules:
    """When a round stands and when the study ends.

    Attributes:
        fraction: the share of hospitals asked in a round, in expectation.
        quorum: hospitals that must answer for a round to stand; null for every one asked. A
            strategy that stands some hostile hospitals needs more of them, and gets them.
        grace_s: how long a round still waits for stragglers once the quorum is in; None
            waits for all.
        timeout_s: how long a round waits at most.
        node_timeout_s: how long to wait for enough hospitals to connect.
        patience: rounds without a better validation measure before the study stops;
            None never stops early.
        watch: the validation measure that decides, by its name.
    """

    fraction: float = 1.0
    quorum: int | None = 2
    grace_s: float | None = None
    timeout_s: float = 3600.0
    node_timeout_s: float = 60.0
    patience: int | None = None
    watch: Literal["auroc", "log_loss"] = "log_loss"

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise SettingError(f"`rules.fraction` must lie in (0, 1], found {self.fraction}. Use 1 for every hospital.")
        if self.quorum is not None and self.quorum < 1:
            raise SettingError(f"`rules.quorum` must be at least 1, found {self.quorum}. Raise it.")
        if self.patience is not None and self.patience < 1:
            raise SettingError(
                f"`rules.patience` must be at least 1 or null, found {self.patience}. Use null for never."
            )
        for name in ("timeout_s", "node_timeout_s"):
            if not getattr(self, name) > 0:
                raise SettingError(f"`rules.{name}` must be above 0 seconds, found {getattr(self, name)}. Raise it.")
        if self.grace_s is not None and self.grace_s < 0:
            raise SettingError(f"`rules.grace_s` must be 0 or more seconds, found {self.grace_s}. Use null to wait.")

    def least_asked(self, hospitals: int) -> int:
        """How many of so many hospitals are asked in every round: the quorum, else all or, of a fraction, one."""
        if self.quorum is not None:
            return self.quorum
        return hospitals if self.fraction == 1 else 1


@settings
class Study:
    """A federated study, whole.

    `model`, `strategy`, `server_optimiser`, `privacy`, `secagg` and `engine` are parts: `_target_` and their
    settings (see `core.parts`). `roster` names the hospitals; a masked study also holds their
    `identities`, each one's public Ed25519 key in hex. A study with a `tabulation` is one of tables.
    """

    name: str
    title: str
    seed: int
    rounds: int
    roster: tuple[str, ...]
    task: Task
    features: FeatureSpec
    split: Split
    training: LocalTraining
    rules: Rules
    model: dict[str, Any]
    strategy: dict[str, Any]
    server_optimiser: dict[str, Any]
    privacy: dict[str, Any]
    secagg: dict[str, Any]
    engine: dict[str, Any]
    identities: dict[str, str] = field(default_factory=dict)
    tabulation: Tabulation = field(default_factory=Tabulation)

    def __post_init__(self) -> None:
        if self.identities:
            _check_identities(self.identities, self.roster)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise SettingError(
                f"`name` must be letters, digits, dashes and underscores, found {self.name!r}. Rename it."
            )
        if self.rounds < 1:
            raise SettingError(f"`rounds` must be at least 1, found {self.rounds}. Try rounds=20.")
        if not self.roster:
            raise SettingError("`sites.names` must name at least one hospital, found none. See `fedhealth sites`.")
        if len(set(self.roster)) < len(self.roster):
            raise SettingError(
                f"`sites.names` must name each hospital once, found {list(self.roster)}. Remove doubles."
            )
        if self.seed < 0:
            raise SettingError(f"`seed` must be 0 or more, found {self.seed}. Choose another.")
        if self.task.outcome in self.features.names:
            raise SettingError(
                f"a feature must be known before the outcome, found the outcome {self.task.outcome} itself among the "
                "features. Remove it there."
            )
        follow_up = self.task.follow_up
        if follow_up is not None and follow_up.time in (*self.features.names, self.task.outcome):
            raise SettingError(
                f"`task.follow_up.time` must be a column of its own, found {follow_up.time}, which is the outcome or a "
                "feature. Name the column of times, and keep it out of the features."
            )
        if self.rules.quorum is not None and self.rules.quorum > len(self.roster):
            raise SettingError(
                f"`rules.quorum` must be at most the number of hospitals {len(self.roster)}, found "
                f"{self.rules.quorum}. Lower it or add hospitals."
            )
        if self.rules.patience is not None and not self.split.validation:
            raise SettingError(
                f"`rules.patience` needs validation patients, found split.validation={self.split.validation}. "
                "Give it a share, or patience=null."
            )

    @property
    def score_bins(self) -> int | None:
        """Cells of the noisy score histograms that `privacy` has hospitals send; None where they are exact."""
        return self.privacy.get("score_bins")

    def score_noise(self, hospitals: int) -> float:
        """The standard deviation, in patients, of what `privacy` puts on each of those cells in a sum of so many hospitals.

        Where noise is shared each adds its share, of which what is spare goes, or its floor where that is more.
        """
        if not self.score_bins:
            return 0.0
        own = float(self.privacy.get("evaluation_noise", 0.0))
        if "local_noise" in self.privacy and "min_cohort" in self.secagg:  # a floor is of shares alone
            least, colluders = int(self.secagg["min_cohort"]), int(self.secagg.get("colluders", 0))
            own *= Sharing(len(self.roster), least, colluders).share(hospitals)
        return max(own, float(self.privacy.get("local_noise", 0.0))) * math.sqrt(hospitals)


def _check_identities(identities: Mapping[str, str], roster: tuple[str, ...]) -> None:
    """Refuse keys that are not one for each hospital."""
    if set(identities) != set(roster):
        name = min(set(identities) ^ set(roster))
        raise SettingError(
            f"`identities` must hold one key for each hospital of the roster, found {name!r} in one of them only. "
            "Add its key, or leave it out."
        )
    for name, key in identities.items():
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise SettingError(
                f"`identities.{name}` must be a public key of 64 hex digits, found {len(key)} characters that are not. "
                "Use what fedhealth site keys init printed."
            )
        fault = fault_of_key(bytes.fromhex(key))
        if fault is not None:
            raise SettingError(
                f"`identities.{name}` must be a key that only its owner can sign for, found {fault}. "
                "Use what fedhealth site keys init printed."
            )
    if len(set(identities.values())) < len(identities):
        raise SettingError("`identities` must be keys of their own, found one twice. Make new keys for one of them.")


def canonical(document: Mapping[str, Any]) -> str:
    """The one JSON text of a document: keys sorted, no spaces, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(document: Mapping[str, Any]) -> str:
    """The SHA-256 of the canonical text, in hex."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def packed(document: Mapping[str, Any]) -> str:
    """The canonical text as base64url, which survives any command line or TOML file."""
    return base64.urlsafe_b64encode(canonical(document).encode()).decode()


def unpacked(text: str) -> dict[str, Any]:
    """The inverse of `packed`.

    Raises:
        SettingError: the text is not a packed document.
    """
    try:
        found = json.loads(base64.urlsafe_b64decode(text.encode()))
    except ValueError:
        raise SettingError(
            f"a study must travel as base64url of JSON, found {len(text)} characters that are not. Pack it again."
        ) from None
    if not isinstance(found, dict):
        raise SettingError(f"a study must be a JSON object, found {type(found).__name__}. Pack it again.")
    return found


def study_from(document: Mapping[str, Any], *, where: str = "study") -> Study:
    """The study in a plain document.

    Raises:
        SettingError: a key, type or value is wrong.
    """
    return read(Study, document, where=where)
