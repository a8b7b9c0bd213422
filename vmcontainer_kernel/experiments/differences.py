"""What differs between two runs: lines of output, fields of a configuration, steps of a start.

Each gives rows for two columns: ``{"mark": "same" | "changed" | "with" | "without", "with": …, "without": …}``; a row
that only one side has is None on the other. All is bounded, as a container may write what it likes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

__all__ = ["compare_configurations", "compare_lines", "compare_steps", "flatten"]

MOST_LINES: Final = 200
LONGEST: Final = 240

Row = dict[str, Any]


def compare_lines(kept: str, peeled: str) -> list[Row]:
    """Compare two outputs line by line."""
    return _pair([_cut(line) for line in _lines(kept)], [_cut(line) for line in _lines(peeled)])


def _lines(text: str) -> list[str]:
    lines = text.splitlines()
    more = len(lines) - MOST_LINES
    return lines if more <= 0 else [*lines[:MOST_LINES], f"… {more} more lines"]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … {len(text) - LONGEST} more"


def _pair(kept: Sequence[str], peeled: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    matcher = difflib.SequenceMatcher(None, kept, peeled, autojunk=False)
    for what, first, last, begin, end in matcher.get_opcodes():
        left, right = kept[first:last], peeled[begin:end]
        if what == "equal":
            rows += [_row(one, one) for one in left]
            continue
        both = min(len(left), len(right))
        rows += [_row(*pair) for pair in zip(left[:both], right[:both], strict=True)]
        rows += [_row(one, None) for one in left[both:]] + [_row(None, one) for one in right[both:]]
    return rows


def _row(left: str | None, right: str | None) -> Row:
    if left == right:
        mark = "same"
    elif right is None:
        mark = "with"
    else:
        mark = "without" if left is None else "changed"
    return {"mark": mark, "with": left, "without": right}


def compare_configurations(kept: Mapping[str, Any], peeled: Mapping[str, Any]) -> list[Row]:
    """Compare two OCI configurations field by field; each row has its ``path``, as the specification writes it."""
    left, right = dict(flatten(kept)), dict(flatten(peeled))
    first, second = [*left], [*right]
    paths: list[str] = []  # a field of one side only stands where that side has it
    for _, begin, end, start, stop in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        paths += dict.fromkeys([*first[begin:end], *second[start:stop]])
    return [{"path": path, **_row(left.get(path), right.get(path))} for path in paths]


_KEYS: Final = {"linux.namespaces": "type", "mounts": "destination", "process.rlimits": "type"}
"""Lists whose items are known by one of their fields, not by their place."""


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, text) for each field of a JSON document; a list of plain values is one, and so is a list's item."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from flatten(one, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(one, (Mapping, list)) for one in value):
        for number, one in enumerate(value):
            key = _KEYS.get(path, "")
            place = one.get(key, number) if isinstance(one, Mapping) else number
            yield f"{path}[{place}]", _cut(_item(one, key))
    else:
        yield path, _cut(_text(value))


def _item(one: Any, key: str) -> str:
    """Return an item as one text: its values if its kind is known, else its fields; an empty one is a new namespace."""
    if not isinstance(one, Mapping):
        return _text(one)
    rest = {name: value for name, value in one.items() if name != key and value not in ("", None, [])}
    return " ".join(_text(value) if key else f"{name} {_text(value)}" for name, value in rest.items()) or "new"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_item(one, "") for one in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def compare_steps(kept: Sequence[Mapping[str, Any]], peeled: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Compare the steps of two starts by what each calls."""
    return _pair([_cut(_step(one)) for one in kept], [_cut(_step(one)) for one in peeled])


def _step(one: Mapping[str, Any]) -> str:
    return f"{one.get('step', '')}: {one.get('call', '')}"
