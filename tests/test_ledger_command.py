"""`fedhealth site ledger`: what was charged, what it costs together, and exit code 4 where the record is broken."""

from __future__ import annotations

import math
import re
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from fedhealth import cli
from fedhealth.core.privacy_event import Gaussian, PoissonSampledGaussian, Unbounded
from fedhealth.privacy.accountant import epsilon
from fedhealth.privacy.ledger import Entry, Ledger

STEPS = PoissonSampledGaussian(noise_multiplier=2.26, sampling_rate=0.1, count=100)
SUMS = Gaussian(noise_multiplier=20.0)


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "riverside"
    folder.mkdir()
    (folder / "site.yaml").write_text(
        "name: riverside\ntitle: Riverside\nsource: {kind: csv, path: patients.csv}\n"
        "policy: {min_patients: 20, min_cell: 10, min_cohort: 3, epsilon_cap: 4.0, ledger: ../own/ledger.sqlite}\n"
    )
    return folder


@pytest.fixture
def charged(site):
    ledger = Ledger(site.parent / "own" / "ledger.sqlite")
    for study, what, event in (
        ("mortality", "query.moments", SUMS),
        ("mortality", "train", STEPS),
        ("readmission", "train", STEPS),
    ):
        entry = Entry(study=study, digest="ab12" * 16, what=what, event=event, view="updates", cohort="riverside")
        ledger.charge(entry, epsilon_cap=math.inf, delta=1e-5)
    return ledger


def said(capsys, *words):
    code = cli.main(["site", "ledger", *map(str, words)])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_it_lists_what_was_charged_and_what_it_costs_together(capsys, site, charged):
    code, out, _ = said(capsys, "show", "--site", site)
    assert code == 0
    costs = [epsilon(events, 1e-5) for events in ([SUMS], [SUMS, STEPS], [SUMS, STEPS, STEPS])]
    assert re.findall(r"(\d+\.\d{3}) *$", out, flags=re.MULTILINE) == [f"{cost:.3f}" for cost in costs]
    flat = " ".join(out.split())
    for words in (
        "together: (ε = ",
        "a patient with all records, added or removed",
        "cap: ε = 4, δ = 1e-05",
        "ab12ab12",
    ):
        assert words in flat


def test_another_delta_may_be_asked_for(capsys, site, charged):
    _, out, _ = said(capsys, "show", "--site", site, "--delta", "1e-7")
    assert f"{epsilon([SUMS, STEPS, STEPS], 1e-7):.3f}" in out


def test_it_draws_the_history(capsys, site, charged, tmp_path):
    code, out, _ = said(capsys, "show", "--site", site, "--plot", tmp_path / "spent.svg")
    assert code == 0
    assert f"plot: {tmp_path / 'spent.svg'}" in out
    assert "<svg" in (tmp_path / "spent.svg").read_text()


def test_what_left_without_noise_is_shown_as_no_bound(capsys, site, charged):
    entry = Entry(study="open", digest="0" * 64, what="train", event=Unbounded(), view="updates", cohort="riverside")
    charged.charge(entry, epsilon_cap=math.inf, delta=1e-5)
    _, out, _ = said(capsys, "show", "--site", site)
    assert "together: no bound" in " ".join(out.split())


def test_a_site_that_never_took_part_has_nothing_to_show(capsys, site):
    for verb in ("show", "verify"):
        code, out, _ = said(capsys, verb, "--site", site)
        assert code == 0
        assert "nothing was ever charged" in out


def test_a_whole_ledger_verifies_and_gives_its_anchor(capsys, site, charged):
    code, out, _ = said(capsys, "verify", "--site", site)
    assert code == 0
    assert out.startswith("3 rows, each as it was written")
    anchor = out.split()[-1]
    assert said(capsys, "verify", "--site", site, "--anchor", anchor)[0] == 0
    code, _, err = said(capsys, "verify", "--site", site, "--anchor", f"3:{'0' * 64}")
    assert (code, "another history" in err) == (4, True)


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_a_broken_ledger_ends_with_4_and_how_to_restore_it(capsys, site, charged, verb):
    with closing(sqlite3.connect(charged.path)) as connection:
        connection.execute("DELETE FROM events WHERE number = 3")
        connection.commit()
    code, out, err = said(capsys, verb, "--site", site)
    assert (code, out) == (4, "")
    assert "2 rows where its head counts 3" in err
    assert "newest backup" in err
    assert err.count("\n") == 1


def test_a_simulations_ledger_is_shown_from_its_file(capsys, site, charged):
    moved = charged.path.rename(charged.path.with_name("other.sqlite"))
    charged.path.with_name("ledger.sqlite.head").rename(charged.path.with_name("other.sqlite.head"))
    code, out, _ = said(capsys, "verify", "--site", site, "--file", moved)
    assert (code, out.startswith("3 rows")) == (0, True)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["show"], "the following arguments are required: --site"),
        (["show", "--site", "/nowhere"], "a site must have a site.yaml"),
        (["verify", "--site", "SITE", "--file", "/nowhere"], "--file must name a ledger"),
        (["verify", "--site", "SITE", "--anchor", "last"], "--anchor must be ROW:HASH, found 'last'"),
        (["verify", "--site", "SITE", "--anchor", "0:" + "0" * 64], "--anchor must be ROW:HASH, found"),
        (["show", "--site", "SITE", "--delta", "2"], "`delta` must lie in"),
    ],
)
def test_a_wrong_word_gets_one_line(capsys, site, charged, words, line):
    code, _, err = said(capsys, *(site if word == "SITE" else word for word in words))
    assert (code, line in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.process
def test_it_needs_neither_torch_nor_flower(site, charged):
    code = (
        "import sys; from fedhealth.cli import main\n"
        f"main(['site', 'ledger', 'show', '--site', {str(site)!r}])\n"
        "print('LOADED', [m for m in ('torch', 'flwr', 'hydra', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith("LOADED []")
