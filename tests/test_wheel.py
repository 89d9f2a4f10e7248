"""What `pip install .` installs works away from the checkout: configs, hospitals and the C kernel are in the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.process
def test_an_installed_wheel_runs_the_smoke_study_from_anywhere(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    place, away = tmp_path / "installed", tmp_path / "away"
    away.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(place)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    code = (
        "import fedhealth, sys; from fedhealth.cli import main; print(fedhealth.__file__); sys.exit(main(sys.argv[1:]))"
    )
    # -I leaves the checkout out of the path; the wheel's own folder goes in by hand.
    run = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(place)!r}); {code}"]
    done = subprocess.run(
        [*run, "simulate", "experiment=smoke", "engine=native"],
        cwd=away,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(place))
    assert list(away.glob("runs/smoke/*/report.html"))
