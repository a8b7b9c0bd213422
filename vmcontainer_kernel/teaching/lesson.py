"""What a lesson asks, as values; it is declared in a Python file beside the lesson's text (course/exercises/)."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import LabError, NotFound, UserError
from ..messages import Catalogue, read_po

__all__ = ["HINTS", "Exercise", "Fact", "Lesson", "Question", "find", "load", "read_catalogue", "texts"]

HINTS = 3
_ID = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class Question:
    """Something to predict, or a question of the quiz: `right` is the number of the right choice, from 1."""

    id: str
    asks: str
    choices: tuple[str, ...]
    right: int
    why: str = ""

    def __post_init__(self) -> None:
        _check_id(self.id)
        if not 1 <= self.right <= len(self.choices) or len(self.choices) < 2:
            raise ValueError(f"{self.id}: no choice {self.right} among {len(self.choices)}")


@dataclass(frozen=True)
class Fact:
    """What must hold, asked of a kernel or hypervisor; `missing` is what the learner reads while it does not."""

    missing: str
    holds: Callable[[], bool]


@dataclass(frozen=True)
class Exercise:
    """Something to bring about. `solution` is the text of a cell that does it; the facts are asked in their order."""

    id: str
    asks: str
    facts: tuple[Fact, ...]
    hints: tuple[str, str, str]
    solution: str

    def __post_init__(self) -> None:
        _check_id(self.id)
        if len(self.hints) != HINTS or not self.facts or not self.solution.strip():
            raise ValueError(f"{self.id}: it needs facts, {HINTS} hints and a solution")

    def missing(self) -> str:
        """Return what is missing, or an empty text when all facts hold.

        What is not there (`NotFound`) is no fact yet. Raises LabError when a fact could not be asked for.
        """
        for fact in self.facts:
            try:
                if not fact.holds():
                    return fact.missing
            except NotFound:
                return fact.missing
            except LabError:
                raise
            except Exception as error:
                raise LabError(
                    f"the check of {self.id} failed: {type(error).__name__}: {error}",
                    hint="%lab reset and run the lesson again; if it fails again, it is the lesson's fault",
                ) from error
        return ""


@dataclass(frozen=True)
class Lesson:
    """All that a lesson asks; `notes` are for teachers, one a paragraph."""

    name: str
    predictions: tuple[Question, ...] = ()
    exercises: tuple[Exercise, ...] = ()
    quiz: tuple[Question, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for group in (self.predictions, self.exercises, self.quiz):
            ids = [one.id for one in group]
            if len(set(ids)) != len(ids):
                raise ValueError(f"{self.name}: an id is there twice: {' '.join(ids)}")

    def prediction(self, id: str) -> Question:
        """Return a prediction; raises NotFound, with those there are."""
        return _pick(self.predictions, id, f"this lesson has no prediction {id!r}")

    def exercise(self, id: str) -> Exercise:
        """Return an exercise; raises NotFound, with those there are."""
        return _pick(self.exercises, id, f"this lesson has no exercise {id!r}")

    def question(self, id: str) -> Question:
        """Return a question of the quiz; raises NotFound, with those there are."""
        return _pick(self.quiz, id, f"this lesson has no question {id!r}")


T = TypeVar("T", Question, Exercise)


def _pick(group: Sequence[T], id: str, missing: str) -> T:
    for one in group:
        if one.id == id:
            return one
    names = [one.id for one in group]
    near = difflib.get_close_matches(id, names, 1)
    raise NotFound(missing, hint=f"did you mean {near[0]}?" if near else f"there are: {' '.join(names)}")


def _check_id(id: str) -> None:
    if not _ID.fullmatch(id):
        raise ValueError(f"{id!r}: an id is made of small letters, digits and -")


def texts(lesson: Lesson) -> list[str]:
    """Return what a translator has to translate, once each, in order: all but solutions and bare numbers."""
    found: list[str] = []
    for question in (*lesson.predictions, *lesson.quiz):
        found += [question.asks, *question.choices, question.why]
    for exercise in lesson.exercises:
        found += [exercise.asks, *(fact.missing for fact in exercise.facts), *exercise.hints]
    return list(dict.fromkeys(text for text in [*found, *lesson.notes] if re.search("[A-Za-z]{2}", text)))


def load(path: Path) -> Lesson:
    """Read a lesson's declaration: PREDICTIONS, EXERCISES, QUIZ and NOTES, each a tuple that may be left out.

    The file is Python, and part of the course as the notebook is. Raises LabError for one that cannot be read.
    """
    names: dict[str, Any] = {"__name__": f"lesson {path.stem}", "__file__": str(path)}
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
        groups = [tuple(names.get(group, ())) for group in ("PREDICTIONS", "EXERCISES", "QUIZ", "NOTES")]
        return Lesson(path.stem, *groups)
    except Exception as error:  # it may be of another version, or edited by hand
        raise LabError(f"the lesson's exercises cannot be read: {error}", where=str(path)) from error


def _places() -> Iterator[Path]:
    if course := os.environ.get("VMCONTAINER_COURSE", ""):
        yield Path(course)
    with suppress(OSError):  # the folder of the notebook may have been removed
        yield from (Path.cwd().parent, Path.cwd())


def find(name: str) -> Path:
    """Return where a lesson's declaration is: beside the notebook's folder, or below VMCONTAINER_COURSE."""
    there: dict[str, Path] = {}
    for folder in _places():
        for path in sorted((folder / "exercises").glob("*.py")):
            there.setdefault(path.stem, path)
    if name in there:
        return there[name]
    missing = f"there are no exercises of a lesson {name!r}" if name else "which lesson?"
    if not there:
        hint = "open the notebook in the folder of the course, or set VMCONTAINER_COURSE to that folder"
        raise UserError(missing, hint=hint)
    names, wanted = " ".join(there), name.removesuffix(".ipynb")
    near = difflib.get_close_matches(wanted, there, 1) or [one for one in there if wanted and wanted in one]
    suggested = f"did you mean %lab lesson {near[0]}? There are: {names}" if near else f"there are: {names}"
    raise UserError(missing, hint=suggested)


def read_catalogue(declaration: Path, language: str) -> Catalogue:
    """Return a lesson's translations, which lie in the course's locale/; an empty catalogue if there are none."""
    folder = declaration.parent.parent / "locale" / language / "LC_MESSAGES"
    path = folder / f"{declaration.stem}.po"
    return Catalogue(list(read_po(path.read_text(encoding="utf-8"))) if path.is_file() else [])
