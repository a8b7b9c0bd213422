"""``%container volume``: named volumes, which outlive containers and notebooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..display import Table, size_text
from ..errors import UserError
from ..messages import say
from ..session import Session
from .nodes import ask
from .words import ON, Argument, Words, nearest, word

__all__ = ["ACTIONS", "ARGUMENTS", "run"]


def _ls(session: Session, given: Words) -> Table:
    found = ask(session, given, "volume.list")["volumes"]
    rows = [(one["name"], size_text(one["size_bytes"]), " ".join(one["used_by"]), one["mountpoint"]) for one in found]
    return Table(("volume", "size", "used by", "folder on the node"), rows, "no volumes")


def _create(session: Session, given: Words) -> None:
    ask(session, given, "volume.create", name=_name(given))


def _inspect(session: Session, given: Words) -> dict[str, Any]:
    return ask(session, given, "volume.inspect", name=_name(given))


def _rm(session: Session, given: Words) -> None:
    ask(session, given, "volume.remove", name=_name(given))


def _prune(session: Session, given: Words) -> None:
    unused = [one["name"] for one in ask(session, given, "volume.list")["volumes"] if not one["used_by"]]
    for name in unused:
        ask(session, given, "volume.remove", name=name)
    print(f"{say('removed')}: {' '.join(unused) or say('all are in use')}")


def _name(given: Words) -> str:
    if not given.name:
        raise UserError(f"%container volume {given.action} needs a name", hint="%container volume ls shows them")
    return str(given.name)


ACTIONS: dict[str, Callable[[Session, Words], Any]] = {
    "ls": _ls,
    "create": _create,
    "inspect": _inspect,
    "rm": _rm,
    "prune": _prune,
}
ARGUMENTS: tuple[Argument, ...] = (
    word("action", " ".join(ACTIONS), needed=False),
    word("name", "the volume", needed=False),
    ON,
)


def run(session: Session, given: Words, language: str) -> Any:
    """Carry out ``%container volume ACTION [NAME]``."""
    return nearest(ACTIONS, given.action or "ls", "%container volume")(session, given)
