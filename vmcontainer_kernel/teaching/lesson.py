"""What a lesson asks, as values; it is declared in a Python file beside the lesson's text (course/exercises/)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import LabError, NotFound, UserError
from ..messages import Catalogue, read_po

__all__ = ["HINTS", "Exercise", "Fact", "Lesson", "Question", "find", "load", "read_catalogue", "texts"]

HINTS = 3
_ID = re.compile(r"[a-z][a-z0-9-]*")
_NAME = re.compile(r"[\w-]+")


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
            except (LookupError, ValueError, TypeError, AttributeError) as error:
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
        return _pick(self.predictions, id, "prediction")

    def exercise(self, id: str) -> Exercise:
        """Return an exercise; raises NotFound, with those there are."""
        return _pick(self.exercises, id, "exercise")

    def question(self, id: str) -> Question:
        """Return a question of the quiz; raises NotFound, with those there are."""
        return _pick(self.quiz, id, "question")


T = TypeVar("T", Question, Exercise)


def _pick(group: Sequence[T], id: str, what: str) -> T:
    for one in group:
        if one.id == id:
            return one
    raise NotFound(f"this lesson has no {what} {id!r}", hint=f"there are: {' '.join(one.id for one in group)}")


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
    except (OSError, SyntaxError, NameError, ImportError, ValueError, TypeError) as error:
        raise LabError(f"the lesson's exercises cannot be read: {error}", where=str(path)) from error


def _places(name: str) -> Iterator[Path]:
    course = os.environ.get("VMCONTAINER_COURSE", "")
    for folder in (*([Path(course)] if course else []), Path.cwd().parent, Path.cwd()):
        yield folder / "exercises" / f"{name}.py"


def find(name: str) -> Path:
    """Return where a lesson's declaration is: beside the notebook's folder, or below VMCONTAINER_COURSE."""
    if _NAME.fullmatch(name):
        for path in _places(name):
            if path.is_file():
                return path
    hint = "open the notebook in the folder of the course, or set VMCONTAINER_COURSE to that folder"
    raise UserError(f"there are no exercises of a lesson {name!r}", hint=hint)


def read_catalogue(declaration: Path, language: str) -> Catalogue:
    """Return a lesson's translations, which lie in the course's locale/; an empty catalogue if there are none."""
    folder = declaration.parent.parent / "locale" / language / "LC_MESSAGES"
    path = folder / f"{declaration.stem}.po"
    return Catalogue(list(read_po(path.read_text(encoding="utf-8"))) if path.is_file() else [])
