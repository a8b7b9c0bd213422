"""``%lab``: everything at once."""

from __future__ import annotations

from typing import Any

from ..display import show
from ..errors import NotFound
from ..session import Session
from .words import Verb, Words, word

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


def _reset(session: Session, words: Words, language: str) -> None:
    session.close()


VERBS: dict[str, Verb] = {
    "doctor": Verb(_doctor, "what this computer can do, and why not", word("name", "one check", needed=False)),
    "view": Verb(_view, "live pictures of the host's kernel and every machine, one tab each"),
    "timeline": Verb(_timeline, "the last starts of machines, containers and commands, step by step"),
    "nesting": Verb(_nesting, "what is inside of what, and a process's PID at every level"),
    "replay": Verb(_replay, "show what a view recorded", word("name", "a file ending in .recording.json")),
    "reset": Verb(_reset, "end and remove everything this notebook started"),
}
