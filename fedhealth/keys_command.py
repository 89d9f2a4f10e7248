"""`fedhealth site keys init`: a hospital's identity, made once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import argparse

    Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


def add_to(records: argparse._SubParsersAction[Parser]) -> None:
    """Add `keys` to what a hospital has of its own."""
    keys = records.add_parser("keys", help="the keys by which other hospitals know it")
    verbs = keys.add_subparsers(title="commands", required=True, metavar="COMMAND")
    init = verbs.add_parser("init", help="make them where there are none, and print the public one")
    init.add_argument("--site", type=Path, required=True, metavar="FOLDER", help="the hospital's, with site.yaml")
    init.set_defaults(run=_init)


def _init(chosen: argparse.Namespace) -> None:
    from fedhealth.core.manifest import load_manifest
    from fedhealth.site.keys import FOLDER, Keys

    name = load_manifest(chosen.site).name
    sys.stdout.write(f"{name}: {Keys(chosen.site / FOLDER).init()}\n")
