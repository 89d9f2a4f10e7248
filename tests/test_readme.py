"""Every command of the README runs, and the table it shows is the demo's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
FEDHEALTH = [words[1:] for words in COMMANDS if words[0] == "fedhealth"]
QUICK = ["run.baselines=[]", "run.report=false"]


def run(words: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedhealth", *words], cwd=where, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where a reader stands after `make demo`: a finished run, and a pooled table."""
    where = tmp_path_factory.mktemp("reader")
    assert run(["simulate", "experiment=demo", "run.folder=runs/demo/TIME"], where).returncode == 0
    rows = [f"{20 + i % 70},{i % 2},{int(i % 7 == 0)}" for i in range(400)]
    (where / "table.csv").write_text("\n".join(["age,sex,died", *rows]))
    return where


@pytest.mark.process
@pytest.mark.parametrize("words", FEDHEALTH, ids=" ".join)
def test_a_command_of_the_readme_runs(place, words):
    is_study = words[0] == "simulate" and "--cfg" not in words and "--resume" not in words
    done = run([*words, *(QUICK if is_study else [])], place)
    assert done.returncode == 0, done.stderr


def test_the_other_commands_are_targets_of_the_makefile():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    targets = {words[1] for words in COMMANDS if words[0] == "make"}
    assert targets == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


@pytest.mark.process
def test_the_table_of_the_readme_is_the_demos(place):
    shown = re.search(r"```text\n(AUROC on.*?)\n```", README, flags=re.DOTALL)[1]
    printed = run(["simulate", "experiment=demo", "run.report=false", "run.folder=again"], place).stdout
    numbers = re.compile(r"\d\.\d{3}")
    # Another processor or build of torch may move a last digit; patients and hospitals may not move.
    found = [float(x) for x in numbers.findall(printed[printed.index("AUROC on each") :])]
    assert found == pytest.approx([float(x) for x in numbers.findall(shown)], abs=0.004)


def test_every_link_of_the_readme_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    assert all((Path(__file__).parents[1] / link).exists() for link in links)
