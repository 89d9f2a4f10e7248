"""OMOP CDM 5.4 in PostgreSQL, read by a role that can do no more."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.settings import settings
from fedhealth.site.omop import TABLES, OmopSettings, read_cdm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from sqlalchemy import Connection, Select

    from fedhealth.core.features import FeatureSpec
    from fedhealth.core.manifest import SiteManifest
    from fedhealth.core.table import Table
    from fedhealth.core.task import Task
    from fedhealth.site.omop import Batch

BATCH_ROWS = 20_000
#: What PostgreSQL's codes mean to whoever set the source up (its manual, appendix A).
_CODES = {
    "28P01": "a wrong user or password",
    "28000": "a user who may not log in",
    "3D000": "no such database",
    "42501": "a right that the role lacks",
    "57014": "a statement that took longer than source.timeout_s",
}


@settings
class OmopPostgresqlSource(OmopSettings):
    """The tables of OMOP in PostgreSQL.

    Every statement is of one snapshot, in a transaction that may only read, by a role that may
    only read; the rows come by a cursor at the server, a batch at a time.

    Attributes:
        host: the server, or the folder of its socket.
        port: of the server.
        database: its name.
        user: the role.
        password_file: a file with the password, readable by its owner alone, from the hospital's folder.
        password_env: the environment variable with the password, where there is no file. With
            neither, the role must be let in without one.
        sslmode: as libpq has it; verify-full asks for a certificate of that very host.
        timeout_s: how long a statement may take.
    """

    schema: str = "public"
    host: str = field(metadata={"example": "omop.hospital.internal"})
    port: int = 5432
    database: str = field(metadata={"example": "cdm"})
    user: str = field(metadata={"example": "fedhealth_reader"})
    password_file: str = ""
    password_env: str = ""
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "verify-full"
    timeout_s: float = 600.0

    def rows(self, *, spec: FeatureSpec, task: Task, manifest: SiteManifest, folder: Path, seed: int) -> Table:  # noqa: ARG002 (a database draws nothing)
        """The patients of the database, as `site.omop` reads them.

        Raises:
            DataError: the database can't be reached, is lost on the way, lacks a table, or nobody is in it.
            SettingError: the role may write, the password can't be read, or SQLAlchemy is not installed.
        """
        with self._connected(folder) as connection:
            database = _Postgresql(connection, self.schema, manifest.name)
            database.check_role()
            return read_cdm(database, self, spec=spec, task=task, manifest=manifest)

    def reach(self, folder: Path) -> None:
        """Do nothing where the database lets the role in and the role can't write.

        Raises:
            DataError: the database can't be reached.
            SettingError: the role may write, the password can't be read, or SQLAlchemy is not installed.
        """
        with self._connected(folder) as connection:
            _Postgresql(connection, self.schema, folder.name).check_role()

    @contextmanager
    def _connected(self, folder: Path) -> Iterator[Connection]:
        try:
            import psycopg  # noqa: F401 - SQLAlchemy asks for it late, and in other words
            from sqlalchemy import URL, create_engine
            from sqlalchemy.exc import SQLAlchemyError
            from sqlalchemy.pool import NullPool
        except ImportError:
            raise SettingError(
                "this source must have SQLAlchemy and psycopg, found one not installed. "
                "Run pip install 'fedhealth[hospital]'."
            ) from None
        url = URL.create("postgresql+psycopg", self.user, self._password(folder), self.host, self.port, self.database)
        limits = f"-c default_transaction_read_only=on -c statement_timeout={round(self.timeout_s * 1000)}"
        engine = create_engine(
            url,
            poolclass=NullPool,
            hide_parameters=True,
            connect_args={
                "options": limits,
                "sslmode": self.sslmode,
                "connect_timeout": 10,
                "application_name": "fedhealth",
            },
        )
        try:
            # One snapshot for all statements: a patient who is admitted meanwhile is in all of them or in none.
            connection = engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        except SQLAlchemyError as error:
            raise DataError(
                f"the database of {folder.name} must let the role in, found {_cause(error, 'no way in')}. "
                "Check host, port, database, user and password in the source block of site.yaml."
            ) from None
        try:
            yield connection
        finally:
            # Of a connection that is lost already there is nothing to tell.
            try:
                connection.close()
            except SQLAlchemyError:
                connection.invalidate()

    def _password(self, folder: Path) -> str | None:
        if self.password_file:
            path = folder / self.password_file
            if not path.is_file():
                raise SettingError(f"source.password_file must be a file, found none at {path}. Write it there.")
            if os.name == "posix" and path.stat().st_mode & 0o077:
                raise SettingError(
                    f"source.password_file must be for its owner alone, found rights "
                    f"{path.stat().st_mode & 0o777:o} at {path}. Run chmod 600, and change the password."
                )
            return path.read_text(encoding="utf-8").strip()
        if self.password_env:
            if self.password_env not in os.environ:
                raise SettingError(
                    f"source.password_env must name a variable that is set, found {self.password_env} unset. Set it."
                )
            return os.environ[self.password_env]
        return None


@dataclass(frozen=True, slots=True)
class _Postgresql:
    connection: Connection
    schema: str
    site: str

    def check_role(self) -> None:
        """Refuse a role that may change a table it reads."""
        from sqlalchemy import bindparam, text

        statement = text(
            "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where n.nspname = :schema and c.relname in :tables "
            "and has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') order by 1"
        ).bindparams(bindparam("tables", expanding=True))
        found = self._asked(statement, {"schema": self.schema, "tables": list(TABLES)})
        if found:
            raise SettingError(
                f"the role that reads {self.site} must be one that can't write, found rights to change {found[0][0]}. "
                "Make a role with SELECT alone."
            )

    def columns(self, table: str) -> list[str]:
        from sqlalchemy import text

        statement = text(
            "select column_name from information_schema.columns where table_schema = :schema and table_name = :table"
        )
        return [name for (name,) in self._asked(statement, {"schema": self.schema, "table": table})]

    def batches(self, statement: Select[Any]) -> Iterator[Batch]:
        from sqlalchemy.exc import SQLAlchemyError

        rows = 0
        streamed = self.connection.execution_options(stream_results=True, max_row_buffer=BATCH_ROWS)
        cursor = None
        try:
            result = streamed.execute(statement)
            cursor = result.cursor
            names = list(result.keys())
            for part in result.partitions(BATCH_ROWS):
                rows += len(part)
                yield {name: _array(cells) for name, cells in zip(names, zip(*part, strict=True), strict=True)}
        except SQLAlchemyError as error:
            raise DataError(
                f"the database of {self.site} must answer to the last row, found "
                f"{_cause(error, 'the connection lost')} after {rows} rows. Try again, or raise source.timeout_s."
            ) from None
        finally:
            if cursor is not None:
                cursor.close()

    def _asked(self, statement: Any, values: dict[str, Any]) -> Sequence[Any]:  # noqa: ANN401 - text, bound or not
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return self.connection.execute(statement, values).all()
        except SQLAlchemyError as error:
            raise DataError(
                f"the database of {self.site} must say what tables it has, found {_cause(error, 'the connection lost')}. "
                "Try again."
            ) from None


def _array(cells: Sequence[Any]) -> NDArray[Any]:
    if any(isinstance(cell, str) for cell in cells):
        return np.array(cells, dtype=object)
    return np.array(cells, dtype=np.float64)  # None becomes NaN


def _cause(error: Exception, otherwise: str) -> str:
    """What went wrong, without the driver's own words: they may hold a host, a user or a value."""
    return _CODES.get(getattr(getattr(error, "orig", None), "sqlstate", None) or "", otherwise)
