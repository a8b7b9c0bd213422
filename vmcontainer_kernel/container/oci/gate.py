"""The wait between `create` and `start`: a created container is a process that has done everything but execve.

    create                        the container's first process             start
      mkfifo ROOT/ID/gate
      clone ─────────────────────▶ all steps
      pid written down ── "+" ──▶  is there such a program?
           ◀── {"created"} ──────  read(gate) …
      exits                          …                        ◀── "+" ──── write(gate)
                                   execve: the gate closes ──────────────▶ poll: POLLERR
                                   or writes why not to ROOT/ID/failed ──▶ and it says so

The process has the FIFO open for reading and writing, so that it never sees an end of file; nobody else reads it, so a
writer can tell by it whether the process still waits (fifo(7)).
"""

from __future__ import annotations

import os
import select

from vmcontainer_kernel.container.oci import guard
from vmcontainer_kernel.container.process import check_program
from vmcontainer_kernel.container.spec import Process
from vmcontainer_kernel.container.step import Scene, Step

__all__ = ["CREATED", "gate_steps", "make_gate", "open_gate", "recorded_step"]

CREATED = '{"created": true}\n'
"""The line of the report that says that a container waits to be started."""


def make_gate(folder: str) -> tuple[int, int]:
    """Make a container's gate and the file for a failure behind it; return the descriptors for its process."""
    os.mkfifo(f"{folder}/gate", 0o600)
    failed = os.open(f"{folder}/failed", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return os.open(f"{folder}/gate", os.O_RDWR | os.O_CLOEXEC), failed


def open_gate(gate_fd: int, pid: int) -> None:
    """Let the process behind a gate go on; return when it has become the program, or ended."""
    guard.watch(pid)
    os.write(gate_fd, b"+")
    guard.judge(pid, ours=False)
    poller = select.poll()
    poller.register(gate_fd, 0)
    poller.poll()


def recorded_step() -> Step:
    """Return the step that waits until the container's pid is written down."""
    return Step(
        "recorded",
        'read(sync, "+")',
        "a process nobody has written down could never be deleted: it ends here if its maker has died",
        "runtime.md, Create",
        _await,
    )


def _await(scene: Scene) -> None:
    scene.await_parent()


def gate_steps(process: Process, index: int) -> list[Step]:
    """Return the steps between a created container and a running one; `index`: where in `Scene.extra` the descriptors
    of `make_gate` begin.
    """
    return [
        Step(
            "program",
            f"access({process.args[0]!r}, X_OK)",
            "a program that is not there is an error of create, where it can still be told well",
            "access(2)",
            lambda scene: check_program(process),
        ),
        Step(
            "gate",
            "read(gate)",
            "created, but not yet running: all that is left is to execute the program, when start says so",
            "runtime.md, Lifecycle",
            lambda scene: _wait(scene, *scene.extra[index : index + 2]),
        ),
    ]


def _wait(scene: Scene, gate_fd: int, failed_fd: int) -> None:
    scene.lines.append(CREATED)
    scene.flush()
    os.read(gate_fd, 1)
    os.close(scene.report_fd)
    scene.report_fd = failed_fd
