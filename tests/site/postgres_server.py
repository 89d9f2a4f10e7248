"""A real PostgreSQL for the tests: started in a folder of its own, reached by a socket, stopped at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pytest

OWNER, READER, PASSWORD = "owner", "reader", "not-a-secret-of-anyone"


@dataclass(frozen=True)
class Server:
    socket: str
    port: int
    owner: tuple[str, ...]
    bin: Path
    folder: Path

    def sql(self, statements: str, *, database: str = "cdm") -> list[tuple]:
        """The rows of the last statement, asked by the owner."""
        import psycopg

        where = {"host": self.socket, "port": self.port, "user": OWNER, "dbname": database}
        with psycopg.connect(**where, autocommit=True) as connection:
            done = connection.execute(statements)
            return done.fetchall() if done.description else []

    def fill(self, table: str, text: str) -> None:
        """Load a table of the schema `cdm` from CSV with a header."""
        import psycopg

        with psycopg.connect(host=self.socket, port=self.port, user=OWNER, dbname="cdm") as connection:
            statement = f"copy cdm.{table} ({text.partition(chr(10))[0]}) from stdin with (format csv, header)"
            with connection.cursor().copy(statement) as copy:
                copy.write(text)

    def control(self, *words: str) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", *words)

    def _run(self, program: str, *words: str, feed: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.owner, str(self.bin / program), *words], input=feed, capture_output=True, text=True, check=False,
            cwd=self.folder, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done


def programs() -> Path | None:
    """Where initdb is, if anywhere."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return newest[-1].parent if newest else None


@contextmanager
def running():
    """A server with a database `cdm`, an owner who may write and a reader with a password who may not."""
    where = programs()
    if where is None:
        pytest.skip("PostgreSQL must be installed, found no initdb (apt-get install postgresql)")
    # Short, since the path of a socket has room for a hundred letters.
    folder = Path(mkdtemp(prefix="pg", dir="/tmp"))
    owner: tuple[str, ...] = ()
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        user = "postgres" if subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode == 0 else "nobody"  # fmt: skip
        shutil.chown(folder, user)
        owner = ("runuser", "-u", user, "--") if shutil.which("runuser") else ("setpriv", "--reuid", user, "--clear-groups")  # fmt: skip
        folder.chmod(0o755)
    server = Server(str(folder), 54321, owner, where, folder)
    try:
        server._run("initdb", "-D", str(folder / "data"), "-U", OWNER, "--no-sync", "--locale=C", "--encoding=UTF8", "-A", "trust")  # fmt: skip
        hba = f"local all {OWNER} trust\nlocal all {READER} scram-sha-256\n"
        _write(server, "pg_hba.conf", hba)
        settings = f"-k {folder} -p {server.port} -c listen_addresses='' -c fsync=off"
        server.control("-l", str(folder / "log"), "-o", settings, "start")
        server.sql("create database cdm", database="postgres")
        server.sql(f"create role {READER} login password '{PASSWORD}';")
        yield server
    finally:
        subprocess.run([*owner, str(where / "pg_ctl"), "-D", str(folder / "data"), "-m", "immediate", "stop"], capture_output=True, check=False, timeout=60)  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)


def _write(server: Server, name: str, text: str) -> None:
    subprocess.run([*server.owner, "tee", str(server.folder / "data" / name)], input=text, capture_output=True, text=True, check=True)  # fmt: skip
