"""Progress as a table, and the file that a teacher gets."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..display import Table
from ..errors import UserError
from ..messages import say
from .progress import LONGEST_TEXT, Entry, Progress, export

__all__ = ["named", "progress_table", "write_export"]

_SAME = 30  # so many bytes are the same at the beginning of all reports of a form
# Spreadsheets take a CSV file for the system's old encoding unless it begins with a byte order mark.
_ENCODINGS = {"csv": "utf-8-sig", "json": "utf-8"}


def progress_table(progress: Progress) -> Table:
    """Return one row a lesson: right or solved / tried, and how many hints were opened."""
    lessons = sorted({one.lesson for one in progress.entries})
    head = ("lesson", "predictions right", "exercises solved", "hints opened", "quiz right")
    return Table(head, [_row(lesson, progress) for lesson in lessons], "nothing is kept yet: begin with a lesson")


def _row(lesson: str, progress: Progress) -> tuple[str, ...]:
    kinds = {
        kind: [one for one in progress.entries if (one.lesson, one.kind) == (lesson, kind)]
        for kind in ("prediction", "exercise", "quiz")
    }
    predicted = [one for one in kinds["prediction"] if one.end_s]
    hints = sum(one.hints for one in kinds["exercise"])
    return lesson, _share(predicted), _share(kinds["exercise"]), str(hints), _share(kinds["quiz"])


def _share(entries: list[Entry]) -> str:
    return f"{sum(one.right for one in entries)} / {len(entries)}"


def named(progress: Progress, name: str) -> Progress:
    """Return the progress under a name, which the learner gives; an empty one takes it away."""
    name = name.strip()
    if len(name) > LONGEST_TEXT or not name.isprintable():
        raise UserError(f"this cannot be a name: {name[:40]!r}", hint=f"at most {LONGEST_TEXT} letters")
    return replace(progress, name=name)


def _is_export(path: Path) -> bool:
    """Tell whether a file is an earlier report, or empty: one of something else is not to be replaced."""
    begins = [export(Progress(), form).encode(encoding)[:_SAME] for form, encoding in _ENCODINGS.items()]
    with path.open("rb") as file:
        return file.read(_SAME) in (b"", *begins)


def write_export(progress: Progress, file: str) -> str:
    """Write what a teacher gets, as CSV or JSON by the file's ending; return what is told."""
    path = Path(os.path.expanduser(file))  # noqa: PTH111 - pathlib's raises for a user there is not
    form = path.suffix.lower()[1:]
    if form not in _ENCODINGS:
        raise UserError(f"the report's form is not known: {path.name}", hint="a name that ends in .csv or .json")
    try:
        if path.exists() and not _is_export(path):
            raise UserError(f"{path} is there, and is no such report", hint="choose another name")
        path.write_text(export(progress, form), encoding=_ENCODINGS[form])
    except (OSError, ValueError) as error:
        strerror = getattr(error, "strerror", "") or str(error)
        raise UserError(f"{path} cannot be written: {strerror}", hint="choose another name") from error
    return say(f"written to {path}: lessons, exercises, times and hints; the name in it is {progress.name or '-'}")
