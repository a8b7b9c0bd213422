"""Which node serves a request, and how to ask it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ..cells import DEFAULT_MACHINE, FindNode
from ..container.ladder import GUEST
from ..giving import take_image
from ..node import Node
from ..probe import footing
from ..session import Session

__all__ = ["FindNode", "ask", "default_node_name", "finder", "keep_image", "node_finder"]

_default_node: str = ""


def default_node_name() -> str:
    """Return where containers run when nothing is said: the host where its kernel allows them, else a machine."""
    global _default_node  # noqa: PLW0603 - the answer cannot change while this process lives
    if not _default_node:
        # `doctor` looks each time; a cell need not wait for what was found since this computer started.
        _default_node = DEFAULT_MACHINE if footing().rung == GUEST.name else "host"
    return _default_node


def node_finder(session: Session, name: str, report: Callable[[str, float], None]) -> FindNode:
    """Return what finds a node on the event loop; the default node is made if it is a machine that is not there."""
    wanted = name or default_node_name()

    async def find() -> Node:
        if not name and wanted != "host":
            guest = await session.machines.ensure(wanted, report=report)
            report("", 1.0)
            return guest.node
        return await session.node(wanted)

    return find


def finder(session: Session, words: argparse.Namespace) -> FindNode:
    """Return what finds the node of a line."""
    return node_finder(session, words.on, lambda phase, fraction: None)


def ask(session: Session, words: argparse.Namespace, verb: str, **arguments: Any) -> dict[str, Any]:
    """Ask the node of a line and wait for its answer."""
    find = finder(session, words)

    async def answer() -> dict[str, Any]:
        return await (await find()).call(verb, **arguments)

    return session.wait(answer())


def keep_image(session: Session, words: argparse.Namespace, name: str) -> None:
    """Bring what was just made to this computer's store, if it is where containers run when nothing is said."""
    if words.on or default_node_name() == "host":
        return

    async def take() -> None:
        await take_image(await session.node(default_node_name()), name)

    session.wait(take())
