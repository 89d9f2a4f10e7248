"""The process of one command: `python -m fedhealth`, and what `fedhealth` is installed as."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
import threading
from typing import NoReturn

from fedhealth.cli import main

#: Objects made before the youngest are searched for garbage, in place of 700: of the half a million that torch,
#: Flower and Hydra load none is, and to go through all of them four times takes a third of a second.
MADE_BEFORE_SEARCH = 10_000


def program() -> NoReturn:
    """Run one command and end with its exit code.

    Whatever asked to run at the end is run and what was written is flushed, as ever. Only the taking apart of all that
    was loaded, object by object, is left out: the system frees it at once, and Python would need half a second.
    """
    gc.set_threshold(MADE_BEFORE_SEARCH)
    # What other packages would add to the checks of settings is none of ours, and to look for any takes 20 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    code = main()
    # Threads that are left are waited for, in Python's own way.
    if threading.active_count() == 1:
        atexit._run_exitfuncs()  # noqa: SLF001 - Python's own end of a process calls it, and gives it no other name
        # What can't be flushed is left for Python to complain of.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    program()
