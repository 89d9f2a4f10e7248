"""Lines that say which cells a study that asks once counts here, and which of this hospital's floors hold for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedhealth.core.parts import build
from fedhealth.evaluation.margins import MarginLayout
from fedhealth.evaluation.tables import TableLayout
from fedhealth.privacy.patient_level import PatientLevel
from fedhealth.privacy.release import Release
from fedhealth.secagg.masked import Masked

if TYPE_CHECKING:
    from fedhealth.core.lattice import Sharing
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.study import Study
    from fedhealth.evaluation.margins import Attribute
    from fedhealth.evaluation.tables import OneTable


def question_lines(study: Study, manifest: SiteManifest) -> list[tuple[str, str]]:
    """Each table or variable with its cells, then noise and floors; none for a study that trains.

    Raises:
        SettingError: a column is not the study's, or can't be cut.
        Refused: a part comes from outside its room.
    """
    mechanism = build(study.privacy, where="privacy", room="fedhealth.privacy")
    sealing = build(study.secagg, where="secagg", room="fedhealth.secagg")
    sharing = sealing.sharing(len(study.roster)) if isinstance(sealing, Masked) else None
    if study.tabulation.tables:
        layout = TableLayout.of(study)
        lines = [(" by ".join(axis.column for axis in table.axes), _cells(table)) for table in layout.tables]
        noise = layout.reach * mechanism.statistics_noise if isinstance(mechanism, PatientLevel) else 0.0
    elif isinstance(mechanism, Release):
        margins = MarginLayout.of(study)
        lines = [(attribute.name, _values(attribute)) for attribute in margins.attributes]
        lines.append(("and pairs", f"each of these beside each other: {margins.size:,} counts in all"))
        noise = mechanism.noise_multiplier * margins.sensitivity
    else:
        return []
    return [*lines, ("on each count", _on_a_count(noise, sharing, manifest)), ("floors here", _floors(manifest))]


def _cells(table: OneTable) -> str:
    rows = ", ".join(table.rows.labels) if table.rows else "all patients"
    beside = f"; beside: {', '.join(table.beside.labels)}" if table.beside else ""
    moments = "; with mean and variance, of values held to {:g} to {:g}".format(*table.range) if table.range else ""
    return f"{rows}; without a value{beside}{moments}"


def _values(attribute: Attribute) -> str:
    cut = ", ".join(attribute.levels) or f"cut at {', '.join(f'{edge:g}' for edge in attribute.edges)}"
    return f"{cut}; without a value" if attribute.has_missing else cut


def _on_a_count(noise: float, sharing: Sharing | None, manifest: SiteManifest) -> str:
    if not noise:
        return f"no noise; a row with a count below {manifest.policy.min_cell} is withheld whole, and what would give it away"
    if sharing is None:
        return f"noise of {noise:.3g} patients from this hospital (standard deviation); nothing is withheld"
    return (
        f"noise of {noise * sharing.share(sharing.sites):.3g} patients from this hospital at least (standard deviation), of which the "
        f"sum holds {noise:.3g} at least; nothing is withheld"
    )


def _floors(manifest: SiteManifest) -> str:
    policy = manifest.policy
    cap = "none" if policy.epsilon_cap is None else f"{policy.epsilon_cap:g}"
    return (
        f"at least {policy.min_cohort} hospitals in the study and {policy.min_patients} training patients here; cap on what a "
        f"patient may spend over all studies: ε {cap}"
    )
