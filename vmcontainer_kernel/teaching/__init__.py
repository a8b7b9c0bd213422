"""What makes a lesson more than a text: predictions, exercises, hints, a quiz, and the learner's progress.

    course/exercises/LESSON.py ──load──▶ Lesson ──▶ Room (an open lesson) ──▶ %predict %%after %check %hint %quiz
                                            │          └── Store: the learner's file ──▶ %lab progress
                                            └── edition.py: the questions as Markdown, for course/build.py

docs/teaching-form.md says how a lesson uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lesson import Exercise, Fact, Lesson, Question

__all__ = ["Exercise", "Fact", "Lesson", "Question"]


def __getattr__(name: str) -> Any:
    """Import what a lesson declares with (PEP 562) when one does: most notebooks open no lesson."""
    if name not in __all__:
        raise AttributeError(name)
    from . import lesson

    return getattr(lesson, name)
