"""A lesson's questions as Markdown, where its text says so: for students, and with all the answers for teachers.

<!-- predict: pid -->   <!-- exercise: walls -->   <!-- quiz -->      each a block of its own in the lesson's text
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .lesson import Exercise, Lesson, Question

__all__ = ["DIRECTIVE", "expand", "named_in", "teacher_notes"]

DIRECTIVE = re.compile(r"^<!-- (predict|exercise|quiz)(?:: ([\w-]+))? -->$", re.MULTILINE)

Say = Callable[[str], str]


def named_in(text: str) -> list[tuple[str, str]]:
    """Return what a lesson's text asks for: pairs of kind and id."""
    return [(kind, id or "") for kind, id in DIRECTIVE.findall(text)]


def expand(text: str, lesson: Lesson, say: Say, ours: Say, *, teacher: bool = False) -> str:
    """Put the questions into a cell of prose; `say` translates the lesson's texts, `ours` those of this module."""

    def put(found: re.Match[str]) -> str:
        kind, id = found[1], found[2] or ""
        if kind == "predict":
            return _question(ours("Predict."), lesson.prediction(id), say, ours, teacher=teacher)
        if kind == "exercise":
            return _exercise(lesson.exercise(id), say, ours, teacher=teacher)
        questions = enumerate(lesson.quiz, 1)
        return "\n\n".join(_question(f"{number}.", one, say, ours, teacher=teacher) for number, one in questions)

    return DIRECTIVE.sub(put, text)


def _question(title: str, question: Question, say: Say, ours: Say, *, teacher: bool) -> str:
    choices = "\n".join(f"{number}. {say(text)}" for number, text in enumerate(question.choices, 1))
    answer = f"*{ours('Answer')}: {question.right}.* {say(question.why)}".rstrip() if teacher else ""
    return "\n\n".join(filter(None, (f"**{title}** {say(question.asks)}", choices, answer)))


def _exercise(exercise: Exercise, say: Say, ours: Say, *, teacher: bool) -> str:
    asks = f"**{ours('Exercise.')}** {say(exercise.asks)}"
    if not teacher:
        return asks
    hints = "\n".join(f"{number}. {say(text)}" for number, text in enumerate(exercise.hints, 1))
    solution = f"```\n{exercise.solution.strip()}\n```"
    return "\n\n".join((asks, f"*{ours('Hints')}*", hints, f"*{ours('Solution')}*", solution))


def teacher_notes(lesson: Lesson, say: Say, ours: Say) -> str:
    """Return what only teachers read, as Markdown; an empty text if there is nothing."""
    if not lesson.notes:
        return ""
    return "\n\n".join((f"## {ours('For teachers')}", *(say(note) for note in lesson.notes)))
