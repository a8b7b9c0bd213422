"""What a process tells of its start and its end: which steps it took, why one failed, its exit status.

In a module of its own, which imports next to nothing: an agent in a guest starts programs long before it is asked for
a container.
"""

from __future__ import annotations

import os

from vmcontainer_kernel.container import jsontext
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import LabError, from_json

__all__ = ["Launch", "Report", "exit_status", "read_report"]


class Launch(Record):
    """A process on its way: its pid (the caller reaps it), and a pipe that ends when it has become the program or
    failed.
    """

    pid: int
    report_fd: int


class Report(Record):
    """What a child did: (step, milliseconds) in order; `error` if one failed; `complete` if the program was about to
    run or an error told; `warnings`: what is not as asked.
    """

    steps: list[tuple[str, float]]
    error: LabError | None
    complete: bool
    warnings: tuple[str, ...] = ()


def read_report(data: bytes) -> Report:
    """Read all that came from `Launch.report_fd`; a line that a killed child has not finished says nothing."""
    steps: list[tuple[str, float]] = []
    warnings: list[str] = []
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
        else:
            steps.append((str(document["step"]), float(document["ms"])))
    return Report(steps, error, ready or error is not None, tuple(warnings))


def exit_status(wait_status: int) -> int:
    """Return a status as a shell counts it: 0 to 255, or 128 + N if signal N ended the process (waitpid(2))."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code
