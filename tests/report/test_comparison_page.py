from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from fedhealth.report.comparison import compared
from fedhealth.report.comparison_figure import draw
from fedhealth.report.comparison_page import finding, write

SVG = "{http://www.w3.org/2000/svg}"
KINDS = ["csv", "html", "json", "svg", "tex"]


class Page(HTMLParser):
    """Tags with their attributes and the words of the page; every tag must close in turn."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and "style" not in self.open:
            self.words.append(data.strip())


def two_groups(run_of, seeds=(1, 2, 3), **more):
    return compared(
        [
            run_of(seed, strategy=strategy, union=0.7 + shift + seed * step, **more)
            for strategy, shift, step in (("FedAvg", 0.0, 0.01), ("FedAdam", 0.04, 0.012))
            for seed in seeds
        ]
    )


@pytest.fixture
def written(run_of, tmp_path):
    return {path.suffix[1:]: path.read_text(encoding="utf-8") for path in write(two_groups(run_of), tmp_path / "out")}


def test_a_comparison_is_five_files_and_the_json_is_its_document(run_of, written):
    assert sorted(written) == KINDS
    assert json.loads(written["json"]) == two_groups(run_of)


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(written):
    page = Page(written["html"])
    assert not page.open
    assert not {"script", "link", "iframe", "img"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|@import|url\((?!#)", written["html"])
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))


def test_the_page_has_the_numbers_the_differences_and_the_method(written):
    text = " ".join(Page(written["html"]).words)
    for said in (
        "All hospitals are simulated.",
        "0.720 [0.695, 0.745]",
        "+0.044 [+0.039, +0.049]",
        "A seed draws the simulated patients anew",
        "adjusted by Holm’s method",
        "strategy=fedadam",
        "not reached",
    ):
        assert said in text, said
    assert "None" not in text


def test_the_figure_alone_is_an_svg_with_its_own_colours(written):
    root = ET.fromstring(written["svg"])
    assert root.tag == f"{SVG}svg"
    assert {"width", "height", "viewBox", "font-family"} <= set(root.attrib)
    assert "var(--" not in written["svg"]
    words = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert {"AUROC, all patients together", "AUROC, worst hospital", "AUROC on validation patients"} <= set(words)
    assert words.count("strategy=fedadam") == 2, "beside its row and in the key of the curves"
    referred = re.findall(r'(?:url\(|xlink:href=")#([^)"]+)', written["svg"])
    assert set(referred) <= {element.get("id") for element in root.iter()}


def test_where_patients_are_followed_over_time_the_figure_shows_harrells_c_first(run_of, tmp_path):
    texts = {path.suffix[1:]: path.read_text(encoding="utf-8") for path in write(two_groups(run_of, c=0.65), tmp_path)}
    words = ["".join(text.itertext()) for text in ET.fromstring(texts["svg"]).iter(f"{SVG}text")]
    titles = [word for word in words if word.startswith(("Harrell", "AUROC,"))]
    assert titles == ["Harrell's C, within hospitals", "AUROC, all patients together"]
    assert re.search(r"Harrell.s C, within hospitals: strategy=fedavg 0\.65", texts["svg"])
    assert "</b> Harrell’s C and AUROC by group:" in texts["html"]


def test_the_same_comparison_gives_the_same_bytes(run_of, tmp_path, written):
    again = {
        path.suffix[1:]: path.read_text(encoding="utf-8") for path in write(two_groups(run_of), tmp_path / "again")
    }
    assert again == written


def test_a_group_that_withholds_its_area_is_drawn_as_a_word(run_of):
    found = two_groups(run_of)
    found["groups"][0]["outcomes"]["union_auroc"] = {
        "value": None, "low": None, "high": None, "method": "", "note": "withheld, in 1 of 3 runs",
    }  # fmt: skip
    assert ">withheld<" in draw(found).svg


def test_without_validation_patients_no_curve_is_drawn_or_spoken_of(run_of, tmp_path):
    page = write(two_groups(run_of, curve=(None, None)), tmp_path)[0].read_text(encoding="utf-8")
    assert "Figure 1." in page
    assert "AUROC on validation patients by round" not in page


def test_where_nothing_can_be_drawn_there_is_a_page_without_a_figure(run_of, tmp_path):
    bare = compared([run_of(seed, union=None, worst=None, curve=(None,)) for seed in (1, 2)])
    assert draw(bare) is None
    paths = write(bare, tmp_path)
    assert sorted(path.suffix[1:] for path in paths) == ["csv", "html", "json", "tex"]
    page = Page(paths[0].read_text(encoding="utf-8"))
    assert "svg" not in {tag for tag, _ in page.tags}
    assert "withheld" in page.words


def test_a_label_can_not_put_anything_into_the_page(run_of, tmp_path):
    evil = '<script>alert("1")</script>'
    runs = [run_of(config={"training": {"how": how}}) for how in (evil, "plain")]
    page = Page(write(compared(runs), tmp_path)[0].read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert f"training.how={evil}" in page.words


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ((1, 2, 3), "Over 3 seeds, strategy=fedadam has the highest mean AUROC on all test patients together, 0.764"),
        ((1, 2, 3), "These seeds tell it from the next best"),
        ((1,), "Over 1 seed, strategy=fedadam has the highest AUROC on all test patients together, 0.752. One seed"),
    ],
)
def test_the_finding_is_said_from_the_numbers_alone(run_of, seeds, said):
    assert said in finding(two_groups(run_of, seeds))


def test_over_time_the_finding_and_the_first_column_are_of_harrells_c(run_of, tmp_path):
    found = compared(
        [
            run_of(s, strategy=k, c=v + s / 100, union=0.9 - v)
            for k, v in (("FedAvg", 0.6), ("FedAdam", 0.7))
            for s in (1, 2)
        ]
    )
    said = "strategy=fedadam has the highest mean Harrell’s C within hospitals, 0.715"
    assert said in finding(found)
    page = " ".join(Page(write(found, tmp_path)[0].read_text(encoding="utf-8")).words)
    assert said in page
    assert page.index("Harrell's C, within hospitals") < page.index("AUROC, mean of hospitals")


def test_a_difference_that_seeds_do_not_tell_is_said_to_be_so(run_of):
    runs = [run_of(seed, strategy=s, union=0.7 + seed / 50 + (seed - 2) * tilt) for s, tilt in
            (("FedAvg", 0.0), ("FedAdam", 0.03)) for seed in (1, 2, 3, 4)]  # fmt: skip
    assert finding(compared(runs)).endswith("These seeds do not tell it from the next best.")
    assert "do not tell" not in finding(compared(runs[:4]))
