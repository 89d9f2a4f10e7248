"""Every command of the README runs, and the table it shows is the demo's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fedhealth import cli

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
FEDHEALTH = [words[1:] for words in COMMANDS if words[0] == "fedhealth"]
QUICK = ["run.baselines=[]", "run.report=false", "rounds=2"]


def run(words: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedhealth", *words], cwd=where, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Where a reader stands after `make demo`, a finished run and a pooled table, and what that printed."""
    where = tmp_path_factory.mktemp("reader")
    done = run(["simulate", "experiment=demo", "run.folder=runs/demo/TIME"], where)
    assert done.returncode == 0
    rows = [f"{20 + i % 70},{i % 2},{int(i % 7 == 0)}" for i in range(400)]
    (where / "table.csv").write_text("\n".join(["age,sex,died", *rows]))
    return where, done.stdout


@pytest.mark.process
@pytest.mark.parametrize("words", FEDHEALTH, ids=" ".join)
def test_a_command_of_the_readme_runs(demo, words, monkeypatch, capfd):
    # In this process, for most of a command's time is its start.
    monkeypatch.chdir(demo[0])
    is_study = words[0] in {"simulate", "federate"} and "--cfg" not in words and "--resume" not in words
    # Each as it stands, but for fewer rounds and without what every study would do alike.
    shown = [word for word in words if not (is_study and word.startswith("rounds="))]
    code = cli.main([*shown, *(QUICK if is_study else [])])
    assert code == 0, capfd.readouterr().err


def test_the_other_commands_are_targets_of_the_makefile():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    targets = {words[1] for words in COMMANDS if words[0] == "make"}
    assert targets == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


@pytest.mark.process
def test_the_table_of_the_readme_is_the_demos(demo):
    shown = re.search(r"```text\n(AUROC on.*?)\n```", README, flags=re.DOTALL)[1]
    _, printed = demo
    numbers = re.compile(r"\d\.\d{3}")
    # Another processor or build of torch may move a last digit; patients and hospitals may not move.
    found = [float(x) for x in numbers.findall(printed[printed.index("AUROC on each") :])]
    assert found == pytest.approx([float(x) for x in numbers.findall(shown)], abs=0.004)


def test_every_link_of_the_readme_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    headings = {f"#{words.lower().replace(' ', '-')}" for words in re.findall(r"^#+ (.+)$", README, flags=re.MULTILINE)}
    lost = [link for link in links if link not in headings and not (Path(__file__).parents[1] / link).exists()]
    assert not lost
