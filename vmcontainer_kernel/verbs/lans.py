"""``%vm network``: private networks of this notebook's machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..display import Table
from ..errors import UserError
from ..lans import Member
from ..session import Session
from .words import Argument, Words, nearest, word

__all__ = ["ARGUMENTS", "run"]

_HEAD = ("network", "addresses", "machine", "address", "interface")


def _ls(session: Session, given: Words) -> Table:
    async def rows() -> list[tuple[str, ...]]:
        return [
            (lan.name, str(lan.subnet), one.name, one.address, one.interface)
            for lan in session.lans.all()
            for one in lan.members
        ]

    return Table(_HEAD, session.wait(rows()), "no machine is in a network: %%vm NAME --network LAB")


def _connect(session: Session, given: Words) -> Table:
    if not given.network or not given.machine:
        raise UserError("which machine, into which network?", hint="%vm network connect LAB MACHINE")
    member: Member = session.wait(session.lans.join(given.machine, given.network))
    return Table(
        ("network", "machine", "address", "interface"), [(given.network, member.name, member.address, member.interface)]
    )


ACTIONS: dict[str, Callable[[Session, Words], Table]] = {"ls": _ls, "connect": _connect}
ARGUMENTS: tuple[Argument, ...] = (
    word("action", " ".join(ACTIONS), needed=False),
    word("network", "with connect: its name; it is made if there is none", needed=False),
    word("machine", "with connect: the machine that gets a card in it", needed=False),
)


def run(session: Session, given: Words, language: str) -> Any:
    """Carry out ``%vm network [ACTION NETWORK MACHINE]``."""
    return nearest(ACTIONS, given.action or "ls", "%vm network")(session, given)
