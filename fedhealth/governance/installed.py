"""What is installed here: a hash of the package's code, and the versions of what it stands on."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from fedhealth.core.errors import SettingError

PACKAGE = Path(__file__).resolve().parents[1]


@cache
def code_hash(package: Path = PACKAGE) -> str:
    """The SHA-256 of the package's Python files and their names, the same from a checkout and from a wheel.

    Anybody can work it out in the package's folder:
    `find . -name '*.py' | LC_ALL=C sort | xargs sha256sum | sha256sum`
    """
    names = sorted(f"./{path.relative_to(package).as_posix()}".encode() for path in package.rglob("*.py"))
    listed = hashlib.sha256()
    for name in names:
        content = (package / name.decode()).read_bytes()
        listed.update(hashlib.sha256(content).hexdigest().encode() + b"  " + name + b"\n")
    return listed.hexdigest()


@cache
def packages() -> dict[str, str]:
    """The version of every package that FedHealth needs, directly or not, as installed here.

    Raises:
        SettingError: FedHealth itself is not installed, so nobody knows what it needs.
    """
    found: dict[str, str] = {}
    waiting = ["fedhealth"]
    while waiting:
        name = waiting.pop()
        try:
            needed = requires(name) or []
            if name != "fedhealth":
                found[name] = version(name)
        except PackageNotFoundError:
            if name == "fedhealth":
                raise SettingError("FedHealth must be installed, found its code alone. Run pip install.") from None
            # For another system or another Python.
            continue
        for line in needed:
            inner = re.match(r"[A-Za-z0-9._-]+", line)
            normal = re.sub(r"[-_.]+", "-", inner[0]).lower() if inner else ""
            if normal and "extra ==" not in line and normal not in found:
                waiting.append(normal)
    return dict(sorted(found.items()))
