"""`fedhealth site inspect-data | new`: a hospital's data before it takes part, and the first draft of its site.yaml."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import argparse

    from rich.table import Table

    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.task import Task

    Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

REFUSED = 3


def add_to(records: argparse._SubParsersAction[Parser]) -> None:
    """Add `inspect-data` and `new` to what a hospital has of its own."""
    inspect = records.add_parser(
        "inspect-data", help="what is missing, bad, moved or in a doubtful unit; the report stays here"
    )
    inspect.add_argument("site", type=Path, metavar="FOLDER", help="the hospital's, with site.yaml")
    inspect.add_argument("--task", default="mortality", help="one of configs/task; default: mortality")
    inspect.add_argument("--features", help="one of configs/features; default: the task's name")
    inspect.add_argument("--seed", type=int, default=7, help="the study's")
    inspect.add_argument("--out", type=Path, metavar="FOLDER", help="default: quality, in the hospital's folder")
    inspect.set_defaults(run=_inspect)
    new = records.add_parser("new", help="draft a site.yaml from a table, with each guess marked for review")
    new.add_argument("--from", dest="table", type=Path, required=True, metavar="TABLE", help="CSV or Parquet")
    new.add_argument("--task", default="mortality", help="one of configs/task; default: mortality")
    new.add_argument("--features", help="one of configs/features; default: the task's name")
    new.add_argument("--name", help="the hospital's; default: the table's")
    new.add_argument("--out", type=Path, default=Path("sites"), metavar="FOLDER", help="default: sites")
    new.set_defaults(run=_new)


def _inspect(chosen: argparse.Namespace) -> int:
    from fedhealth.core.manifest import load_manifest
    from fedhealth.progress import console
    from fedhealth.report.quality_page import finding, html
    from fedhealth.site import inspection

    task, spec = study_parts(chosen.task, chosen.features)
    folder = chosen.site.resolve()
    out = chosen.out or folder / "quality"
    found, quality = inspection.inspected(
        load_manifest(folder), folder, spec=spec, task=task, seed=chosen.seed, before=inspection.last(out)
    )
    inspection.write(found, quality, out)
    page = out / "report.html"
    inspection.replace_file(page, html(found))
    console().print(_table(found), "", finding(found), highlight=False)
    for reason in found["reasons"]:
        sys.stdout.write(f"refused: {reason}\n")
    sys.stdout.write(f"\nreport: {page}\n")
    return 0 if found["is_fit"] else REFUSED


def _new(chosen: argparse.Namespace) -> None:
    from rich.markup import escape
    from rich.table import Table

    from fedhealth.core.errors import SettingError
    from fedhealth.core.manifest import MANIFEST, load_manifest
    from fedhealth.progress import console
    from fedhealth.site.draft import drafted

    task, spec = study_parts(chosen.task, chosen.features)
    name = chosen.name or re.sub(r"[^a-z0-9]+", "-", chosen.table.stem.lower()).strip("-")[:60] or "hospital"
    path = chosen.out / name / MANIFEST
    if path.exists():
        raise SettingError(f"a site.yaml is never written over, found {path}. Choose another --name or --out.")
    draft = drafted(chosen.table, name=name, spec=spec, task=task)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(draft.text, encoding="utf-8")
    load_manifest(path.parent)
    table = Table("variable", "column", "unit", "why", box=None)
    for each in draft.guesses:
        table.add_row(*map(escape, (each.variable, each.column or "-", each.unit, each.why or "nothing looks like it")))
    console().print(table)
    sys.stdout.write(f"\nreview {path}, then: fedhealth site inspect-data {path.parent} --task {chosen.task}\n")


def study_parts(task: str, features: str | None) -> tuple[Task, FeatureSpec]:
    """The task and the feature spec of those names in the configs.

    Raises:
        SettingError: there is none of that name.
    """
    from fedhealth.compose import composed, resolved
    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.settings import read
    from fedhealth.core.task import Task

    config = resolved(composed([f"task={task}", *([f"features={features}"] if features else [])]))
    return read(Task, config["task"], where="task"), read(FeatureSpec, config["features"], where="features")


def _table(found: dict[str, Any]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("feature", "missing", "no number", "out of range", "unit", "moved", box=None)
    for each in found["features"]:
        doubt = f"{each['unit']}, looks like {each['looks_like']}" if each["looks_like"] else each["unit"]
        moved = "" if each["drift"] is None else f"{each['drift']:.2f}"
        shares = [f"{each[key] / each['patients']:.1%}" for key in ("missing", "unreadable", "implausible")]
        table.add_row(escape(each["title"]), *shares, escape(doubt), moved)
    return table
