"""A simulated hospital through the site's own door."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from fedhealth.core.errors import SettingError
from fedhealth.core.features import FeatureSpec
from fedhealth.core.manifest import load_manifest
from fedhealth.core.settings import read
from fedhealth.core.task import Task
from fedhealth.site.sources import open_source
from fedhealth.synthetic import UNITS, Hospital, generate

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(p.parent.name for p in (ROOT / "sites").glob("*/site.yaml") if "kind: synthetic" in p.read_text("utf-8"))

# g/mol; urea nitrogen is two atoms of nitrogen, 14.0067 each.
MOLAR_MASS = {
    "creatinine": 113.12,
    "urea_nitrogen": 28.0134,
    "glucose": 180.156,
    "lactate": 90.08,
    "bilirubin": 584.66,
}


def config(group, name, cls):
    path = ROOT / "configs" / group / f"{name}.yaml"
    return read(cls, yaml.safe_load(path.read_text("utf-8")), where=str(path))


def rows_of(name, task="mortality", seed=1):
    folder = ROOT / "sites" / name
    manifest, spec = load_manifest(folder), config("features", task, FeatureSpec)
    source = open_source(manifest, folder)
    return source.rows(spec=spec, task=config("task", task, Task), manifest=manifest, folder=folder, seed=seed)


@pytest.fixture
def manifest(tmp_path):
    def written(**keys):
        folder = tmp_path / "x"
        folder.mkdir(exist_ok=True)
        policy = {"min_patients": 1, "min_cell": 1, "min_cohort": 3}
        found = {"name": "x", "title": "X", "policy": policy, "source": {"kind": "synthetic", "size": 300}, **keys}
        (folder / "site.yaml").write_text(yaml.safe_dump(found))
        return folder, load_manifest(folder)

    return written


def test_ten_hospitals_come_with_the_package():
    assert len(NAMES) >= 10


@pytest.mark.parametrize("task", ["mortality", "readmission"])
@pytest.mark.parametrize("name", NAMES)
def test_every_built_in_hospital_serves_every_task(name, task):
    table = rows_of(name, task)
    assert tuple(table.columns) == config("features", task, FeatureSpec).names
    assert 0.04 < table.outcome.mean() < 0.45
    assert 250 <= len(table) <= 2400


def test_norrvik_reports_creatinine_in_umol_per_litre():
    assert 60 < np.nanmedian(rows_of("norrvik").columns["creatinine"]) < 100


def test_units_come_back_to_the_specs_own(manifest):
    spec, task = config("features", "mortality", FeatureSpec), config("task", "mortality", Task)
    usual = generate(Hospital(size=300), name="x", seed=1, task="mortality").table.columns
    local = {feature.name: unit for feature in spec.features for unit in feature.units}
    folder, found = manifest(units=local)
    table = open_source(found, folder).rows(spec=spec, task=task, manifest=found, folder=folder, seed=1)
    for name, unit in local.items():
        conversion = spec[name].conversion(unit)
        back = table.columns[name] * conversion.factor + conversion.offset
        np.testing.assert_allclose(back, usual[name], rtol=1e-12, atol=1e-12)


def test_a_unit_may_be_named_for_what_this_task_does_not_use(manifest):
    spec, task = config("features", "readmission", FeatureSpec), config("task", "readmission", Task)
    folder, found = manifest(units={"temperature": "°F"})
    assert len(open_source(found, folder).rows(spec=spec, task=task, manifest=found, folder=folder, seed=1)) == 300


@pytest.mark.parametrize(
    ("units", "words"), [({"creatinine": "umol/l"}, "Did you mean umol/L"), ({"creatinin": "mg/dL"}, "creatinine")]
)
def test_a_unit_or_a_name_that_nobody_knows_is_refused(manifest, units, words):
    spec, task = config("features", "mortality", FeatureSpec), config("task", "mortality", Task)
    folder, found = manifest(units=units)
    with pytest.raises(SettingError, match=words):
        open_source(found, folder).rows(spec=spec, task=task, manifest=found, folder=folder, seed=1)


def test_a_feature_that_is_not_generated_is_refused(manifest):
    spec = read(FeatureSpec, {"name": "t", "features": [{"name": "troponin"}]}, where="test")
    folder, found = manifest()
    task = config("task", "mortality", Task)
    with pytest.raises(SettingError, match="must be generated, found 'troponin'"):
        open_source(found, folder).rows(spec=spec, task=task, manifest=found, folder=folder, seed=1)


@pytest.mark.parametrize("task", ["mortality", "readmission"])
def test_the_spec_and_the_generator_agree_on_units(task):
    spec = config("features", task, FeatureSpec)
    assert {name: UNITS[name] for name in spec.names if name in UNITS} == {
        name: spec[name].unit for name in spec.names if name in UNITS
    }


@pytest.mark.parametrize(("name", "mass"), MOLAR_MASS.items())
def test_factors_follow_from_molar_masses(name, mass):
    units = config("features", "mortality", FeatureSpec)[name].units
    if name == "lactate":  # mg/dL to mmol/L
        assert units["mg/dL"].factor == pytest.approx(10 / mass, rel=1e-4)
    else:  # mmol/L (or umol/L) to mg/dL
        unit, per_mmol = ("umol/L", 1000) if "umol/L" in units else ("mmol/L", 1)
        assert units[unit].factor == pytest.approx(mass / 10 / per_mmol, rel=1e-4)


def test_other_factors_follow_from_definitions():
    spec = config("features", "mortality", FeatureSpec)
    fahrenheit = spec["temperature"].units["°F"]
    assert 98.6 * fahrenheit.factor + fahrenheit.offset == pytest.approx(37.0)
    assert spec["systolic_bp"].units["kPa"].factor == pytest.approx(760 / 101.325, rel=1e-5)
    assert spec["urine_output"].units["mL/24h"].factor == pytest.approx(1 / 24)
