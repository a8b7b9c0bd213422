"""What runs in a container's child imports nothing there: its root may be the image's already."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CONTAINER = Path(__file__).parents[2] / "vmcontainer_kernel" / "container"
IN_THE_CHILD = (
    *("copying", "devices", "hooks", "inside", "launch", "linux", "masks", "mounts", "namespaces", "overlay"),
    *("process", "rights", "rootfs", "scheduling", "settings", "step"),
)


@pytest.mark.parametrize("name", IN_THE_CHILD)
def test_no_function_imports(name: str) -> None:
    tree = ast.parse((CONTAINER / f"{name}.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda)]
    late = [node for one in functions for node in ast.walk(one) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in late] == []
