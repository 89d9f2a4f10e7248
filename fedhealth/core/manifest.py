"""The manifest: one hospital's own file, `sites/<name>/site.yaml`.

The hospital writes it and nobody else. It says where the data is, in which units and
under which local names, and which floors no study may go under.
"""

from __future__ import annotations

import re
from dataclasses import field
from pathlib import Path
from typing import Any

from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.features import Sensitivity
from fedhealth.core.settings import read, settings
from fedhealth.core.yaml_text import values_in

MANIFEST = "site.yaml"


@settings
class Policy:
    """A hospital's floors. They are required: a missing floor is an error, not a default.

    Attributes:
        min_patients: a round needs at least this many training patients here.
        min_cell: a count built from fewer patients than this is withheld.
        min_cohort: a study needs at least this many hospitals (3 or more: with two, each
            can find the other's part by subtraction).
        require_masking: send nothing unless secure aggregation is on.
        allow_regrouping: answer a question of a masked study again in a sum over other hospitals. Who has both
            sums knows the difference of the hospitals that are in one of them only.
        epsilon_cap: what a patient may spend over all studies, at `delta`; null for no cap.
        delta: the chance with which that bound may fail.
        ledger: the file that keeps what patients have spent (see `site.ledger_place`); by default one in
            the user's state folder, and in a simulation one a run.
        ledger_key: a file of 32 random bytes that the ledger is made with; who lacks it can't forge a row.
        share_site_results: the hospital's own results may be shown by name.
        paused: answer no study for now.
    """

    min_patients: int = field(metadata={"example": 20})
    min_cell: int = field(metadata={"example": 10})
    min_cohort: int = field(metadata={"example": 3})
    require_masking: bool = False
    allow_regrouping: bool = False
    epsilon_cap: float | None = None
    delta: float = 1e-5
    ledger: str = ""
    ledger_key: str = ""
    share_site_results: bool = True
    paused: bool = False

    def __post_init__(self) -> None:
        for name, least in (("min_patients", 1), ("min_cell", 1), ("min_cohort", 3)):
            value = getattr(self, name)
            if value < least:
                raise SettingError(
                    f"policy.{name} must be at least {least}, found {value}. Raise it in the hospital's site.yaml."
                )
        if self.epsilon_cap is not None and not self.epsilon_cap > 0:
            raise SettingError(
                f"policy.epsilon_cap must be above 0, found {self.epsilon_cap}. Use null for no cap, paused for no study."
            )
        if not 1e-10 <= self.delta < 1:
            raise SettingError(
                f"policy.delta must lie in [1e-10, 1), found {self.delta}. Use less than one over the number of patients."
            )


@settings
class SiteManifest:
    """One hospital: who it is, where its data is, what it allows.

    `source` is the block that chooses and sets the data source: `kind` and that source's
    own keys. `units` and `codes` name, by feature, the local unit and the local column, or
    in a source of dated records the local code; several are parted by a bar. `folders` are
    those beside the hospital's own from which a source may read. `sensitivity` says of a local
    column what it can tell of a person, where its name does not (`core.sensitivity`). A feature
    spec of another `schema_version` means something else by its columns.
    `proposers` names those whose studies the hospital considers, each by a public Ed25519 key
    in hex.
    """

    name: str
    title: str
    policy: Policy
    source: dict[str, Any] = field(metadata={"example": "{kind: csv, path: patients.csv}"})
    region: str = ""
    description: str = ""
    units: dict[str, str] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    proposers: dict[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    sensitivity: dict[str, Sensitivity] = field(default_factory=dict)
    schema_version: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", self.name):
            raise SettingError(
                f"name must be lower-case letters, digits and dashes, found {self.name!r}. Rename the site."
            )
        if not isinstance(self.source.get("kind"), str):
            raise SettingError("source.kind must be named, found none. Write source: {kind: csv, …}.")
        for name, key in self.proposers.items():
            if not re.fullmatch(r"[0-9a-f]{64}", key):
                raise SettingError(
                    f"proposers: {name!r} must be a public key of 64 hex digits, found {len(key)} characters that are not. "
                    "Copy the line that fedhealth study key printed, and quote the key."
                )
        if self.schema_version < 1:
            raise SettingError(
                f"schema_version must be at least 1, found {self.schema_version}. Use the feature spec's."
            )


def load_manifest(folder: Path) -> SiteManifest:
    """The manifest in a hospital's folder.

    Raises:
        SettingError: the file is missing, is not YAML in UTF-8, or breaks a rule.
    """
    import yaml

    path = folder / MANIFEST
    if not path.is_file():
        known = sorted(p.parent.name for p in folder.parent.glob(f"*/{MANIFEST}"))
        raise SettingError(f"a site must have a {MANIFEST}, found no {path}. {did_you_mean(folder.name, known)}")
    try:
        found = values_in(path.read_text(encoding="utf-8-sig"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise SettingError(f"{path} must be YAML, found a fault{line}. Mend the file.") from None
    except UnicodeDecodeError as error:
        raise SettingError(
            f"{path} must be text in UTF-8, found a byte at position {error.start} that is not. Save it as UTF-8."
        ) from None
    except (ValueError, RecursionError) as error:
        # A date that does not exist, say: YAML takes it for one and Python can't make it.
        raise SettingError(f"{path} must be YAML, found a {type(error).__name__} in it. Quote its values.") from None
    if not isinstance(found, dict):
        raise SettingError(
            f"{path} must be a mapping of keys, found {type(found).__name__}. Start from another site's."
        )
    manifest = read(SiteManifest, found, where=str(path))
    if manifest.name != folder.name:
        raise SettingError(
            f"{path}: `name` must be its folder's name {folder.name}, found {manifest.name}. Rename one."
        )
    return manifest
