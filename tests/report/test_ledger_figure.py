"""The ledger's figure: an SVG file of its own, with a line a cohort that ends where no bound holds."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

from fedhealth.report.ledger_figure import Spent, spending


def words(svg):
    return [text.strip() for text in ET.fromstring(svg).itertext() if text.strip()]


def test_it_names_cohorts_studies_and_the_cap():
    two = [
        Spent("inpatients", [20, 40], [1.5, 2.5], ["mortality", "readmission"], "ε = 2.5"),
        Spent("births", [5], [0.3], ["growth"], "ε = 0.3"),
    ]
    found = words(spending(two, delta=1e-5, cap=4.0))
    assert {"inpatients", "births", "mortality", "readmission", "growth", "cap, ε = 4"} <= set(found)
    assert "inpatients: 40 events, ε = 2.5; births: 5 events, ε = 0.3" in found


def test_where_no_bound_holds_it_says_so():
    found = words(spending([Spent("inpatients", [20, 21], [1.5, math.inf], ["a", "b"], "ε = ∞")], delta=1e-5, cap=None))
    assert "inpatients: no bound from here on" in found
    assert not any("inf" in word.lower().replace("inpatients", "") for word in found)


def test_nothing_charged_is_an_empty_figure():
    assert "Events charged" in words(spending([], delta=1e-5, cap=None))
