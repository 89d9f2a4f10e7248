"""Parquet: one row a patient, one column a variable, in one file or a folder of parts."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from fedhealth.core.errors import DataError
from fedhealth.core.settings import settings
from fedhealth.site import duck
from fedhealth.site.files import allowed
from fedhealth.site.wide import Wanted

if TYPE_CHECKING:
    from pathlib import Path

    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.table import Table
    from fedhealth.core.task import Task


@settings
class ParquetSource:
    """A Parquet file, read by DuckDB: the wanted columns alone, a row group at a time.

    Attributes:
        path: from the hospital's folder, or from an environment variable: `${NAME}/…`; a folder
            of `.parquet` files is one table.
        missing: words that mean "no value", whatever the column.
        patient: the column of pseudonyms; empty numbers the rows.
        split: the column that says train, validation or test; empty splits by hash.
        consent: the column that says 1, true, yes or y where the patient allows research use.
    """

    path: str = field(metadata={"example": "patients.parquet"})
    missing: tuple[str, ...] = ("",)
    patient: str = ""
    split: str = ""
    consent: str = ""

    def rows(self, *, spec: FeatureSpec, task: Task, manifest: SiteManifest, folder: Path, seed: int) -> Table:  # noqa: ARG002 (a file draws nothing)
        """The file's patients; a variable's column has the local name in the manifest's `codes`, or its own.

        Raises:
            DataError: the file is missing, empty or no Parquet; a column is missing; a split has another name.
            SettingError: DuckDB is not installed.
        """
        wanted = Wanted.by(spec, task, manifest, patient=self.patient, split=self.split, consent=self.consent)
        path = allowed(folder, self.path, manifest)
        with duck.opened() as connection:
            wanted.check(list(duck.columns(connection, path)), path)
            numbers, words = duck.wide(connection, path, wanted.local, wanted.numeric, self.missing)
        if not len(numbers[task.outcome]):
            raise DataError(f"{path} must hold patients, found no row. Export the table again.")
        return wanted.table(numbers, words, path)
