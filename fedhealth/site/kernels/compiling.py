"""The kernels in C: compiled here by the machine's own compiler, once a process, and called by address.

A simulation keeps what was compiled for the next one (`keep_in`).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: No errno of sqrt and no trap: with them loops stay scalar. What is no number stays none. Scheduled before registers
#: are dealt out, a vector that several rows need is loaded once; gcc else loads it for each.
_FLAGS = ["-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fschedule-insns", "-shared", "-fPIC"]

#: Of the SHA-256 that stands behind a kernel that is kept.
_DIGEST_BYTES = 32

#: Where kernels are kept, where they are.
_folder: Path | None = None


def compiler() -> str:
    """The machine's C compiler: `$CC`, or `cc`.

    Raises:
        SettingError: there is none.
    """
    found = shutil.which(os.environ.get("CC") or "cc")
    if found is None:
        raise SettingError(
            "`engine=native` needs a C compiler, found none. Install gcc or clang, or use engine=batched."
        )
    return found


def keep_in(folder: Path | None) -> None:
    """Keep in a folder what is compiled from here on, and take it from there; None to keep nothing, as it is at first.

    For simulations. What a hospital's process may write it does not run: it compiles anew each time that it starts.
    """
    global _folder  # noqa: PLW0603 - a process keeps kernels in one place or in none
    _folder = folder


def compiled(source: str, flags: Sequence[str]) -> ctypes.CDLL:
    """The functions of a source that stands beside this file, compiled for the very processor that this is.

    Raises:
        SettingError: there is no compiler, or it fails.
    """
    path, found = Path(__file__).with_name(source), compiler()
    kept = _place_of(source, found, flags)
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "kernel.so"
        if kept is not None and (code := _kept_at(kept)):
            # What was read and found ours is what runs, whatever lies at its place by now.
            with contextlib.suppress(OSError):
                built.write_bytes(code)
                return ctypes.CDLL(str(built))
        # A compiler that does not know its own processor makes code for any of the kind.
        for processor in (["-march=native"], []):
            command = [found, *_FLAGS, *processor, *flags, "-o", str(built), str(path), "-lm"]
            made = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own source
            if not made.returncode:
                break
        try:
            loaded = ctypes.CDLL(str(built))
        except OSError as error:
            # clang warns first of a flag that it does not need.
            said = [line for line in made.stderr.splitlines() if "warning" not in line]
            wrong = said[:1] or [str(error) if built.exists() else "no word of it"]
            raise SettingError(
                f"`engine=native` needs a C compiler whose kernel can be loaded, found: {wrong[0]}. Set CC to another, "
                "TMPDIR to a folder that programs may be run from, or use engine=batched."
            ) from None
        if kept is not None:
            _keep(built, kept)
    return loaded


def _place_of(source: str, found: str, flags: Sequence[str]) -> Path | None:
    """Where a kernel is kept: by what it is made of, by what and for what; None where it is not kept."""
    if _folder is None:
        return None
    try:
        _folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(_folder.lstat()):
            return None
        about = Path(found).resolve().stat()
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        texts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.[ch]"))]
    except OSError:
        return None
    processor = [line for line in lines if line.startswith(("vendor_id", "model", "flags", "Features", "CPU"))]
    # Two machines that share a home must not share a kernel where nothing tells what their processors can do.
    if not any(line.startswith(("flags", "Features")) for line in processor):
        return None
    made_of = repr((source, found, about.st_size, about.st_mtime_ns, _FLAGS, list(flags), processor)).encode()
    name = hashlib.sha256(b"".join([made_of, *texts])).hexdigest()
    return _folder / f"{Path(source).stem}-{name[:32]}.so"


def _is_ours(about: os.stat_result) -> bool:
    """Whether a file or folder is this user's, and nobody else may write to it."""
    is_plain = stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)
    return is_plain and about.st_uid == os.getuid() and not about.st_mode & 0o022


def _kept_at(kept: Path) -> bytes | None:
    """A kernel that this user kept, every byte of it; None where there is none such."""
    try:
        with os.fdopen(os.open(kept, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            whole = file.read()
    except OSError:
        return None
    code, digest = whole[:-_DIGEST_BYTES], whole[-_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def _keep(built: Path, kept: Path) -> None:
    """Copy a kernel to where it is kept, whole or not at all; a full disk is no reason to end."""
    # Part of one that a loss of power left would load, and kill the process that calls it; so its digest stands behind it.
    with contextlib.suppress(OSError):
        code = built.read_bytes()
        # By a name that no process of another machine takes, as by its number; 0600 from the start.
        number, draft = tempfile.mkstemp(prefix=".", suffix=".draft", dir=kept.parent)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(code + hashlib.sha256(code).digest())
            Path(draft).replace(kept)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise


def address(array: NDArray[Any]) -> int:
    """Where an array's numbers begin; good for as long as the array is held."""
    return int(array.__array_interface__["data"][0])
