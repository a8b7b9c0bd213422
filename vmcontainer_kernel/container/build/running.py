"""RUN: a container of this engine on the layers so far, with all its protections; what it wrote is the layer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from vmcontainer_kernel.container.build.plan import Run
from vmcontainer_kernel.container.build.report import Report
from vmcontainer_kernel.container.container import Container
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.reports import exit_status, read_report
from vmcontainer_kernel.container.runtime import Runtime
from vmcontainer_kernel.errors import CommandFailed

__all__ = ["run"]

_CHUNK_BYTES = 65536
_LINES = 10


@contextlib.contextmanager
def run(runtime: Runtime, name: str, action: Run, report: Report) -> Iterator[Path]:
    """Run a step's program to its end and give the folder with what it wrote; the container is removed afterwards.

    Raises `CommandFailed` with the end of its output for a status other than 0, and what `Runtime.start` raises.
    """
    options = Options(image=name, argv=action.argv, env=action.variables, network=action.network)
    container = runtime.create(name, options)
    try:
        status = _wait(runtime, container, report)
        if status:
            raise _failed(runtime, container, status, report)
        yield container.bundle / "upper"
    finally:
        runtime.remove(container, force=True)


def _wait(runtime: Runtime, container: Container, report: Report) -> int:
    """Start the container, pass its output on, reap it; return its status as a shell counts."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        launch = runtime.start(container, (null_fd, write_fd, write_fd))
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
        os.close(null_fd)
    with open(launch.report_fd, "rb", buffering=0) as steps, open(read_fd, "rb", buffering=0) as output:
        told = read_report(steps.readall())
        while data := output.read(_CHUNK_BYTES):
            report.output(data)
    runtime.exited(container, wait_status := os.waitpid(launch.pid, 0)[1])
    if told.error:
        raise told.error
    return exit_status(wait_status)


def _failed(runtime: Runtime, container: Container, status: int, report: Report) -> CommandFailed:
    hint = "the steps before it are kept in the cache; change the line and build again"
    if runtime.events(container).get("oom_kills"):
        hint = "the kernel killed a process because memory was short (OOM)"
    if status == 127:
        hint = "127 is the shell's word for a program it does not find; is it in the image?"
    last = report.tail.decode(errors="replace").splitlines()[-_LINES:]
    return CommandFailed(f"RUN ended with status {status}", status=status, hint=hint, where="\n".join(last))
