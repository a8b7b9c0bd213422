"""Where in our own files something is done: a function's line, and in it the line that makes a call."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["located"]

_ROOT = Path(__file__).parent.parent


def located(code: Mapping[str, Any], calls: Sequence[str] = ()) -> dict[str, Any]:
    """Return file, line, function and the line's text, for ``{"file", "line", "function"}``; line 0 is unknown.

    It is the first line of the function that makes one of `calls`, else that on which it begins. A file that is not
    ours, or that has changed so far that the function is not in it, is told without a line.
    """
    file, function = str(code["file"]), str(code["function"])
    lines = _lines(file)
    begin, end = _extent(file, function, int(code["line"]))
    if not begin or begin > len(lines):
        return {"file": file, "line": 0, "function": function, "text": ""}
    wanted = [f"{call}(" for call in calls]
    numbers = range(begin, min(end, len(lines)) + 1)
    line = next((at for name in wanted for at in numbers if name in lines[at - 1]), begin)
    return {"file": file, "line": line, "function": function, "text": lines[line - 1].strip()}


@cache
def _lines(file: str) -> list[str]:
    path = _ROOT / file
    inside = path.suffix == ".py" and path.resolve().is_relative_to(Path(__file__).parent)
    return path.read_text().splitlines() if inside and path.is_file() else []


@cache
def _functions(file: str) -> dict[str, tuple[int, int]]:
    """Return the lines of every function and lambda of a file, by name, or by line where it has none."""
    found: dict[str, tuple[int, int]] = {}

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                found[name] = child.lineno, child.end_lineno or child.lineno
                name += "."
            elif isinstance(child, ast.Lambda):
                found[f"{child.lineno}"] = child.lineno, child.end_lineno or child.lineno
            walk(child, name)

    walk(ast.parse("\n".join(_lines(file))), "")
    return found


def _extent(file: str, function: str, line: int) -> tuple[int, int]:
    known = _functions(file)
    name = function.replace(".<locals>", "")
    return known.get(str(line) if "<lambda>" in function else name, (line, line))
