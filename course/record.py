"""Take the recordings that the course's pages replay: ``python course/record.py [NAME…]``, as root.

A page cannot run a machine. So what a view shows while something happens is recorded here, for real, and the cell with
the tag ``replay:NAME`` shows it on the site, with the day and the kind of computer it was taken on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from places import anonymous, leaks
from vmcontainer_widgets.recording import Recording

from vmcontainer_kernel import lab

__all__ = ["SCENES", "main"]

FOLDER = Path(__file__).with_name("recordings")
PERIOD_S = 0.5
WORK = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done"

Cell = Callable[[str], object]
Looks = Iterator[int]
"""How often to look before the scene goes on."""


def pause(cell: Cell) -> Looks:
    """A machine works, stands still, and works on (lesson 2)."""
    cell(f"%%vm\n({WORK}; {WORK}) > /dev/null 2>&1 &")
    yield 6
    cell("%vm pause vm")
    yield 6
    cell("%vm resume vm")
    yield 8


def container(cell: Cell) -> Looks:
    """A container rests, works, and has one process more for a while (lesson 3)."""
    cell("%%container web\ntrue")
    yield 4
    cell(f"%%container web\n({WORK}) > /dev/null 2>&1 &")
    yield 4
    cell("%%container web\nsleep 2 > /dev/null 2>&1 &")
    yield 8


SCENES: dict[str, tuple[str, Callable[[Cell], Looks], Callable[[], dict[str, Any]]]] = {
    "pause": ("hypervisor", pause, lambda: lab.machine("vm").view()),
    "container": ("kernel", container, lab.host.view),
}


def take(name: str, cell: Cell) -> str:
    """Play a scene; return its recording as a text without what only this computer has."""
    view, scene, look = SCENES[name]
    looks = scene(cell)
    first = next(looks)  # what is looked at may begin with the scene
    uname = os.uname()
    place = f"Linux {uname.release} {uname.machine}, {os.cpu_count()} CPUs"
    recording = Recording(view, place, time.time(), look())
    for times in chain((first,), looks):
        for _ in range(times):
            time.sleep(PERIOD_S)
            recording.add(look())
    return anonymous(json.dumps(recording.finished(), ensure_ascii=False))


def main(names: list[str]) -> int:
    """Take these recordings, or all; return 0 when none of them tells where it was taken."""
    shell = InteractiveShell.instance()
    FOLDER.mkdir(exist_ok=True)
    shell.run_cell("%load_ext vmcontainer_kernel")
    problems = []
    for name in names or list(SCENES):
        text = take(name, lambda code: shell.run_cell(code).raise_error())
        problems += [f"{name}: it holds {leak} and was not kept" for leak in leaks(text)]
        if not list(leaks(text)):
            (FOLDER / f"{name}.recording.json").write_text(text + "\n", encoding="utf-8")
    shell.run_cell("%lab reset")
    print(*problems, sep="\n", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
