"""A simulated hospital as a source: rows as its records show them, never the true risk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.features import Conversion, FeatureSpec
from fedhealth.core.settings import settings
from fedhealth.core.table import Table
from fedhealth.synthetic import UNITS, Hospital, generate

if TYPE_CHECKING:
    from pathlib import Path

    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.task import Task


@settings
class SyntheticSource(Hospital):
    """The keys under `source:` of a site.yaml with `kind: synthetic`: those of `Hospital`."""

    def rows(self, *, spec: FeatureSpec, task: Task, manifest: SiteManifest, folder: Path, seed: int) -> Table:
        """The hospital's patients, in the local units that its manifest names.

        Local column names are for files; there are none here.

        Raises:
            SettingError: the task has no synthetic outcome, or a feature or unit is not one that is generated.
        """
        del folder
        table = generate(
            self,
            name=manifest.name,
            seed=seed,
            task=task.name,
            units=local_units(spec, manifest),
            horizon_days=None if task.follow_up is None else task.follow_up.horizon_days,
        ).table
        for name in spec.names:
            if name not in table.columns:
                raise SettingError(
                    f"a feature of a simulated hospital must be generated, found {name!r}. "
                    f"{did_you_mean(name, table.columns)}"
                )
        return Table(
            patients=table.patients,
            columns={name: table.columns[name] for name in spec.names},
            outcome=table.outcome,
            consent=table.consent,
            days=table.days,
        )


def local_units(spec: FeatureSpec, manifest: SiteManifest) -> dict[str, Conversion]:
    """By feature, how the hospital's unit becomes the generator's.

    A feature that is neither local nor generated in another unit than the spec's is not named.

    Raises:
        SettingError: the manifest names a feature or a unit that the spec does not know.
    """
    known = {*UNITS, *spec.names}
    for name in manifest.units:
        if name not in known:
            raise SettingError(
                f"units of {manifest.name} must name what a simulated hospital measures, found {name!r}. "
                f"{did_you_mean(name, known)}"
            )
    conversions = {}
    for feature in spec.features:
        ours = UNITS.get(feature.name, feature.unit)
        local = manifest.units.get(feature.name, feature.unit)
        if local == ours:
            continue
        to_spec, from_ours = feature.conversion(local), feature.conversion(ours)
        conversions[feature.name] = Conversion(
            factor=to_spec.factor / from_ours.factor, offset=(to_spec.offset - from_ours.offset) / from_ours.factor
        )
    return conversions
