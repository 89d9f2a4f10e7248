"""Fixtures that every room's tests share."""

from __future__ import annotations

import gc
import os
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from composing import config_of, forget_compositions, remember_compositions
from hypothesis import settings

from fedhealth.__main__ import MADE_BEFORE_SEARCH
from fedhealth.core.study import study_from
from fedhealth.study_document import STUDY_KEYS

# A busy machine fails no test.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

FOLDER = "run.folder="
NUMBERS = count()
#: What the folder of real data must hold; one guard for all, as `.ci/run` has one list.
REAL_DATA = ("fhir_bulk10", "fhir_bundles", "omop_cdm54", "omop_synthea27nj", "physionet2012_a", "uci_heart_disease")


def pytest_configure():
    """A third of the time of all the tests that need no process was Hydra's, over the same files."""
    remember_compositions()
    # The search for garbage begins as late as in `fedhealth` itself.
    gc.set_threshold(MADE_BEFORE_SEARCH)
    # None of these tests pulls the plug; those that ask what is flushed put an observer of their own in its place.
    os.fsync = os.fdatasync = lambda _: None


def pytest_collection_modifyitems(items):
    """Files with real processes first: they wait much, take minutes each, and would be all that is left at the end."""
    waits = Counter(item.path for item in items if item.get_closest_marker("process"))
    items.sort(key=lambda item: -waits[item.path])


def pytest_collection_finish():
    """What is loaded by now stays: the search for garbage leaves it out."""
    gc.freeze()


def pytest_unconfigure():
    """What is frozen at the end of the process is never freed, of which DuckDB complains aloud."""
    gc.unfreeze()
    forget_compositions()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Where FEDHEALTH_NO_SKIPS is set, as in CI that has all that tests need, a skipped test is a failed one."""
    report = (yield).get_result()
    if report.skipped and os.environ.get("FEDHEALTH_NO_SKIPS"):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} must run here, found it skipped: {report.longrepr}"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, named by FEDHEALTH_DATA; where any of it is absent the test is skipped."""
    folder = Path(os.environ.get("FEDHEALTH_DATA", Path(__file__).parents[2] / "shared" / "data"))
    absent = [name for name in REAL_DATA if not (folder / name).is_dir()]
    if absent:
        pytest.skip(
            f"FEDHEALTH_DATA must name a folder with {', '.join(REAL_DATA)}, found {folder} without {absent[0]}"
        )
    os.environ["FEDHEALTH_DATA"] = str(folder)
    return folder


@pytest.fixture(autouse=True, scope="session")
def no_users_state(tmp_path_factory):
    """What lies in a user's state outlives a test: a ledger there would be charged by every run of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state" / "shared"))
        yield


@pytest.fixture(autouse=True)
def own_state(monkeypatch, tmp_path_factory):
    """A user's state of the test's own, made by whoever writes there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state" / str(next(NUMBERS))))


@pytest.fixture
def smoke(tmp_path):
    """The smoke study's config with some overrides, into a folder of the test's own."""

    def config(*overrides: str):
        # Nothing else in a config depends on the folder, so that tests with folders of their own share a composition.
        folders = [str(tmp_path / "run"), *(o.removeprefix(FOLDER) for o in overrides if o.startswith(FOLDER))]
        others = [o for o in overrides if not o.startswith(FOLDER)]
        found = config_of("experiment=smoke", "run.report=false", *others)
        found["run"]["folder"] = None if folders[-1] == "null" else folders[-1]
        return found

    return config


@pytest.fixture
def smoke_study(smoke):
    """The smoke study with its roster."""
    config = smoke()
    return study_from({**{key: config[key] for key in STUDY_KEYS}, "roster": config["sites"]["names"]})
