"""A simulation keeps compiled kernels for the next one, where nobody else could have put one."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

import fedhealth
from fedhealth.site.kernels import compiling
from fedhealth.site.kernels.compiling import compiled, keep_in

SOURCE = "native_private.c"
#: Little is compiled at this level, and at once.
FLAGS = ["-O0", "-ffp-contract=off"]


@pytest.fixture
def kept(tmp_path):
    """A folder where kernels are kept, once one has been compiled into it."""
    folder = tmp_path / "kept"
    keep_in(folder)
    compiled(SOURCE, FLAGS)
    yield folder
    keep_in(None)


@pytest.fixture
def compilations(monkeypatch):
    """The compiler's command lines from here on."""
    seen, honest = [], subprocess.run

    def run(command, **options):
        seen.append(command)
        return honest(command, **options)

    monkeypatch.setattr(compiling.subprocess, "run", run)
    return seen


def only(folder):
    (path,) = folder.iterdir()
    return path


def test_what_one_process_compiled_the_next_takes(kept, compilations):
    assert isinstance(compiled(SOURCE, FLAGS), ctypes.CDLL)
    assert not compilations
    assert (kept.stat().st_mode & 0o777, only(kept).stat().st_mode & 0o777) == (0o700, 0o600)


def test_without_a_folder_it_is_compiled_each_time(tmp_path, compilations):
    for _ in range(2):
        compiled(SOURCE, FLAGS)
    assert len(compilations) == 2


def test_other_flags_another_source_another_compiler_or_another_processor_is_another_kernel(kept, monkeypatch):
    def place(source=SOURCE, compiler="/bin/sh", flags=FLAGS):
        return compiling._place_of(source, compiler, flags)

    usual = place()
    others = [place(source="native.c"), place(compiler="/bin/cat"), place(flags=["-O1"])]
    honest = compiling.Path.read_text
    monkeypatch.setattr(compiling.Path, "read_text", lambda self, **how: honest(self, **how).replace("fp", "gp"))
    others.append(place())
    monkeypatch.undo()
    headers = compiling.Path.read_bytes
    monkeypatch.setattr(compiling.Path, "read_bytes", lambda self: headers(self) + b" " * (self.name == "lanes.h"))
    others.append(place())
    assert len({usual, *others}) == 1 + len(others)


@pytest.mark.parametrize("which", ["the folder", "the file"])
def test_what_others_may_write_is_not_run(kept, compilations, which):
    changed = kept if which == "the folder" else only(kept)
    changed.chmod(0o777)
    compiled(SOURCE, FLAGS)
    assert len(compilations) == 1


def test_a_link_is_not_followed(kept, compilations, tmp_path):
    path = only(kept)
    path.rename(tmp_path / "elsewhere.so")
    path.symlink_to(tmp_path / "elsewhere.so")
    compiled(SOURCE, FLAGS)
    assert len(compilations) == 1


@pytest.mark.parametrize("share", [0.2, 0.99])
def test_a_file_cut_short_is_not_run_but_compiled_anew(kept, compilations, share):
    # The loader takes half a library for a whole one; a call into what is missing kills the process.
    whole = only(kept).read_bytes()
    only(kept).write_bytes(whole[: int(share * len(whole))])
    compiled(SOURCE, FLAGS)
    assert len(compilations) == 1
    compiled(SOURCE, FLAGS)
    assert len(compilations) == 1


def test_a_file_swapped_once_it_was_checked_is_not_run(kept, compilations, monkeypatch):
    path, honest, other = only(kept), compiling._is_ours, kept.parent / "other.so"
    other.write_bytes(b"not what was checked")

    def swapping(about):
        if stat.S_ISREG(about.st_mode):
            other.replace(path)
        return honest(about)

    monkeypatch.setattr(compiling, "_is_ours", swapping)
    assert compiled(SOURCE, FLAGS)._name != str(path)
    assert path.read_bytes() == b"not what was checked"
    assert not compilations


def test_a_kernel_that_can_not_take_its_place_leaves_nothing_behind(kept, compilations):
    path = only(kept)
    path.unlink()
    (path / "in the way").mkdir(parents=True)
    compiled(SOURCE, FLAGS)
    assert len(compilations) == 1
    assert only(kept) == path


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_or_one_to_be_read_only_ends_nothing(kept, compilations, monkeypatch, fault):
    only(kept).unlink()

    def refuse(**_):
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(compiling.tempfile, "mkstemp", refuse)
    compiled(SOURCE, FLAGS)
    assert len(compilations) == 1


def test_where_nothing_tells_what_the_processor_can_do_nothing_is_kept(tmp_path, monkeypatch):
    keep_in(tmp_path / "kept")
    try:
        assert compiling._place_of(SOURCE, "/bin/sh", FLAGS) is not None
        monkeypatch.setattr(compiling.Path, "read_text", lambda self, **how: "processor\t: 0\ncpu\t: POWER9\n")
        assert compiling._place_of(SOURCE, "/bin/sh", FLAGS) is None
    finally:
        keep_in(None)


def test_where_nothing_can_be_written_it_is_compiled_all_the_same(tmp_path, compilations):
    (tmp_path / "file").write_text("")
    keep_in(tmp_path / "file" / "below")
    try:
        compiled(SOURCE, FLAGS)
    finally:
        keep_in(None)
    assert len(compilations) == 1


def test_nothing_but_a_simulation_keeps_kernels():
    package = Path(fedhealth.__file__).parent
    callers = {path.name for path in package.rglob("*.py") if "keep_in(" in path.read_text(encoding="utf-8")}
    assert callers == {"compiling.py", "simulate.py"}
