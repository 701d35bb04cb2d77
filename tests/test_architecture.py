"""The rules of the house: who may import whom, how large rooms may get, how far a reader has to walk."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("configs", "models", "utils", "scripts", "deeplab")
# What each package may import of the project.
ALLOWED = {
    "configs": {"configs"},
    "models": {"configs", "models"},
    "utils": {"configs", "utils"},
    "scripts": {"configs", "models", "utils", "scripts"},
    "deeplab": {"configs", "models", "utils", "deeplab"},
}
# Inside utils a wing may import those of its own floor's number or below.
FLOORS = (("errors", "files"), ("config", "runtime", "data"), ("evaluation", "prepare", "demo_set"), ("cams",), ("drawing",),
          ("training", "report"))  # fmt: skip
FLOOR = {wing: number for number, wings in enumerate(FLOORS) for wing in wings}
WIRING = "scripts.build"
# A ratchet: what the program has today; the aim is 16,000 lines.
MOST_LINES, MOST_FILES = 28_309, 160


def _files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def _imports(path: Path) -> Iterator[str]:
    """Yield the project modules a file imports, wherever in it; `from a import b` is a.b where that is a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if _file(name) else node.module for name in inside]
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for module in _imports(path):
        assert module.partition(".")[0] in ALLOWED[package], f"{package} may not import {module}"
        if package == "scripts" and module.startswith("scripts."):
            assert module == WIRING, f"no script imports another: {module}"
        if package == "utils" and module.startswith("utils."):
            own, other = path.relative_to(ROOT / "utils").parts[0].removesuffix(".py"), module.split(".")[1]
            assert FLOOR[other] <= FLOOR[own], f"utils.{own} imports upward: {module}"


def test_there_are_no_circles() -> None:
    graph = {path: {found for module in _imports(path) if (found := _file(module))} - {path} for path in _files()}
    while free := [path for path, needs in graph.items() if not needs & graph.keys()]:
        for path in free:
            del graph[path]
    # Reached through a name in a function body only (a registry) there may be none either.
    assert not graph, f"imports in a circle: {sorted(str(path.relative_to(ROOT)) for path in graph)}"


def test_the_program_stays_small() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _files()}
    assert sum(lines.values()) <= MOST_LINES
    assert sum(1 for path, count in lines.items() if count > 1) <= MOST_FILES
    assert max(lines.values()) <= 400, max(lines, key=lambda path: lines[path])


@pytest.mark.parametrize(
    "program", ["evaluate_cams", "evaluate_labels", "gen_gt", "refine_cams", "visualize_cams", "check_data", "prepare_voc"]
)
def test_programs_without_networks_start_without_torch(program: str) -> None:
    """Loading it takes seconds, and each of their worker processes would do so."""
    code = f"import sys, scripts.{program}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_checks_see_something(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text("from utils import errors\nimport models.l2g\nfrom configs.schema import Config\n")
    assert list(_imports(probe)) == ["utils.errors", "models.l2g", "configs.schema"]
