"""Where and when a figure was measured."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
from pathlib import Path


def machine() -> dict:
    """The day, the processor, how many of its cores there are, and what they do besides."""
    told = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", told.read_text(), re.MULTILINE) if told.exists() else []
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def measured_on(rows: list[dict]) -> str:
    """A line over their table that says so of all rows; the load is each row's own."""
    where = {f"{row['date']} on {row['cores']} cores of {row['cpu']}": None for row in rows}
    return f"Measured {'; '.join(where)}:"
