from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from fedhealth.core.errors import DataError
from fedhealth.report.page import html, write_html

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VOID = {"meta", "br"}
SECTIONS = [
    "design", "training", "results", "hospitals", "discrimination", "calibration", "groups", "differences", "cost",
    "methods", "notes", "reproduce",
]  # fmt: skip
FIGURES = ["convergence", "losses", "comparison", "forest", "roc", "pr", "reliability", "decision", "icc", "distance"]
NO_VALUE = {"value": None, "low": None, "high": None, "method": "", "note": "one class only among the test patients"}
LEAST = {"schema": 1, "study": {"name": "tiny"}, "sites": [{"name": "a", "title": "A"}]}


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, text by tag, and whether every tag closes in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((self.open[-1] if self.open else "", data.strip()))

    def values(self, tag: str, name: str) -> list[str]:
        return [found[name] or "" for each, found in self.tags if tag in (each, "*") and name in found]

    def count(self, tag: str) -> int:
        return sum(each == tag for each, _ in self.tags)

    @property
    def text(self) -> str:
        return " ".join(words for tag, words in self.words if tag != "style")


@pytest.fixture(scope="module")
def whole(sample: Callable[..., dict[str, Any]]) -> str:
    """The page of the sample study."""
    return html(sample())


def test_a_whole_report_has_every_section_once_under_one_heading(whole: str) -> None:
    page = Page(whole)
    assert page.values("section", "id") == SECTIONS
    assert (page.count("h1"), page.count("h2")) == (1, len(SECTIONS))
    assert not page.open


def test_the_contents_lead_to_sections_that_are_there(whole: str) -> None:
    page = Page(whole)
    targets = {link.removeprefix("#") for link in page.values("a", "href")}
    assert targets
    assert targets <= set(SECTIONS)


def test_every_figure_has_words_for_those_who_can_not_see_it(whole: str) -> None:
    page = Page(whole)
    labels = page.values("svg", "aria-labelledby")
    assert sorted(labels) == sorted(f"{name}-title {name}-desc" for name in FIGURES)
    said = [words for tag, words in page.words if tag in ("title", "desc")]
    assert len(said) == 1 + 2 * len(FIGURES)
    assert page.count("figcaption") == len(FIGURES)
    assert page.count("caption") == page.count("table")


def test_no_id_is_given_twice_and_every_reference_is_kept(whole: str) -> None:
    page = Page(whole)
    ids = page.values("*", "id")
    assert len(ids) == len(set(ids))
    referred = re.findall(r"url\(#([^)]+)\)", whole) + [x[1:] for x in page.values("use", "href")]
    assert referred
    assert set(referred) <= set(ids)


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(whole: str) -> None:
    page = Page(whole)
    assert "http:" not in whole
    assert "https:" not in whole
    assert "@import" not in whole
    assert not {"script", "link", "iframe", "img"} & {tag for tag, _ in page.tags}
    assert all(link.startswith("data:image/png;base64,") for link in page.values("image", "href"))


@pytest.mark.process
@pytest.mark.slow
def test_the_same_report_gives_the_same_bytes_in_another_process(report: dict[str, Any], tmp_path: Path) -> None:
    write_html(report, tmp_path / "here.html")
    run = (
        "import json, sys; from pathlib import Path; from fedhealth.report.page import write_html;"
        "write_html(json.load(sys.stdin), Path(sys.argv[1]))"
    )
    there = tmp_path / "there.html"
    subprocess.run([sys.executable, "-c", run, there], input=json.dumps(report), text=True, check=True)
    assert there.read_bytes() == (tmp_path / "here.html").read_bytes()


@pytest.mark.slow
def test_the_page_stays_small(sample: Callable[..., dict[str, Any]], whole: str) -> None:
    assert len(whole.encode()) < 200_000
    assert len(html(sample(sites=40)).encode()) < 400_000


@pytest.mark.slow
def test_one_hospital_is_not_compared_with_itself(sample: Callable[..., dict[str, Any]]) -> None:
    text = Page(html(sample(sites=1))).text
    assert "Trained at 1 hospital" in text
    assert "average hospital it reaches" not in text
    assert "worst hospital" not in text.split("What was done")[0]


@pytest.mark.slow
def test_a_title_can_not_put_anything_into_the_page(report: dict[str, Any]) -> None:
    bad = '<script>alert("1")</script> $x^2$ & \N{CJK UNIFIED IDEOGRAPH-6771}'
    report["sites"][0]["title"] = report["study"]["title"] = report["comparison"][1]["label"] = bad
    report["sites"][0]["status"] = report["groups"][0]["level"] = report["notes"][0] = bad
    page = Page(html(report))
    assert page.count("script") == 0
    assert bad in page.text
    # Once in a table, and once, cut, in the forest plot.
    assert '<script>alert("1")' in " ".join(words for tag, words in page.words if tag == "text")


