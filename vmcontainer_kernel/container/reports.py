"""What a process tells of its start and its end: which steps it took, why one failed, its exit status.

In a module of its own, which imports next to nothing: an agent in a guest starts programs long before it is asked for
a container.
"""

from __future__ import annotations

import os
import time

from vmcontainer_kernel.container import jsontext
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import LabError, from_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ["Launch", "Report", "Stopwatch", "exit_status", "read_report"]


class Launch(Record):
    """A process on its way: its pid (the caller reaps it), and a pipe that ends when it has become the program or
    failed.

    `way`: how it was made (forked, spawned, ready, spare, exact spare); `marks`: when the parent had done what
    (`Stopwatch`); `explain`: what describes, later and in order, what was done (`step.Step.explain`).
    """

    pid: int
    report_fd: int
    way: str = "forked"
    marks: tuple[tuple[str, int], ...] = ()
    explain: tuple[Callable[[], Sequence[dict[str, Any]]], ...] = ()


class Stopwatch:
    """Notes when something was done, in nanoseconds of CLOCK_MONOTONIC, which all processes of a node share."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, int]] = []

    def __call__(self, done: str) -> None:
        """Note that this is done now."""
        self.marks.append((done, time.monotonic_ns()))


class Report(Record):
    """What a child did: (step, milliseconds) in order; `error` if one failed; `complete` if the program was about to
    run or an error told; `warnings`: what is not as asked; `begins`: (number of a step, nanoseconds of the monotonic
    clock) for each row of steps without a wait between them.
    """

    steps: list[tuple[str, float]]
    error: LabError | None
    complete: bool
    warnings: tuple[str, ...] = ()
    begins: tuple[tuple[int, int], ...] = ()


def read_report(data: bytes) -> Report:
    """Read all that came from `Launch.report_fd`; a line that a killed child has not finished says nothing."""
    steps: list[tuple[str, float]] = []
    warnings: list[str] = []
    begins: list[tuple[int, int]] = []
    error: LabError | None = None
    ready = False
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        document = jsontext.loads(line.decode())
        if "error" in document:
            error = from_json(document["error"])
        elif "warning" in document:
            warnings.append(str(document["warning"]))
        elif document.get("ready"):
            ready = True
        elif "begin_ns" in document:
            begins.append((len(steps), int(document["begin_ns"])))
        else:
            steps.append((str(document["step"]), float(document["ms"])))
    return Report(steps, error, ready or error is not None, tuple(warnings), tuple(begins))


def exit_status(wait_status: int) -> int:
    """Return a status as a shell counts it: 0 to 255, or 128 + N if signal N ended the process (waitpid(2))."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code
