"""The kernels in C: compiled here by the machine's own compiler, once a process, and called by address."""

from __future__ import annotations

import ctypes
import os
import shutil
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


def compiled(source: str, flags: Sequence[str]) -> ctypes.CDLL:
    """The functions of a source that stands beside this file, compiled for the very processor that this is.

    Raises:
        SettingError: there is no compiler, or it fails.
    """
    path = Path(__file__).with_name(source)
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "kernel.so"
        # A compiler that does not know its own processor makes code for any of the kind.
        for processor in (["-march=native"], []):
            command = [compiler(), *_FLAGS, *processor, *flags, "-o", str(built), str(path), "-lm"]
            made = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own source
            if not made.returncode:
                break
        try:
            return ctypes.CDLL(str(built))
        except OSError as error:
            # clang warns first of a flag that it does not need.
            said = [line for line in made.stderr.splitlines() if "warning" not in line]
            wrong = said[:1] or [str(error) if built.exists() else "no word of it"]
            raise SettingError(
                f"`engine=native` needs a C compiler whose kernel can be loaded, found: {wrong[0]}. Set CC to another, "
                "TMPDIR to a folder that programs may be run from, or use engine=batched."
            ) from None


def address(array: NDArray[Any]) -> int:
    """Where an array's numbers begin; good for as long as the array is held."""
    return int(array.__array_interface__["data"][0])
