"""``%container network``: networks of containers on a node; they end with the notebook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..display import Table
from ..errors import UserError
from ..session import Session
from .nodes import ask
from .words import ON, Argument, Words, flag, nearest, option, word

__all__ = ["ACTIONS", "ARGUMENTS", "run"]


def _ls(session: Session, given: Words) -> Table:
    found = ask(session, given, "network.list")["networks"]
    rows = [(one["name"], one["driver"], one["subnet"], one["gateway"], one["interface"]) for one in found]
    head = ("network", "kind", "addresses", "way out", "interface")
    return Table(head, rows, "no networks: a container has none, host, or one made by %container network create")


def _create(session: Session, given: Words) -> None:
    ask(session, given, "network.create", name=_name(given), subnet=given.subnet or "", internal=given.internal)


def _inspect(session: Session, given: Words) -> dict[str, Any]:
    return ask(session, given, "network.inspect", name=_name(given))


def _rm(session: Session, given: Words) -> None:
    ask(session, given, "network.remove", name=_name(given))


def _name(given: Words) -> str:
    if not given.name:
        raise UserError(f"%container network {given.action} needs a name", hint="%container network ls shows them")
    return str(given.name)


ACTIONS: dict[str, Callable[[Session, Words], Any]] = {"ls": _ls, "create": _create, "inspect": _inspect, "rm": _rm}
ARGUMENTS: tuple[Argument, ...] = (
    word("action", " ".join(ACTIONS), needed=False),
    word("name", "the network", needed=False),
    ON,
    option("--subnet", metavar="ADDRESS/BITS", help="with create: its addresses, as 10.9.0.0/24"),
    flag("--internal", help="with create: no way out"),
)


def run(session: Session, given: Words, language: str) -> Any:
    """Carry out ``%container network ACTION [NAME]``."""
    return nearest(ACTIONS, given.action or "ls", "%container network")(session, given)
