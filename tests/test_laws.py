"""The laws of the house, read off the source: who may import whom, and what may not stand anywhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fedhealth"
LEAVES = {"models", "strategies", "privacy", "secagg", "evaluation", "governance", "synthetic", "runtime"}
ROOTS = {
    "cli",
    "simulate",
    "sweep",
    "runs",
    "on_ray",
    "ledger_command",
    "synthesize_command",
    "approval_command",
    "audit_command",
    "audit_log_command",
    "data_command",
    "keys_command",
    "preview",
    "preview_command",
    "check_release_command",
    "receipts_command",
    "starting",
    "study_command",
    "study_document",
    "stats_command",
    "asked_once",
    "releasing",
    "compose",
    "conduct",
    "coordinating",
    "coordinator_command",
    "federate",
    "processes",
    "site_command",
    "progress",
    "places",
    "__main__",
    "__init__",
}
MAY_IMPORT = {
    "core": set(),
    **{leaf: {"core"} for leaf in LEAVES},
    "report": {"core", "evaluation"},
    "release": {"core", "evaluation"},
    "site": {"core", *LEAVES},
    "server": {"core", *(LEAVES - {"synthetic"})},
}
HEAVY = {
    "torch": {"models", "site", "release"},
    "flwr": {"runtime", "site", "server", "strategies", "simulate", "preview", "on_ray", "conduct"},
    "hydra": {"compose"},
    "omegaconf": {"compose", "cli"},
    "matplotlib": {"report"},
    "ray": {"runtime"},
    "dp_accounting": {"privacy"},
    "opacus": {"site"},
    "duckdb": {"site"},
    "psycopg": {"site"},
    "pyarrow": {"site"},
    "sqlalchemy": {"site"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """All that stands in a module, the module itself first."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imports_of(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.lineno, node.module))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
    return found


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(PACKAGE.parent)}:{line}"


def test_a_room_imports_only_rooms_below_it():
    wrong = []
    for path in MODULES:
        room = room_of(path)
        if room in ROOTS:
            continue
        for line, module in imports_of(path):
            parts = module.split(".")
            if parts[0] != "fedhealth" or len(parts) == 1:
                continue
            if parts[1] != room and parts[1] not in MAY_IMPORT[room]:
                wrong.append(
                    f"{where(path, line)}: {room} may not import {parts[1]}; pass it in, or move the noun to core"
                )
    assert not wrong, "\n".join(wrong)


def test_every_room_is_known_to_the_law():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT), "a new room needs its line in MAY_IMPORT"


def test_heavy_libraries_stay_in_their_rooms():
    wrong = [
        f"{where(path, line)}: {module.split('.')[0]} belongs to {sorted(HEAVY[module.split('.')[0]])}"
        for path in MODULES
        for line, module in imports_of(path)
        if module.split(".")[0] in HEAVY and room_of(path) not in HEAVY[module.split(".")[0]]
    ]
    assert not wrong, "\n".join(wrong)


def test_ray_is_imported_only_where_it_was_chosen():
    wrong = [
        f"{where(path, node.lineno)}: import ray in the function that starts it; it takes seconds to load"
        for path in MODULES
        for node in nodes_of(path)[0].body
        if isinstance(node, ast.Import | ast.ImportFrom) and re.search(r"\bimport ray\b|from ray\b", ast.unparse(node))
    ]
    assert not wrong, "\n".join(wrong)


def test_private_flower_stands_in_modules_of_that_name():
    allowed = {PACKAGE / "runtime" / "flower.py", PACKAGE / "runtime" / "deployment" / "flower.py"}
    public = ("flwr.app", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.clientapp")
    wrong = [
        f"{where(path, line)}: {module} is private to Flower; take it through runtime/flower.py"
        for path in MODULES
        for line, module in imports_of(path)
        if module.startswith("flwr") and module not in public and path not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_no_room_has_a_drawer_for_everything():
    names = {path.stem for path in MODULES} | {path.parent.name for path in MODULES}
    assert not names & {"utils", "helpers", "misc", "common", "manager", "handler"}


@pytest.mark.parametrize(
    ("noun", "room"), [("PrivateUpdate", "privacy"), ("SealedUpdate", "secagg")], ids=["privatise", "seal"]
)
def test_only_its_room_makes_the_permit(noun, room):
    makers = {
        room_of(path)
        for path in MODULES
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == noun
    }
    assert makers == {room}, f"{noun} may be made in {room} only, found {makers}"


def test_nothing_foreign_is_unpickled():
    wrong = []
    for path in MODULES:
        wrong += [where(path, line) for line, module in imports_of(path) if module in {"pickle", "dill", "joblib"}]
        text = path.read_text(encoding="utf-8")
        wrong += [str(path) for word in ("torch.load(", "yaml.load(", "allow_pickle=True") if word in text]
    assert not wrong


@pytest.mark.process
def test_the_coordinator_loads_no_module_that_reads_a_patient():
    code = "import sys, fedhealth.server.app; print([m for m in sys.modules if m.startswith(('fedhealth.site', 'fedhealth.synthetic'))])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.process
def test_help_needs_neither_torch_nor_flower_nor_hydra():
    code = (
        "import sys; from fedhealth.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', [m for m in ('torch', 'flwr', 'hydra', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith("LOADED []")


@pytest.mark.process
def test_a_simulation_loads_neither_ray_nor_the_compiler_of_torch():
    code = (
        "import sys, tempfile; from fedhealth.cli import main\n"
        "main(['simulate', 'experiment=smoke', 'run.report=false', 'run.folder=' + tempfile.mkdtemp() + '/run'])\n"
        "print('LOADED', [m for m in ('ray', 'torch._dynamo', 'sklearn', 'scipy.optimize', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith("LOADED []")


def test_every_test_file_has_a_name_of_its_own():
    # pytest takes two of one name for one module; the remedy is another name.
    names = [path.name for path in (Path(__file__).parent).rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
