"""Run a command and all that it starts, wait until the last of it has ended, and tell what it used and what stayed.

    python -m tests.spent ANSWER.json COMMAND...

A notebook's supervisor, its machines and its containers are in sessions of their own and outlive the notebook, which
nbval ends with SIGKILL. This process is their *subreaper* (PR_SET_CHILD_SUBREAPER): whatever loses its parent becomes
its child. So the CPU time of its children (getrusage(2)) is that of everything the command has started, and a process
that it still has after some seconds was left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from vmcontainer_kernel.container import linux

__all__ = ["GONE_WITHIN_S"]

GONE_WITHIN_S = 5.0
PR_SET_CHILD_SUBREAPER = 36


def main(answer: Path, command: list[str]) -> None:
    """Run the command; write what it used, what its end was and which processes stayed."""
    linux.prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, lambda *_: _end_all())
    began_s = time.monotonic()
    status = _status_of(subprocess.Popen(command).pid)
    seconds = time.monotonic() - began_s
    left = _wait_for_the_rest(time.monotonic() + GONE_WITHIN_S)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = {"status": status, "seconds": seconds, "cpu_s": used.ru_utime + used.ru_stime, "left": left}
    answer.write_text(json.dumps(told))


def _status_of(pid: int) -> int:
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _wait_for_the_rest(deadline_s: float) -> list[str]:
    """Wait until there are no children any more; end what is there at the deadline, and name it."""
    left: list[str] = []
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return left
        if not ended and time.monotonic() > deadline_s:
            left += [f"process {pid} {_command(pid)}" for pid in _descendants(os.getpid())]
            _end_all()
            deadline_s += GONE_WITHIN_S
        elif not ended:
            time.sleep(0.02)


def _end_all() -> None:
    for pid in _descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _descendants(ancestor: int) -> list[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
    found = [ancestor]
    for one in found:
        found += [pid for pid, parent in parents.items() if parent == one]
    return found[1:]


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:300]
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
