"""Sources: where a hospital's rows come from. One file a kind, one `…Source` class a file.

A source is a settings class; its fields are the keys beside `kind` in the `source` block
of site.yaml. Adding one is adding a file here.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fedhealth.core.errors import SettingError, did_you_mean
from fedhealth.core.manifest import MANIFEST
from fedhealth.core.settings import read

if TYPE_CHECKING:
    from pathlib import Path

    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.table import Table
    from fedhealth.core.task import Task


class Source(Protocol):
    """Where patient rows come from."""

    def rows(self, *, spec: FeatureSpec, task: Task, manifest: SiteManifest, folder: Path, seed: int) -> Table:
        """The hospital's patients, a column for each feature of `spec`, before any rule is applied.

        Numbers are in the hospital's unit, NaN where missing, and infinite where a cell
        holds something that is not a number.

        Raises:
            DataError: there is nothing that could be read as such a table.
        """
        ...


@runtime_checkable
class Reachable(Protocol):
    """A source that is elsewhere, and can be asked whether it is there."""

    def reach(self, folder: Path) -> None:
        """Do nothing where it answers; no patient is read.

        Raises:
            DataError: it does not.
        """
        ...


@cache
def kinds() -> tuple[str, ...]:
    """What `source.kind` may be."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def open_source(manifest: SiteManifest, folder: Path) -> Source:
    """The source that a hospital's manifest chooses, with its settings checked.

    Raises:
        SettingError: no such kind, or a setting it does not take.
    """
    kind, where = str(manifest.source["kind"]), str(folder / MANIFEST)
    if kind not in kinds():
        raise SettingError(f"{where}: source.kind must be a known kind, found {kind}. {did_you_mean(kind, kinds())}")
    chosen = {key: value for key, value in manifest.source.items() if key != "kind"}
    return read(_source_class(kind), chosen, where=f"{where}: source")


@cache
def _source_class(kind: str) -> type[Source]:
    """The one public class of the kind's module whose name ends in `Source`."""
    module = importlib.import_module(f"{__name__}.{kind}")
    found = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and name.endswith("Source")
        and name[0] != "_"
    ]
    if len(found) != 1:
        raise SettingError(
            f"{module.__name__} must define one public class named …Source, found {len(found)}. Split the module."
        )
    return found[0]
