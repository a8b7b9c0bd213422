"""What ``--explain`` shows: the plan of a container or a machine, without making it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..display import Table, steps_table
from ..machines import quiet
from ..options import container_options, process_options, vm_wish
from ..session import Session
from .nodes import FindNode

__all__ = ["explain_container", "explain_machine"]


def explain_container(session: Session, find: FindNode, options: argparse.Namespace) -> Table:
    """Return the steps that a ``%%container`` cell would take."""

    async def ask() -> dict[str, Any]:
        description = {**container_options(options), **process_options(options), "argv": ["/bin/sh", "-c", "…"]}
        return await (await find()).call("container.explain", name=options.name, options=description)

    return steps_table(session.wait(ask())["steps"])


def explain_machine(session: Session, name: str, options: argparse.Namespace) -> Table:
    """Return QEMU's command line for a ``%%vm`` cell, part by part, each with what it is for."""
    from ..vm import qemu
    from ..vm.config import Wiring

    config = session.wait(session.machines.config(name, vm_wish(options), quiet))
    rows = []
    for device in qemu.DEVICES:
        words = device(config, Wiring(ram=Path("RAM")))
        if words:
            rows.append((device.__name__, " ".join(words), (device.__doc__ or "").splitlines()[0]))
    return Table(("part", "options", "why"), rows)