@pytest.mark.slow
def test_a_measure_without_a_value_is_said_to_be_so(report: dict[str, Any]) -> None:
    site, union = report["sites"][3], report["union"]["federated"]
    site["federated"] = site["measures"]["auroc"] = union["auroc"] = NO_VALUE
    page = Page(html(report))
    assert "AUROC is not estimable: one class only among the test patients." in page.text
    assert "not estimable" in " ".join(words for tag, words in page.words if tag == "text")
    assert "Lakeview Regional Medical Centre, AUROC: one class only among the test patients." in page.text
    values = [words for tag, words in page.words if tag == "dd"]
    assert values[values.index("one class only among the test patients") - 1] == "not estimable"


@pytest.mark.slow
def test_a_measure_withheld_everywhere_at_a_hospital_is_said_once(report: dict[str, Any]) -> None:
    gone = {**NO_VALUE, "note": "withheld: fewer than 5 patients"}
    site = report["sites"][3]
    site |= dict.fromkeys(("local", "federated", "pooled", "oracle"), gone)
    site["measures"] = dict.fromkeys(site["measures"], gone)
    cells = [words for tag, words in Page(html(report)).words if tag == "td" and words == gone["note"]]
    assert len(cells) == 2


def test_a_hospital_that_withholds_its_results_is_named_without_numbers(whole: str) -> None:
    page = Page(whole)
    assert "the 7 hospitals whose policy allows it" in page.text
    at = [k for k, (_, words) in enumerate(page.words) if words == "Hospital Santa Clara"]
    after = [" ".join(words for _, words in page.words[k + 1 : k + 3]) for k in at]
    assert any("withheld by the hospital’s policy" in words for words in after)


def test_what_a_report_leaves_out_the_page_leaves_out() -> None:
    page = Page(html(LEAST))
    assert page.values("section", "id") == ["design", "hospitals"]
    assert page.count("figure") == 0
    assert page.count("table") == 1
    assert "None" not in page.text


@pytest.mark.parametrize(
    "parts", [("rounds", "comparison", "groups", "cost"), ("union", "curves", "heterogeneity", "manifest")]
)
@pytest.mark.slow
def test_any_part_may_be_null(sample: Callable[..., dict[str, Any]], parts: tuple[str, ...]) -> None:
    report = sample(sites=3) | dict.fromkeys(parts)
    page = Page(html(report))
    assert not page.open
    assert "None" not in page.text
    assert all(words for _, words in page.words)


@pytest.mark.slow
def test_without_baselines_no_other_way_of_training_is_spoken_of(sample: Callable[..., dict[str, Any]]) -> None:
    text = Page(html(sample(baselines=False))).text
    assert "Pooled" not in text
    assert "alone" not in text
    assert "Oracle" not in text


@pytest.mark.slow
def test_simulated_hospitals_are_called_so(report: dict[str, Any]) -> None:
    for site in report["sites"][1:]:
        site["simulated"] = False
    assert "1 of the 8 hospitals in this study is simulated." in Page(html(report)).text


def test_failures_are_listed_with_their_rounds(whole: str) -> None:
    assert "Eastgate Trauma and Emergency Centre no answer within 30 s 9–10, 17" in Page(whole).text


@pytest.mark.slow
def test_variables_that_the_figure_leaves_out_are_counted(report: dict[str, Any], whole: str) -> None:
    few = Page(whole).text
    rows = report["heterogeneity"]["rows"]
    report["heterogeneity"]["rows"] = [{**rows[k % len(rows)], "label": f"Variable {k}"} for k in range(30)]
    many = Page(html(report))
    assert "that differ most" not in few
    assert "The 24 of 30 variables that differ most." in many.text
    assert sum(tag == "text" and words.startswith("Variable ") for tag, words in many.words) == 24


def test_a_report_of_another_schema_is_refused() -> None:
    with pytest.raises(DataError, match="must have schema 1, found 2"):
        html({**LEAST, "schema": 2})


def test_the_package_alone_loads_no_plotting() -> None:
    code = "import sys, fedhealth.report; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_decision_curve_that_helps_nobody_still_has_an_axis(sample):
    report = sample(failures=False)
    decision = report["curves"]["federated"]["decision"]
    for key in ("model", "all"):
        decision[key] = [0.0] * len(decision[key])
    assert "Decision curve" in html(report)


@pytest.mark.slow
def test_a_mean_that_is_withheld_is_a_dash_and_the_page_says_why(report, whole):
    why = "A dash is withheld: it would tell of few patients or of one hospital."
    assert why not in whole
    report["preprocessing"][0] |= {"mean": None, "sd": None}
    assert why in html(report)
