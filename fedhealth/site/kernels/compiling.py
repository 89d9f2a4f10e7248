"""The kernels in C: compiled here by the machine's own compiler, once a process, and called by address.

A simulation keeps what was compiled for the next one (`keep_in`).
"""

from __future__ import annotations

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
    if kept is not None and _is_ours(kept):
        try:
            return ctypes.CDLL(str(kept))
        except OSError:
            kept.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "kernel.so"
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
        about = Path(found).resolve().stat()
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        processor = [line for line in lines if line.startswith(("vendor_id", "model", "flags", "Features", "CPU"))]
        texts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.[ch]"))]
    except OSError:
        return None
    made_of = repr((source, found, about.st_size, about.st_mtime_ns, _FLAGS, list(flags), processor)).encode()
    name = hashlib.sha256(b"".join([made_of, *texts])).hexdigest()
    return _folder / f"{Path(source).stem}-{name[:32]}.so" if _is_ours(_folder) else None


def _is_ours(path: Path) -> bool:
    """Whether a file or folder is this user's, and nobody else may write to it."""
    try:
        about = path.lstat()
    except OSError:
        return False
    is_plain = stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)
    return is_plain and about.st_uid == os.getuid() and not about.st_mode & 0o022


def _keep(built: Path, kept: Path) -> None:
    """Copy a kernel to where it is kept, whole or not at all; a full disk is no reason to end."""
    draft = kept.with_name(f".{os.getpid()}.draft")
    try:
        shutil.copyfile(built, draft)
        draft.chmod(0o700)
        draft.replace(kept)
    except OSError:
        draft.unlink(missing_ok=True)


def address(array: NDArray[Any]) -> int:
    """Where an array's numbers begin; good for as long as the array is held."""
    return int(array.__array_interface__["data"][0])
