"""OMOP CDM 5.4 in DuckDB: a database file, or a folder with a CSV or Parquet file a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import DataError
from fedhealth.core.settings import settings
from fedhealth.site.duck import batches, columns, opened, quoted, reading
from fedhealth.site.files import allowed
from fedhealth.site.omop import TABLES, OmopSettings, read_cdm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from duckdb import DuckDBPyConnection
    from sqlalchemy import Select

    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.table import Table
    from fedhealth.core.task import Task
    from fedhealth.site.omop import Batch

#: How a cell of each type is read from text. What is no number becomes infinite, which is counted later.
_READ = {
    "integer": "try_cast({0} as bigint)",
    "float": "case when try_cast({0} as double) is null and trim({0}) <> '' then 'infinity'::double "
    "else try_cast({0} as double) end",
    "date": "try_cast({0} as date)",
    "datetime": "try_cast({0} as timestamp)",
    "text": "{0}",
}


@settings
class OmopDuckdbSource(OmopSettings):
    """The tables of OMOP in DuckDB.

    Attributes:
        path: a database file, or a folder of `person.csv`, `measurement.parquet` and so on, in
            capitals or not; from the hospital's folder or from an environment variable.
    """

    path: str = field(metadata={"example": "cdm.duckdb"})

    def rows(self, *, spec: FeatureSpec, task: Task, manifest: SiteManifest, folder: Path, seed: int) -> Table:  # noqa: ARG002 (a database draws nothing)
        """The patients of the tables, as `site.omop` reads them.

        Raises:
            DataError: a table or a column is missing, or nobody is in them.
        """
        path = allowed(folder, self.path, manifest)
        with opened(None if path.is_dir() else path) as connection:
            if path.is_dir():
                _view(connection, path, self.schema)
            return read_cdm(_Duckdb(connection, self.schema), self, spec=spec, task=task, manifest=manifest)


@dataclass(frozen=True, slots=True)
class _Duckdb:
    connection: DuckDBPyConnection
    schema: str

    def columns(self, table: str) -> list[str]:
        found = self.connection.execute(
            "select column_name from information_schema.columns where table_name = ? and table_schema = ?",
            [table, self.schema or "main"],
        ).fetchall()
        return [name for (name,) in found]

    def batches(self, statement: Select[Any]) -> Iterator[Batch]:
        from sqlalchemy.dialects import postgresql

        # DuckDB speaks PostgreSQL's dialect, and numbers its bound values so.
        dialect = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
        compiled = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        values = compiled.params
        yield from batches(self.connection, str(compiled), [values[name] for name in compiled.positiontup or ()])


def _view(connection: DuckDBPyConnection, folder: Path, schema: str) -> None:
    """Make a view of each table that has a file, with the types of CDM 5.4."""
    import duckdb

    if schema:
        connection.execute(f"create schema {quoted(schema)}")
    files = {path.name.lower(): path for path in sorted(folder.iterdir())}
    for table, types in TABLES.items():
        path = next(
            (files[table + ending] for ending in (".parquet", ".csv", ".csv.gz") if table + ending in files), None
        )
        if path is None:
            continue
        found = columns(connection, path)
        try:
            chosen = [
                f"{_READ[types[name.lower()]].format(quoted(name) + '::varchar')} as {quoted(name.lower())}"
                if name.lower() in types
                else f"{quoted(name)} as {quoted(name.lower())}"
                for name in found
            ]
            place = f"{quoted(schema)}.{quoted(table)}" if schema else quoted(table)
            connection.execute(f"create view {place} as select {', '.join(chosen)} from {reading(path)}")
        except duckdb.Error as error:
            raise DataError(
                f"{path} must be a table in CSV or Parquet, found a {type(error).__name__}. Export it again."
            ) from None
