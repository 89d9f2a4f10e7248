"""The tables say what the comparison's document says, as CSV to compute with and as LaTeX to print."""

from __future__ import annotations

import csv
import io
import re

import pytest

from fedhealth.report.comparison import compared
from fedhealth.report.comparison_tables import cell, costs, csv_text, differences, p_value, results, signed, tex_text

NUMBERS = ("mean", "low", "high", "difference", "difference_low", "difference_high", "p", "p_holm")


@pytest.fixture
def comparison(run_of):
    return compared(
        [
            run_of(seed, strategy=strategy, union=0.7 + shift + seed * step, curve=(0.6, 0.7 + shift))
            for strategy, shift, step in (("FedAvg", 0.0, 0.01), ("FedAdam", 0.04, 0.012))
            for seed in (1, 2, 3)
        ]
    )


def rows_of(comparison):
    return list(csv.DictReader(io.StringIO(csv_text(comparison))))


def test_the_csv_read_back_has_every_number_of_the_document(comparison):
    rows = {(row["label"], row["outcome"]): row for row in rows_of(comparison)}
    for group in comparison["groups"]:
        for name, found in group["outcomes"].items():
            row = rows[group["label"], name]
            assert [float(row[key]) if row[key] else None for key in ("mean", "low", "high")] == [
                found["value"], found["low"], found["high"],
            ]  # fmt: skip
    for name, (found,) in comparison["differences"].items():
        row = rows[found["label"], name]
        assert (row["against"], int(row["pairs"])) == ("strategy=fedavg", 3)
        assert (float(row["p"]) if row["p"] else None) == found["p"]
        assert float(row["difference"]) == found["difference"]["value"]


def test_in_the_csv_a_number_is_a_number_or_nothing(run_of):
    withheld = compared([run_of(1, union=None), run_of(1, strategy="FedAdam", curve=(0.1,))])
    for row in rows_of(withheld):
        assert all(row[key] == "" or float(row[key]) is not None for key in NUMBERS)
    gone = next(row for row in rows_of(withheld) if row["outcome"] == "union_auroc")
    assert (gone["mean"], gone["note"]) == ("", "withheld: fewer than 10 patients")
    rounds = [row for row in rows_of(withheld) if row["outcome"] == "rounds_to_auroc_0.75"]
    assert [(row["reached"], row["mean"], row["note"]) for row in rounds] == [("0", "", "not reached")] * 2


def test_a_label_with_commas_stays_one_field_of_the_csv(run_of):
    mlp = {"_target_": "fedhealth.models.mlp.Mlp"}
    runs = [run_of(config={"model": {**mlp, "hidden": hidden}}) for hidden in ([64, 32], [8])]
    assert {row["label"] for row in rows_of(compared(runs))} == {"model.hidden=[64,32]", "model.hidden=[8]"}


def test_the_table_for_a_paper_is_whole_and_its_best_bold(comparison):
    text = tex_text(comparison)
    assert text.startswith(r"% Needs \usepackage{booktabs}.")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    rows = [line.removesuffix("[2pt]") for line in text.splitlines() if line.removesuffix("[2pt]").endswith(r"\\")]
    assert {len(re.sub(r"\\multicolumn\{3\}", " & & ", row).split("&")) for row in rows} == {7}
    fedavg, fedavg_ends, fedadam, fedadam_ends = rows[-4:]
    assert fedavg.startswith("strategy=fedavg & 0.720 & ")
    assert fedavg_ends.startswith(r" & {\scriptsize [0.695, 0.745]} & ")
    assert fedadam.startswith(r"strategy=fedadam & \textbf{0.764} & ")
    assert fedadam_ends.startswith(r" & {\scriptsize [0.734, 0.794]} & ")
    assert r"\textbf" not in fedavg


def test_the_table_for_a_paper_has_harrells_c_where_patients_are_followed(run_of):
    text = tex_text(compared([run_of(s, strategy=k, c=0.6) for k in ("FedAvg", "FedAdam") for s in (1, 2)]))
    assert r"\begin{tabular}{lrrrrrrr}" in text
    assert r"\cmidrule(lr){3-5}" in text
    rows = [line.removesuffix("[2pt]") for line in text.splitlines() if line.removesuffix("[2pt]").endswith(r"\\")]
    assert {len(re.sub(r"\\multicolumn\{3\}", " & & ", row).split("&")) for row in rows} == {8}
    assert rows[-4].startswith("strategy=fedavg & 0.600 & 0.700 & ")


def test_in_latex_a_label_is_words_and_no_command(run_of):
    evil = "a_b&c%d$e#f{g}h~i^j\\k<l>|m"
    text = tex_text(compared([run_of(config={"training": {"how": how}}) for how in (evil, "plain")]))
    line = next(line for line in text.splitlines() if line.startswith("training.how=a"))
    assert line.split(" & ")[0] == (
        r"training.how=a\_b\&c\%d\$e\#f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
        r"\textless{}l\textgreater{}\textbar{}m"
    )


def test_in_latex_a_minus_is_one_and_what_has_no_value_is_a_word(run_of):
    text = tex_text(compared([run_of(1, union=None, slope=-0.5)]))
    assert "$-$0.500" in text
    assert r"\emph{withheld}" in text
    assert "% One seed, 1: no interval." in text
    assert text.isascii()


def test_rounds_that_only_some_seeds_needed_say_how_many(run_of):
    found = compared([run_of(1, curve=(0.6, 0.8)), run_of(2, curve=(0.6, 0.6))])
    rounds, sent, total, _ = costs(found).rows[0].cells
    assert (rounds.text, rounds.beside, rounds.under) == ("2.0", "", ("reached by 1 of 2 seeds",))
    assert (sent.text, total.text) == ("200 B", "300 B")
    assert r"{\scriptsize 1 of 2 seeds} \\" in tex_text(found)


def test_the_worst_hospitals_stand_under_their_area(run_of):
    found = compared([run_of(seed, worst_name=name) for seed, name in enumerate(("elm", "oak", "elm"))])
    assert results(found, ("worst_site_auroc",)).rows[0].cells[0].under == ("Elm, 2 of 3", "Oak, 1 of 3")
    always = compared([run_of(seed) for seed in (1, 2)])
    assert results(always, ("worst_site_auroc",)).rows[0].cells[0].under == ("Oak",)


def test_differences_stand_under_their_outcome(comparison):
    rows = differences(comparison).rows
    assert [row.heading for row in rows] == [outcome["title"] for outcome in comparison["outcomes"].values()]
    assert rows[0].cells[0].text == "+0.044"


@pytest.mark.parametrize(
    ("note", "text", "under"),
    [
        ("withheld", "withheld", ()),
        ("withheld: fewer than 10 patients, in 1 of 3 runs", "withheld", ("fewer than 10 patients, in 1 of 3 runs",)),
        ("not reached", "not reached", ()),
        ("nobody had the outcome", "not estimable", ("nobody had the outcome",)),
    ],
)
def test_what_has_no_value_says_so_in_a_word_and_why_beneath(note, text, under):
    found = cell({"value": None, "low": None, "high": None, "method": "", "note": note})
    assert (found.text, found.under, found.is_absent) == (text, under, True)


def test_a_sign_tells_on_which_side_of_nothing_a_bound_is():
    assert [signed(x) for x in (0.0124, -0.0004, 0.0004)] == ["+0.012", "−0.000", "+0.000"]


def test_a_small_p_value_is_below_a_thousandth_and_never_nothing():
    assert [p_value(p) for p in (None, 0.0, 0.0004, 0.0321)] == ["–", "< 0.001", "< 0.001", "0.032"]
