"""A report of many hospitals: readable, and complete beside the page."""

from __future__ import annotations

import csv
import io

from fedhealth.core.measure import Measure
from fedhealth.report.many import as_csv, below, worst


def hospitals(n):
    """Hospitals whose AUROC rises evenly from 0.5 to 0.9; each fifth withholds its own."""
    return [
        {
            "name": f"h{k:03d}", "region": "west", "train": 60, "validation": 20, "test": 20, "events": None,
            "federated": None if k % 5 == 4 else Measure(0.5 + 0.4 * k / (n - 1), 0.4, 0.95).to_json(),
        }
        for k in range(n)
    ]  # fmt: skip


def test_of_few_hospitals_all_are_shown_as_they_came():
    assert worst(hospitals(30)) == hospitals(30)


def test_of_many_the_ten_lowest_are_shown_and_none_that_shows_no_result():
    assert [site["name"] for site in worst(hospitals(101))] == [
        "h000", "h001", "h002", "h003", "h005", "h006", "h007", "h008", "h010", "h011",
    ]  # fmt: skip


def test_half_lie_below_the_middle():
    assert abs(below(hospitals(101), "federated", 0.5) - 0.7) < 0.01
    assert below(hospitals(101), "local", 0.5) is None


def test_the_csv_has_a_line_for_each_and_nothing_for_what_is_withheld():
    rows = list(csv.DictReader(io.StringIO(as_csv(hospitals(101)))))
    assert len(rows) == 101
    assert (rows[0]["auroc_federated"], rows[0]["train"], rows[0]["events"]) == ("0.5", "60", "")
    assert rows[4]["auroc_federated"] == rows[4]["auroc_federated_low"] == ""
