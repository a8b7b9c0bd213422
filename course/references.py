"""Where a lesson names a line of the engine: the file and the definition must be there.

`vmcontainer_kernel/container/overlay.py` (`Overlay.mount`)
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["wrong_references"]

ROOT = Path(__file__).parent.parent
FILE = re.compile(r"`((?:vmcontainer_kernel|vmcontainer_widgets|widgets|course|tests)/[\w./-]+\.\w+)`")
DEFINITION = re.compile(FILE.pattern + r"\s+\(`([\w.]+)`\)")


def wrong_references(text: str) -> Iterator[str]:
    """Say which files and definitions that a text names are not there."""
    for path in FILE.findall(text):
        if not (ROOT / path).is_file():
            yield f"there is no file {path}"
    for path, name in DEFINITION.findall(text):
        if path.endswith(".py") and (ROOT / path).is_file() and name not in definitions(ROOT / path):
            yield f"{path} does not define {name}"


@cache
def definitions(path: Path) -> frozenset[str]:
    """Return the names that a module defines, those in classes as Class.name."""
    return frozenset(_defined(ast.parse(path.read_text()).body, ""))


def _defined(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _defined(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.If | ast.Try):  # what depends on the version or the platform
            yield from _defined(node.body + node.orelse, prefix)
