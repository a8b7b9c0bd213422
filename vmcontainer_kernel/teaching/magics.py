"""The magics of lessons: ``%predict`` and ``%%after``, ``%check``, ``%hint``, ``%solution`` and ``%quiz``.

``%%after ID`` stands above a cell of any kind. As soon as the prediction is there, the line is taken away before
IPython reads the cell (`let_through`), so that the cell is exactly what it would be without it.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..messages import language, say

if TYPE_CHECKING:
    from .lesson import Question
    from .progress import Kind
    from .room import Room

__all__ = ["CELLS", "LINES", "compare_after", "let_through"]

_AFTER = re.compile(r"%%after[ \t]+(\S+)[ \t]*")
_CHOICE = re.compile(r"(\S+?)(?:\s*[=:,]\s*|\s+)(\d{1,9})")


def after_cell(line: str, cell: str) -> None:
    """Run this cell only after its prediction: %%after ID above the cell, of whatever kind it is.

        %%after pid
        %%container --without pid
        echo $$

    %predict ID shows what there is to choose. When the cell has run, your prediction is told beside what happened.
    """
    room = _current()
    raise room.refusal(_one(line, "%%after", [one.id for one in room.lesson.predictions]))


def predict_line(line: str) -> None:
    """Say what you expect before you run an experiment: %predict ID shows the choices, %predict ID 2 keeps one.

    Until then the experiment's cell does not run. Your prediction may change until the cell was run, not after.
    """
    room = _current()
    id, choice = _words(line, "%predict", [one.id for one in room.lesson.predictions])
    if choice is not None:
        _tell(room, room.choose(id, choice))
        return
    _offer(room, "prediction", room.lesson.prediction(id))


def check_line(line: str) -> None:
    """Check an exercise: %check ID. The answer comes from the kernel or the hypervisor, not from what you wrote.

    What is missing is told, one thing at a time. %hint ID opens a hint, %solution ID shows the solution after three.
    """
    room = _current()
    ids = line.split() or [one.id for one in room.lesson.exercises]
    for id in ids:
        _tell(room, room.check(id, _run_quietly))


def hint_line(line: str) -> None:
    """Open the next of an exercise's three hints: %hint ID."""
    room = _current()
    _tell(room, room.hint(_id(line, "%hint", [one.id for one in room.lesson.exercises])))


def solution_line(line: str) -> None:
    """Show an exercise's solution, a cell to copy: %solution ID, after its three hints.

    --now shows it at once; your progress says so.
    """
    room = _current()
    words = line.split()
    named = " ".join(word for word in words if word != "--now")
    id = _id(named, "%solution", [one.id for one in room.lesson.exercises])
    _tell(room, room.solution(id, now="--now" in words))


def quiz_line(line: str) -> None:
    """Answer the questions at the end of a lesson: %quiz shows them, %quiz ID 2 answers one."""
    room = _current()
    if line.strip():
        id, choice = _words(line, "%quiz", [one.id for one in room.lesson.quiz])
        if choice is not None:
            _tell(room, room.answer(id, choice))
        else:
            _offer(room, "quiz", room.lesson.question(id))
        return
    for question in room.lesson.quiz:
        _offer(room, "quiz", question)


LINES = {
    "predict": predict_line,
    "check": check_line,
    "hint": hint_line,
    "solution": solution_line,
    "quiz": quiz_line,
}
CELLS = {"after": after_cell}


# ---- words


def _words(line: str, title: str, there: list[str]) -> tuple[str, int | None]:
    """Read ``ID``, ``ID 2`` or ``ID = 2``."""
    line = line.strip()
    if found := _CHOICE.fullmatch(line):
        return found[1], int(found[2])
    if len(line.split()) > 1:
        raise UserError(f"{title} {line}: it takes a name and a number", hint=f"{title} ID or {title} ID 2")
    return _one(line, title, there), None


def _one(line: str, title: str, there: list[str]) -> str:
    """Read ``ID``."""
    id, _, rest = line.strip().partition(" ")
    if not id:
        raise UserError(f"{title} needs a name", hint=f"there are: {' '.join(there)}")
    if rest:
        raise UserError(f"{title} {id}: what is {rest.strip()!r}?", hint=f"{title} ID")
    return id


def _id(line: str, title: str, there: list[str]) -> str:
    """Read ``ID``, which may be left out where there is only one."""
    return there[0] if not line.strip() and len(there) == 1 else _one(line, title, there)


# ---- effects


def _current() -> Room:
    """Return the open lesson; raises UserError if there is none. A notebook without one never imports its parts."""
    from .room import current

    return current()


def _open() -> Room | None:
    """Return the open lesson, if there is one."""
    rooms = sys.modules.get("vmcontainer_kernel.teaching.room")
    return rooms._room if rooms else None


def _tell(room: Room, text: str) -> None:
    for notice in room.store.take_notices():
        print(f"[lab] {say(notice)}")
    if text:
        print(text)


def _offer(room: Room, kind: Kind, question: Question) -> None:
    """Show a question with its choices as radio buttons; the text form says what to write."""
    from vmcontainer_widgets.choice import Choice

    from ..display import show

    keep = room.choose if kind == "prediction" else room.answer
    form = f"%{'predict' if kind == 'prediction' else 'quiz'} {question.id}"
    widget = Choice(
        language=language(),
        asks=room.say(question.asks),
        choices=[room.say(one) for one in question.choices],
        chosen=room.chosen(kind, question.id),
        button=say("Predict") if kind == "prediction" else say("Answer"),
        form=say(f"choose a number and write it: {form} NUMBER"),
    )
    widget.on_choice(lambda choice: (keep(question.id, choice), room.chosen(kind, question.id)))
    _tell(room, "")
    show(widget)


def _shell() -> Any:
    from IPython.core.getipython import get_ipython

    return get_ipython()


def _run_quietly(cell: str) -> None:
    """Run the text of a cell and show nothing of it; raise what it raises."""
    from IPython.utils.capture import capture_output

    with capture_output():
        done = _shell().run_cell(cell, silent=True)
    done.raise_error()


# ---- %%after


def let_through(lines: list[str]) -> list[str]:
    """Take ``%%after ID`` off a cell whose prediction is there (IPython, ``input_transformers_cleanup``)."""
    found = _AFTER.fullmatch(lines[0].rstrip("\n")) if lines else None
    room = _open() if found else None
    return lines[1:] if found and room and room.is_open(found[1]) else lines


def compare_after(result: Any) -> None:
    """Tell what was predicted, when an experiment has run (IPython's event ``post_run_cell``)."""
    first = (result.info.raw_cell or "").lstrip().partition("\n")[0] if result.info else ""
    found = _AFTER.fullmatch(first)
    room = _open() if found else None
    if found and room and result.success:
        _tell(room, room.compare(found[1]))
