"""The answers of a lesson's quiz, for pages on which nobody can ask the notebook."""

from __future__ import annotations

from pathlib import Path

from vmcontainer_kernel.teaching.lesson import load, read_catalogue

__all__ = ["quiz_answers"]


def quiz_answers(course: Path, lesson: str, language: str) -> str:
    """Return them as a Markdown list in the order of the questions: number, choice and why."""
    declaration = course / "exercises" / f"{lesson}.py"
    catalogue = read_catalogue(declaration, language)

    def say(text: str) -> str:
        return catalogue.word("", text) if text else ""  # a catalogue's own head has the empty name

    lines = []
    for number, question in enumerate(load(declaration).quiz, 1):
        choice = say(question.choices[question.right - 1])
        lines.append(f"{number}. **{question.right}** ({choice}) {say(question.why)}".rstrip())
    return "\n".join(lines)
