"""``%lab``: everything at once."""

from __future__ import annotations

from typing import Any

from ..display import show
from ..errors import NotFound
from ..messages import say
from ..session import Session
from .words import Verb, Words, option, word

__all__ = ["VERBS"]


def _doctor(session: Session, words: Words, language: str) -> Any:
    from .. import doctor
    from ..live import Rendered

    checks = doctor.examine([words.name] if words.name else ())
    if not checks:
        raise NotFound(f"there is no check {words.name}", hint=f"there are: {' '.join(doctor.NAMES)}")
    return Rendered(doctor.to_text(checks), doctor.to_html(checks))


def _view(session: Session, words: Words, language: str) -> None:
    from ..live import lab_view

    show(lab_view(session, language))


def _timeline(session: Session, words: Words, language: str) -> None:
    from ..live import timeline_view

    show(timeline_view(session, language))


def _nesting(session: Session, words: Words, language: str) -> None:
    from ..live import nesting_view

    show(nesting_view(session, language))


def _replay(session: Session, words: Words, language: str) -> None:
    from ..live.replay import replay_view

    show(replay_view(words.name, language))


def _lesson(session: Session, words: Words, language: str) -> None:
    from ..teaching import room

    for notice in room.open_lesson(words.name).opened():
        print(f"[lab] {say(notice)}")


def _progress(session: Session, words: Words, language: str) -> Any:
    from ..teaching import report, room

    store = room.store()
    progress = store.read()
    if words.name is not None:
        progress = store.change(lambda old: report.named(old, words.name))
    for notice in store.take_notices():
        print(f"[lab] {say(notice)}")
    if words.name is not None:
        print(say(f"the name in your progress is {progress.name or '-'}"))
    if words.export:
        print(report.write_export(progress, words.export))
        return None
    return report.progress_table(progress)


def _reset(session: Session, words: Words, language: str) -> None:
    session.close()


VERBS: dict[str, Verb] = {
    "doctor": Verb(_doctor, "what this computer can do, and why not", word("name", "one check", needed=False)),
    "view": Verb(_view, "live pictures of the host's kernel and every machine, one tab each"),
    "timeline": Verb(_timeline, "the last starts of machines, containers and commands, step by step"),
    "nesting": Verb(_nesting, "what is inside of what, and a process's PID at every level"),
    "replay": Verb(_replay, "show what a view recorded", word("name", "a file ending in .recording.json")),
    "lesson": Verb(
        _lesson, "open a lesson in this notebook", word("name", "its name, such as 03-first-container", needed=False)
    ),
    "progress": Verb(
        _progress,
        "what you have done in lessons",
        option("--export", metavar="FILE", help="write it for a teacher: FILE.csv or FILE.json"),
        option("--name", metavar="NAME", help="the name that a teacher shall read in it"),
    ),
    "reset": Verb(_reset, "end and remove everything this notebook started"),
}
