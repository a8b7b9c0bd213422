"""What a learner has done, as values, and as the text of a file or of a report for a teacher.

    {"version": 1, "name": "", "entries": [{"lesson": "03-…", "kind": "exercise", "id": "walls", "tries": 2, …}]}

Times are seconds since 1970. Nothing tells who it was, but for a name that the learner may give.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from io import StringIO
from typing import Any, Literal, TypeGuard

__all__ = ["KINDS", "VERSION", "Entry", "NewerVersion", "Progress", "export", "parse", "to_text"]

VERSION = 1
KINDS = ("prediction", "exercise", "quiz")
LONGEST_TEXT = 200
MOST_ENTRIES = 10_000
LARGEST_COUNT = 1_000_000
LARGEST_S = 1e11  # the year 5138

Kind = Literal["prediction", "exercise", "quiz"]


@dataclass(frozen=True)
class Entry:
    """One prediction, exercise or question: what was done about it.

    `choice` is the number chosen (0: none); `right` tells whether it was the right one, or whether the exercise is
    solved; `hints` were opened, and the `solution`, if it was; `end_s` is when it was solved, or its experiment run.
    """

    lesson: str
    kind: Kind
    id: str
    begin_s: float
    end_s: float = 0.0
    choice: int = 0
    right: bool = False
    tries: int = 0
    hints: int = 0
    solution: bool = False


@dataclass(frozen=True)
class Progress:
    """All that is kept of a learner."""

    name: str = ""
    entries: tuple[Entry, ...] = ()

    def find(self, lesson: str, kind: Kind, id: str) -> Entry | None:
        """Return an entry, if there is one."""
        return next((one for one in self.entries if (one.lesson, one.kind, one.id) == (lesson, kind, id)), None)

    def changed(self, lesson: str, kind: Kind, id: str, now_s: float, change: Callable[[Entry], Entry]) -> Progress:
        """Return the progress with one entry changed, or begun now and changed."""
        old = self.find(lesson, kind, id)
        others = tuple(one for one in self.entries if one is not old)
        return replace(self, entries=(*others, change(old or Entry(lesson, kind, id, now_s))))


class NewerVersion(ValueError):
    """A file that a newer version of this program has written."""


def to_text(progress: Progress) -> str:
    """Return the text of the file."""
    document = {"version": VERSION, "name": progress.name, "entries": [asdict(one) for one in progress.entries]}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def parse(text: str) -> Progress:
    """Read the file's text; raises ValueError for what is damaged, and NewerVersion."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON from line {error.lineno} on") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict) or not _is_number(document.get("version"), LARGEST_COUNT):
        raise ValueError("there is no version in it")
    if document["version"] > VERSION:
        raise NewerVersion(f"it is of version {document['version']}")
    entries = document.get("entries")
    if not isinstance(entries, list) or len(entries) > MOST_ENTRIES:
        raise ValueError("there are no entries in it")
    return Progress(_checked_text(document.get("name")), tuple(_entry(one) for one in entries))


def _entry(value: Any) -> Entry:
    if not isinstance(value, dict) or value.get("kind") not in KINDS:
        raise ValueError("an entry is of no kind that there is")
    checked: dict[str, Any] = {}
    for field in fields(Entry):
        one = value.get(field.name)
        if field.type in ("str", "Kind"):
            checked[field.name] = _checked_text(one)
        elif field.type == "bool" and isinstance(one, bool):
            checked[field.name] = one
        elif field.type == "float" and _is_number(one, LARGEST_S):
            checked[field.name] = float(one)
        elif field.type == "int" and isinstance(one, int) and _is_number(one, LARGEST_COUNT):
            checked[field.name] = one
        else:
            raise ValueError(f"an entry's {field.name} makes no sense")
    return Entry(**checked)


def _checked_text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT or not value.isprintable():
        raise ValueError("a name makes no sense")
    return value


def _is_number(value: Any, largest: float) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= largest


# ---- for a teacher


def export(progress: Progress, form: str) -> str:
    """Return what a teacher gets, as ``json`` or ``csv``: one row a prediction, exercise or question."""
    rows = [_row(one) for one in sorted(progress.entries, key=lambda one: (one.lesson, one.begin_s))]
    if form == "csv":
        return _table({"name": progress.name, **row} for row in rows)
    document = {"format": "vmcontainer-progress", "version": VERSION, "name": progress.name, "work": rows}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _row(entry: Entry) -> dict[str, Any]:
    begin, end = _moment(entry.begin_s), _moment(entry.end_s)
    seconds = round(max(0.0, entry.end_s - entry.begin_s)) if entry.end_s else None
    counts = {"right": entry.right, "tries": entry.tries, "hints": entry.hints, "solution": entry.solution}
    place = {"lesson": entry.lesson, "kind": entry.kind, "id": entry.id}
    return {**place, **counts, "begin": begin, "end": end, "seconds": seconds}


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else ""


def _table(rows: Iterable[dict[str, Any]]) -> str:
    titles = ("name", "lesson", "kind", "id", "right", "tries", "hints", "solution", "begin", "end", "seconds")
    import csv

    written = StringIO()
    writer = csv.DictWriter(written, titles, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return written.getvalue()


def _cell(value: Any) -> Any:
    """Keep a spreadsheet from reading a name as a formula (OWASP, "CSV Injection")."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
