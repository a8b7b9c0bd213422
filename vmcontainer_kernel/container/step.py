"""A step of starting a container, as a value: it can say what it does and why, and it can do it.

`plan` functions (`namespaces`, `rootfs`, `process`) return steps without doing anything, so the same list is printed by
``--explain``, drawn as a time line, and executed in the child. What one step hands to a later one is in the `Scene`.
"""

from __future__ import annotations

import os

from vmcontainer_kernel.container import jsontext
from vmcontainer_kernel.container.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ["Scene", "Step", "explained"]


class Scene:
    """The few descriptors the steps of one child share.

    `report_fd`: where the report goes; `sync_fd`: the parent's go-aheads arrive here; `extra`: what the caller handed
    over; `handed`: what the engine's own parent part did, by name: namespaces to join, mounts made ready;
    `old_root_fd`: the node's root, until it is detached; `sources`: what was opened of the node; `state`: what hooks
    are told; `lines`: the report, one JSON object a line.
    """

    def __init__(self, report_fd: int, sync_fd: int = -1, extra: tuple[int, ...] = ()) -> None:
        self.report_fd = report_fd
        self.sync_fd = sync_fd
        self.extra = extra
        self.handed: dict[str, int] = {}
        self.old_root_fd = -1
        self.root = ""
        self.sources: dict[str, int] = {}
        self.state = b""
        self.lines: list[str] = []
        self.told = False

    def flush(self) -> None:
        """Send the report so far; one write for all steps, as each would wake the parent."""
        data, self.lines = "".join(self.lines).encode(), []
        while data:
            data = data[os.write(self.report_fd, data) :]

    def ready(self) -> None:
        """Report that the program is about to run, if that is not done; execve would close the report unsent."""
        if not self.told:
            self.told = True
            self.lines.append('{"ready": true}\n')
            self.flush()

    def warn(self, text: str) -> None:
        """Report something that is not as asked, and no reason to stop."""
        self.lines.append(f'{{"warning": {jsontext.quote(text)}}}\n')

    def await_parent(self) -> None:
        """Wait until the parent says go; if it failed or died instead, end quietly: it knows."""
        if os.read(self.sync_fd, 1) != b"+":
            os._exit(125)

    def ask_parent(self) -> None:
        """Tell the parent that its hooks may run, and wait for what hooks here are to be told: a length, then text."""
        os.write(self.sync_fd, b"?")
        self.await_parent()
        wanted = int.from_bytes(os.read(self.sync_fd, 4), "big")
        while len(self.state) < wanted:
            part = os.read(self.sync_fd, wanted - len(self.state))
            if not part:
                os._exit(125)
            self.state += part


class Step(Record):
    """One thing done on the way to a container: the system call as text, why it is needed, and where that is
    documented.
    """

    name: str
    call: str
    why: str
    source: str
    action: Callable[[Scene], None]

    def describe(self) -> dict[str, str]:
        """Return what ``--explain`` shows, without doing anything."""
        return {"step": self.name, "call": self.call, "why": self.why, "source": self.source}

    def explain(self) -> dict[str, Any]:
        """Return what `describe` does, and where our code does it: file, line and function."""
        return self.describe() | _place(self.action)

    def execute(self, scene: Scene) -> None:
        """Do it; errors are `OSError` (the kernel's) or a `LabError` that says more."""
        self.action(scene)


def explained(recipe: Callable[[], Sequence[Step]]) -> list[dict[str, Any]]:
    """Return the explanations of the steps that a recipe makes."""
    return [step.explain() for step in recipe()]


def _place(action: Any) -> dict[str, Any]:
    """Return where a function begins: its file from our package on, its line, its name."""
    while hasattr(action, "func"):  # functools.partial
        action = action.func
    code = getattr(action, "__code__", None)
    if code is None:
        return {"file": "", "line": 0, "function": ""}
    file = code.co_filename[code.co_filename.rfind("vmcontainer_kernel/") :]
    return {"file": file, "line": code.co_firstlineno, "function": code.co_qualname}
