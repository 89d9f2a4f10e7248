"""The page of an inspection: a hospital's data as it is, for the hospital alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedhealth.report.page import templates

if TYPE_CHECKING:
    from collections.abc import Mapping


def html(found: Mapping[str, Any]) -> str:
    """The page of an inspection's document (`site.inspection.inspected`), as text."""
    return templates().get_template("quality.html.j2").render(found=found, finding=finding(found))


def finding(found: Mapping[str, Any]) -> str:
    """What the inspection comes to, in a sentence or two."""
    patients = f"{found['kept']:,} patients"
    can = f"{patients} can take part." if found["is_fit"] else f"A round would be refused, with {patients} found."
    doubts = [each["title"] for each in found["features"] if each["looks_like"]]
    moved = [each["title"] for each in found["features"] if each["has_moved"]]
    said = [can]
    if doubts:
        said.append(f"Look at the unit of {_listed(doubts)}.")
    if moved:
        said.append(f"Since the last inspection the values of {_listed(moved)} moved.")
    return " ".join(said)


def _listed(names: list[str], most: int = 5) -> str:
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
