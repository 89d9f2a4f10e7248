"""DuckDB, where a source needs it: opened for reading, with bounds on memory and threads."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import DataError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray

BATCH_ROWS = 122_880  # one of DuckDB's own row groups
MEMORY = "1GB"


@contextmanager
def opened(file: Path | None = None) -> Iterator[DuckDBPyConnection]:
    """A connection to a database file, which is only read, or to none.

    Raises:
        SettingError: DuckDB is not installed.
        DataError: the file is no database.
    """
    try:
        import duckdb
    except ImportError:
        raise SettingError(
            "this source must have DuckDB, found it not installed. Run pip install 'fedhealth[hospital]'."
        ) from None
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY,
        "threads": 1,
        "autoinstall_known_extensions": False,
    }
    try:
        connection = duckdb.connect(str(file or ":memory:"), read_only=file is not None, config=settings)
    except duckdb.Error as error:
        raise DataError(
            f"{file} must be a DuckDB database that may be read, found {type(error).__name__}. Correct source.path."
        ) from None
    with connection:
        yield connection


def batches(
    connection: DuckDBPyConnection, statement: str, values: Sequence[object] = ()
) -> Iterator[dict[str, NDArray[Any]]]:
    """The rows of a statement by column, as they come: numbers with NaN for null, words as objects with None.

    Raises:
        DataError: DuckDB can't read on.
    """
    import duckdb

    try:
        reader = connection.sql(statement, params=list(values)).to_arrow_reader(BATCH_ROWS)
        for batch in reader:
            yield {name: _numpy(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    except (duckdb.Error, OSError) as error:
        # The message may quote a cell.
        raise DataError(
            f"the source must be readable to its end, found a {type(error).__name__}. Export or load it again."
        ) from None


def _numpy(column: Any) -> NDArray[Any]:  # noqa: ANN401 - an arrow array, whose package has no types
    import pyarrow as pa

    if pa.types.is_integer(column.type) and column.null_count:
        column = column.cast(pa.float64())
    found: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return found


def quoted(name: str) -> str:
    """A column's or table's name as DuckDB wants it, whatever signs it has."""
    return '"' + name.replace('"', '""') + '"'
