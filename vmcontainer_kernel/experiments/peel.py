"""A cell in a container, and once more with some of the container's walls left out: what differs.

    a machine made for it ─┬─ container with all walls ───▶ output, config.json, steps ─┐
    (thrown away)          └─ the same with some left out ─▶ output, config.json, steps ─┴▶ rows side by side

It runs in a machine of its own, which ends afterwards, so that nothing a cell does where a wall is missing can reach
this computer or outlive the run.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import LabError
from ..giving import give_image
from ..machines import Report, quiet
from ..node import Node
from ..session import Session
from .commands import Command
from .differences import compare_configurations, compare_lines, compare_steps
from .places import throw_away
from .switches import LIMITS, check, peeled, states

__all__ = ["UNITS", "Wish", "peel"]

UNITS: Final = {
    "time_s": ("s", "level"),
    **{f"{side}.cut_bytes": ("B", "level") for side in ("with", "without")},
}
_NAME: Final = "peel"
OWN_MACHINE: Final = ""


@dataclass(frozen=True)
class Wish:
    """What is peeled: the text, the options of its container, which switches are turned, and where it runs.

    `on`: a node's name, or nothing for a machine of its own.
    """

    text: str
    options: Mapping[str, Any] = field(default_factory=dict)
    turned: tuple[str, ...] = ()
    on: str = OWN_MACHINE
    limit_s: float = 60.0


async def peel(session: Session, wish: Wish, report: Report = quiet) -> dict[str, Any]:
    """Run the cell with all walls and, if a switch is turned, once more; return the document (docs/views.md).

    Runs on the session's event loop; cancelling it ends what is under way. Raises UserError for a switch that cannot be
    turned there, and what the node answers.
    """
    on_host = wish.on == "host"
    check(wish.turned, on_host=on_host)
    base = {**LIMITS, **wish.options, "argv": ["/bin/sh", "-c", wish.text]}
    async with _node(session, wish.on, report) as node:
        await give_image(node, base.get("image"), report)
        report("the cell with all walls", 0.5)
        kept, plan = await _run(node, base, wish.limit_s), await _plan(node, base)
        without, other = kept, plan
        if wish.turned:
            options = peeled(base, wish.turned)
            other = await _plan(node, options)  # before the run: nobody knows what is left of the node after it
            report(f"the cell, {', '.join(wish.turned)} turned", 0.75)
            without = await _run(node, options, wish.limit_s)
    report("", 1.0)
    return {
        "kind": "peel",
        "version": 1,
        "time_s": round(time.time(), 3),
        "node": wish.on or "machine",
        "text": wish.text[:4096],
        "switches": states(wish.turned, on_host=on_host),
        "turned": sorted(wish.turned),
        "with": kept,
        "without": without if wish.turned else None,
        "output": compare_lines(_lines(kept), _lines(without)),
        "configuration": compare_configurations(plan["config"], other["config"]),
        "steps": compare_steps(plan["steps"], other["steps"]),
        "units": UNITS,
    }


@asynccontextmanager
async def _node(session: Session, on: str, report: Report) -> AsyncIterator[Node]:
    """Give the node that was asked for, or that of a machine which ends with this."""
    if on:
        yield await session.node(on)
        return
    name = f"{_NAME}-{secrets.token_hex(3)}"
    try:
        yield (await session.machines.ensure(name, report=report)).node
    finally:
        await throw_away(session, name)


async def _plan(node: Node, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the container's ``config`` and ``steps``."""
    return await node.call("container.explain", name=_NAME, options=options)


async def _run(node: Node, options: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    """Run a container of the same name each time, as a name is seen inside; an error is a result, too: a cell that has
    lost its walls may end its machine.
    """
    command = Command(node, "container.run", {"name": _NAME, "options": options, "remove": True})
    try:
        return {**(await command.outcome(limit_s)).output(), "failure": None}
    except LabError as error:
        return {"status": None, "out": "", "err": "", "cut_bytes": 0, "failure": error.message}


def _lines(ran: Mapping[str, Any]) -> str:
    return str(ran["failure"] or ran["out"] + ran["err"])


def turned_by(words: Collection[str]) -> tuple[str, ...]:
    """Return the switches that words of ``--without`` turn: ``mask`` is both kinds of guarded paths."""
    found = [one for word in words for one in (("masked-paths", "readonly-paths") if word == "mask" else (word,))]
    return tuple(dict.fromkeys(found))
