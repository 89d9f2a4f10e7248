"""A kernel's driver in C, compiled with the compiler's sanitizers and run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import fedhealth.site.kernels
from fedhealth.site.kernels.compiling import compiler

if TYPE_CHECKING:
    from collections.abc import Sequence


def run_sanitized(driver: str, folder: Path, more: Sequence[str] = ()) -> None:
    """Fail where the driver, a file beside this one, steps out of an array or does what C does not define.

    `more` is what its source wants to be compiled with beside. The sanitizers come with gcc and clang, so nothing is
    skipped: a compiler without them fails by its own words.
    """
    program = folder / "driver"
    flags = ["-g", "-O1", "-std=gnu11", "-march=native", "-ffp-contract=off", "-fno-sanitize-recover=all"]
    kernels = Path(fedhealth.site.kernels.__file__).parent
    made = subprocess.run(
        [compiler(), *flags, *more, "-fsanitize=address,undefined", f"-I{kernels}", "-o", str(program),
         str(Path(__file__).with_name(driver)), "-lm"],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert not made.returncode, made.stderr
    ran = subprocess.run([str(program)], check=False, capture_output=True, text=True, timeout=120)
    assert not ran.returncode, ran.stderr
