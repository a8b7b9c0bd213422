"""The house rules that a program can check: linters, types, layers, sizes, names."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("vmcontainer_kernel", "widgets/vmcontainer_widgets")
SOURCES = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))
STANDARD_ONLY = ("agent", "container", "errors.py", "paths.py")
# A library for netlink; only in the modules that a process of its own imports, the networks' helper.
ALLOWED_IMPORTS = {(f"vmcontainer_kernel/container/network/{name}.py", "pyroute2") for name in ("links", "firewall")}

FUNCTION_LINES, LONG_FUNCTION_LINES, FEW_PERCENT, MEDIAN_LINES = 80, 45, 2, 10
FILE_LINES = 420


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run(program: str, *arguments: str) -> None:
    command = [Path(sys.executable).with_name(program), *arguments]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", ".")


def test_files_are_formatted() -> None:
    run("ruff", "format", "--check", ".")


def test_types_are_strict() -> None:
    run("mypy")


def test_layers_are_kept() -> None:
    run("lint-imports", "--no-logo")


def imports_of(tree: ast.AST) -> set[str]:
    """Top-level names that a module imports anywhere, its own package's left out."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found - {"vmcontainer_kernel"}


def standard_only() -> list[Path]:
    roots = [ROOT / "vmcontainer_kernel" / part for part in STANDARD_ONLY]
    return [file for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*.py")))]


def test_what_runs_in_the_guest_needs_the_standard_library_only() -> None:
    foreign = {
        (name_of(path), module)
        for path in standard_only()
        for module in imports_of(ast.parse(path.read_text())) - sys.stdlib_module_names
    }
    assert foreign <= ALLOWED_IMPORTS


def functions_of(path: Path) -> list[tuple[str, int]]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [
        (f"{name_of(path)}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_functions_are_short() -> None:
    functions = [function for path in SOURCES for function in functions_of(path)]
    longest = sorted(functions, key=lambda function: -function[1])
    too_long = [function for function in longest if function[1] > FUNCTION_LINES]
    long = [function for function in longest if function[1] > LONG_FUNCTION_LINES]
    assert not too_long
    assert len(long) <= len(functions) * FEW_PERCENT // 100, long
    assert statistics.median(lines for _, lines in functions) < MEDIAN_LINES


def test_files_are_short() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def public_names(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_what_it_is_and_what_is_public(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if not tree.body:
        return  # the __init__.py of a folder
    assert ast.get_docstring(tree), "no docstring"
    if path.name == "__init__.py" and len(tree.body) == 1:
        return
    names = public_names(tree)
    if path.name != "__main__.py":
        assert names, "no __all__"
    bound = {
        name
        for node in ast.walk(tree)
        for name in (
            [node.name]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            else [alias.asname or alias.name for alias in node.names]
            if isinstance(node, ast.Import | ast.ImportFrom)
            else [node.id]
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            else []
        )
    }
    assert set(names or []) <= bound
    assert len(set(names or [])) == len(names or [])
