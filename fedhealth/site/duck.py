"""DuckDB, where a source needs it: opened for reading, with bounds on memory and threads."""

from __future__ import annotations

import gzip
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fedhealth.core.errors import DataError, SettingError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
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
    if pa.types.is_string(column.type) and len(column):
        # Few words many times: each is one object, however many rows have it.
        coded = column.dictionary_encode()
        words = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
        found: NDArray[Any] = words[coded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)]
        return found
    whole: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return whole


def quoted(name: str) -> str:
    """A column's or table's name as DuckDB wants it, whatever signs it has."""
    return '"' + name.replace('"', '""') + '"'


def reading(path: Path) -> str:
    """What reads a file, or all files of a kind in a folder, in a statement: Parquet by its columns, CSV as text.

    The names come from a hospital's own folder; DuckDB can't bind them in a view.

    Raises:
        DataError: there is none.
    """
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    parquet = [each for each in paths if each.name.lower().endswith(".parquet")]
    text = [each for each in paths if each.name.lower().endswith((".csv", ".csv.gz"))]
    if not parquet and not text:
        raise DataError(f"{path} must be CSV or Parquet, found neither. Correct the path, or name the file so.")
    names = ", ".join("'" + str(each).replace("'", "''") + "'" for each in parquet or text)
    if parquet:
        return f"read_parquet([{names}])"
    # Vocabularies come with tabs. Told what it is, DuckDB does not try all there is.
    with gzip.open(text[0], "rb") if text[0].suffix == ".gz" else text[0].open("rb") as file:
        delimiter = r"\t" if b"\t" in file.readline() else ","
    return f"read_csv([{names}], all_varchar = true, header = true, delim = '{delimiter}', quote = '\"', escape = '\"')"


def columns(connection: DuckDBPyConnection, path: Path) -> dict[str, str]:
    """The types of a file's columns, by name, in order.

    Raises:
        DataError: it is none that DuckDB reads.
    """
    import duckdb

    try:
        return {row[0]: row[1] for row in connection.execute(f"describe select * from {reading(path)}").fetchall()}
    except (duckdb.Error, OSError) as error:
        raise DataError(
            f"{path} must be a table in CSV or Parquet, found a {type(error).__name__}. Export it again."
        ) from None


def number(column: str) -> str:
    """An expression: cells as numbers, null where empty, infinite where a cell is something else."""
    text = f"trim({quoted(column)}::varchar)"
    as_number = f"try_cast({quoted(column)} as double)"
    return f"case when {as_number} is null and {text} <> '' then 'infinity'::double else {as_number} end"


def wide(
    connection: DuckDBPyConnection,
    path: Path,
    local: Mapping[str, str],
    numeric: Collection[str],
    missing: Sequence[str],
    unique: str = "source.patient",
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[Any]]]:
    """The columns of numbers and the columns of words of a file, by variable, each [n].

    Each is filled as rows come, so that a table takes the memory of its wanted columns and no more.

    Args:
        connection: of DuckDB.
        path: the file.
        local: by variable, the column.
        numeric: the variables that are numbers.
        missing: the words that mean that there is none.
        unique: the variable whose words are all different, and empty where missing.
    """
    source, types = reading(path), columns(connection, path)
    ((n,),) = _all(connection, f"select count(*) from {source}")
    numbers = {name: np.empty(n) for name in local if name in numeric}
    words: dict[str, NDArray[Any]] = {name: np.empty(n, dtype=object) for name in local if name not in numeric}
    if unique in words:
        named = f"trim({quoted(local[unique])}::varchar)"
        ((longest,),) = _all(connection, f"select coalesce(max(length({named})), 1) from {source}")
        words[unique] = np.empty(n, dtype=f"U{longest}")
    chosen = []
    for name, column in local.items():
        cell = f"trim({quoted(column)}::varchar)"
        wanted = number(column) if name in numeric else cell
        if name not in numeric or types[column] == "VARCHAR":
            wanted = f"case when list_contains($1, {cell}) then null else {wanted} end"
        if name == unique:
            wanted = f"coalesce({wanted}, '')"
        chosen.append(f"{wanted} as {quoted(name)}")
    at = 0
    for batch in batches(connection, f"select {', '.join(chosen)} from {source}", [list(missing)]):
        size = len(next(iter(batch.values())))
        for name, into in (*numbers.items(), *words.items()):
            into[at : at + size] = batch[name]
        at += size
    return numbers, words


def _all(connection: DuckDBPyConnection, statement: str) -> list[Any]:
    import duckdb

    try:
        return connection.execute(statement).fetchall()
    except (duckdb.Error, OSError) as error:
        raise DataError(
            f"the source must be readable to its end, found a {type(error).__name__}. Export it again."
        ) from None
