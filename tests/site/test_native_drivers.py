"""Each native kernel stays within its arrays and within what C defines: its driver runs under the compiler's sanitizers."""

from __future__ import annotations

import numpy as np
import pytest
from sanitized import sanitized

from fedhealth.site.kernels import native

pytestmark = pytest.mark.slow

PLAIN, PRIVATE, SERIES = "native_plain_driver.c", "native_private_driver.c", "native_series_driver.c"
SINGLE, DOUBLE = (native.defined(np.dtype(kind)) for kind in (np.float32, np.float64))

A_NUMBER_OF_SPACE_TOO_FEW = ("rows * l[n].stride, rows * l[n].wide}", "rows * l[n].stride, rows * l[n].wide - 1}")
A_NUMBER_TOO_MANY = (
    "for (long i = 0; i < l[0].in; i++) l[0].came",
    "for (long i = 0; i <= l[0].in; i++) l[0].came",
)
A_STEP_TOO_MANY = tuple(
    f"for (long t = 0; t {is_before} n->steps; t++)\n            for (long c = 0; c < n->across; c++)"
    for is_before in ("<", "<=")
)


@pytest.mark.parametrize(
    ("driver", "more"), [(PLAIN, SINGLE), (PLAIN, DOUBLE), (PRIVATE, ()), (SERIES, ())],
    ids=["plain, single", "plain, double", "private", "series"],
)  # fmt: skip
def test_a_kernel_stays_within_its_arrays_and_within_what_c_defines(tmp_path, driver, more):
    ran = sanitized(driver, tmp_path, more)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("driver", "more", "fault"),
    [(PLAIN, SINGLE, A_NUMBER_OF_SPACE_TOO_FEW), (PRIVATE, (), A_NUMBER_TOO_MANY), (SERIES, (), A_STEP_TOO_MANY)],
    ids=["plain", "private", "series"],
)
def test_a_kernel_that_is_wrong_is_caught(tmp_path, driver, more, fault):
    ran = sanitized(driver, tmp_path, more, fault=fault)
    assert ran.returncode
    assert "AddressSanitizer" in ran.stderr
