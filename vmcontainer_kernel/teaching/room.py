"""An open lesson: what the learner may do now, and what is told then.

    %predict ID ─▶ stored ─▶ %%after ID lets its cell run ─▶ what was predicted beside what happened
    %check ID ─▶ facts of the kernel ─▶ what is missing, or solved        %hint ID, three times ─▶ %solution ID

Unattended (VMCONTAINER_UNATTENDED=1: the course's tests) a prediction counts as given, an exercise is done by its
solution, and nothing is written: every run shows what a learner sees who has just opened the lesson.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import LabError, UserError
from ..messages import language, say
from .lesson import HINTS, Exercise, Lesson, Question, find, load, read_catalogue
from .progress import Entry, Kind, Progress
from .store import Store, progress_path

__all__ = ["Room", "current", "open_lesson", "store"]

Run = Callable[[str], None]


class Room:
    """One lesson in one notebook. Every method returns what the learner reads, in the reader's language."""

    def __init__(
        self,
        lesson: Lesson,
        kept: Store,
        *,
        unattended: bool = False,
        declaration: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.lesson, self.store, self.unattended = lesson, kept, unattended
        self._declaration, self._clock = declaration, clock

    def opened(self) -> list[str]:
        """Read the learner's file, and return what the learner should know of it."""
        self.store.read()
        return self.store.take_notices()

    def say(self, text: str) -> str:
        """Return a text of the lesson in the reader's language."""
        return read_catalogue(self._declaration, language()).word("", text) if self._declaration else text

    # ---- predictions

    def choose(self, id: str, choice: int) -> str:
        """Keep a prediction. After its experiment it stays what it was."""
        question = self.lesson.prediction(id)
        _check_choice(question, choice)
        entry, kept = self._entry("prediction", id), self.chosen("prediction", id)
        if entry and entry.end_s and kept:
            return say(f"the experiment was run; you had predicted {kept}")
        self._change("prediction", id, lambda old: replace(old, choice=choice, right=choice == question.right))
        return say(f"your prediction is kept: {choice}. Now run the experiment")

    def is_open(self, id: str) -> bool:
        """Tell whether an experiment may run: its prediction is there."""
        if self.unattended:
            return any(one.id == id for one in self.lesson.predictions)
        return any(one.id == id for one in self.lesson.predictions) and self.chosen("prediction", id) > 0

    def refusal(self, id: str) -> UserError:
        """Return what is told to who runs an experiment too early."""
        question = self.lesson.prediction(id)
        hint = f"choose in the cell above, or write %predict {id} NUMBER ({_numbers(question)})"
        return UserError(f"first predict, then run this cell: {self.say(question.asks)}", hint=hint)

    def compare(self, id: str) -> str:
        """Return what was predicted beside what happens, after the experiment."""
        question = self.lesson.prediction(id)
        entry, choice = self._entry("prediction", id), self.chosen("prediction", id)
        if self.unattended or entry is None or not choice:
            return ""
        if not entry.end_s:
            now_s = self._clock()
            self._change("prediction", id, lambda old: replace(old, end_s=now_s))
        return self._verdict(question, choice)

    # ---- exercises

    def check(self, id: str, run: Run) -> str:
        """Ask the kernel whether an exercise is solved; `run` runs the text of a cell."""
        exercise = self.lesson.exercise(id)
        if self.unattended:
            return self._prove(exercise, run)
        missing, now_s = exercise.missing(), self._clock()

        def count(old: Entry) -> Entry:
            if old.right:
                return old
            return replace(old, tries=old.tries + 1, right=not missing, end_s=0.0 if missing else now_s)

        self._change("exercise", id, count)
        return self._missing(exercise, missing) if missing else say(f"{id} is solved: all that it asks for is there")

    def _prove(self, exercise: Exercise, run: Run) -> str:
        """Show that the check can fail, and that the solution passes it."""
        missing = exercise.missing()
        if not missing:
            raise LabError(f"the check of {exercise.id} passes before anything was done")
        run(exercise.solution)
        if left := exercise.missing():
            raise LabError(f"the solution of {exercise.id} does not solve it: {left}")
        return self._missing(exercise, missing)

    def _missing(self, exercise: Exercise, missing: str) -> str:
        told = say(f"not yet: {self.say(missing)}")
        return f"{told}\n" + say(f"a hint: %hint {exercise.id}")

    def hint(self, id: str) -> str:
        """Open the next hint, and return all that are open."""
        exercise = self.lesson.exercise(id)
        opened = self._change("exercise", id, lambda old: replace(old, hints=min(old.hints + 1, HINTS))).hints
        lines = [f"{number}. {self.say(text)}" for number, text in enumerate(exercise.hints[:opened], 1)]
        more = f"one more: %hint {id}" if opened < HINTS else f"these were all; the solution: %solution {id}"
        return "\n".join([*lines, say(more)])

    def solution(self, id: str, *, now: bool) -> str:
        """Return an exercise's solution, after its hints or `now`."""
        exercise, entry = self.lesson.exercise(id), self._entry("exercise", id)
        opened = entry.hints if entry else 0
        solved = entry is not None and entry.right
        if not (now or solved or self.unattended or opened >= HINTS):
            return say(f"first the hints (left: {HINTS - opened}): %hint {id}, or %solution {id} --now")
        if not solved:
            self._change("exercise", id, lambda old: replace(old, solution=True))
        return exercise.solution.strip()

    # ---- the quiz

    def answer(self, id: str, choice: int) -> str:
        """Keep an answer, and tell whether it is right, and why."""
        question = self.lesson.question(id)
        _check_choice(question, choice)
        right, now_s = choice == question.right, self._clock()
        self._change("quiz", id, lambda old: replace(old, choice=choice, right=right, tries=old.tries + 1, end_s=now_s))
        return " ".join(filter(None, (say("Right.") if right else say("Not that one."), self.say(question.why))))

    def chosen(self, kind: Kind, id: str) -> int:
        """Return the number that was chosen before, or 0; another version of the lesson may have had more choices."""
        question = self.lesson.prediction(id) if kind == "prediction" else self.lesson.question(id)
        entry = self._entry(kind, id)
        return entry.choice if entry and entry.choice <= len(question.choices) else 0

    # ---- what is kept

    def progress(self) -> Progress:
        """Return all that is kept of this learner."""
        return self.store.read()

    def _entry(self, kind: Kind, id: str) -> Entry | None:
        return self.store.read().find(self.lesson.name, kind, id)

    def _change(self, kind: Kind, id: str, change: Callable[[Entry], Entry]) -> Entry:
        place, now_s = (self.lesson.name, kind, id), self._clock()
        found = self.store.change(lambda progress: progress.changed(*place, now_s, change)).find(*place)
        assert found is not None
        return found

    def _verdict(self, question: Question, choice: int) -> str:
        predicted, happened = (self.say(question.choices[number - 1]) for number in (choice, question.right))
        if choice == question.right:
            told = say(f"you predicted {choice} ({predicted}), and so it is")
        else:
            told = say(f"you predicted {choice} ({predicted}); it is {question.right} ({happened})")
        return "\n".join(filter(None, (told, self.say(question.why))))


def _check_choice(question: Question, choice: int) -> None:
    names = _numbers(question)
    if not 1 <= choice <= len(question.choices):
        raise UserError(f"{question.id} has no choice {choice}", hint=f"there are: {names}")


def _numbers(question: Question) -> str:
    return " ".join(str(number) for number in range(1, len(question.choices) + 1))


_room: Room | None = None


def open_lesson(name: str) -> Room:
    """Open a lesson in this notebook, by its name."""
    global _room  # noqa: PLW0603 - one notebook, one lesson
    declaration = find(name)
    _room = Room(load(declaration), store(), unattended=_is_unattended(), declaration=declaration)
    return _room


def store() -> Store:
    """Return what keeps this learner's progress: the open lesson's, else a new one."""
    if _room is not None:
        return _room.store
    return Store(None if _is_unattended() else progress_path())


def _is_unattended() -> bool:
    return os.environ.get("VMCONTAINER_UNATTENDED") == "1"


def current() -> Room:
    """Return the open lesson; raises UserError if there is none."""
    if _room is None:
        raise UserError("no lesson is open in this notebook", hint="run its first cell: %lab lesson NAME")
    return _room
