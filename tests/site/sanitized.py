"""A kernel's driver in C, compiled with the compiler's sanitizers and run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import fedhealth.site.kernels
from fedhealth.site.kernels.compiling import compiler

if TYPE_CHECKING:
    from collections.abc import Sequence


def sanitized(
    driver: str, folder: Path, more: Sequence[str] = (), *, fault: tuple[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """How the driver, a file beside this one, ended: not with 0 where it stepped out of an array or did what C does not define.

    `more` is what its source wants to be compiled with beside. With a `fault`, words of the kernel's and what stands in
    their place, it runs a kernel that is wrong. The sanitizers come with gcc and clang, so nothing is skipped: a compiler
    without them fails by its own words.
    """
    kernels = folder / "kernels"
    shutil.copytree(Path(fedhealth.site.kernels.__file__).parent, kernels, ignore=shutil.ignore_patterns("*.py*"))
    if fault:
        (kernel,) = [path for path in kernels.glob("*.c") if fault[0] in path.read_text(encoding="utf-8")]
        text = kernel.read_text(encoding="utf-8")
        assert text.count(fault[0]) == 1
        kernel.write_text(text.replace(*fault), encoding="utf-8")
    program = folder / "driver"
    flags = ["-g", "-O1", "-std=gnu11", "-march=native", "-ffp-contract=off", "-fno-sanitize-recover=all"]
    made = subprocess.run(
        [compiler(), *flags, *more, "-fsanitize=address,undefined", f"-I{kernels}", "-o", str(program),
         str(Path(__file__).with_name(driver)), "-lm"],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert not made.returncode, made.stderr
    return subprocess.run([str(program)], check=False, capture_output=True, text=True, timeout=120)
