"""What a container's process becomes is looked at before it runs (CVE-2019-5736).

A container's program may be a script that begins with ``#!/proc/self/exe``, or a link to it. What executes it is still
this runtime, so the link leads to the node's Python, which then runs in the container and has its own file open: to be
written as soon as nobody runs Python any more. A runtime ends soon, unlike an agent, and to start it through a
read-only mount (`sealing`) would be to start it twice. So it traces the process until it has executed something
(ptrace(2), PTRACE_EVENT_EXEC): there it stops before the first instruction of its program, whichever that is by now.
"""

from __future__ import annotations

import os

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.oci import log
from vmcontainer_kernel.errors import ContainerError

__all__ = ["judge", "watch"]

_OWN = "/proc/self/exe"
_NR_PTRACE = {"x86_64": 101, "aarch64": 117}.get(os.uname().machine, -1)
_CONT, _DETACH, _SEIZE, _LISTEN = 7, 17, 0x4206, 0x4208
_O_TRACEEXEC, _O_EXITKILL = 0x10, 0x100000
_EVENT_EXEC, _EVENT_STOP = 4, 128
_STOPS = (19, 20, 21, 22)  # SIGSTOP SIGTSTP SIGTTIN SIGTTOU
_SIGKILL = 9
_watched: set[int] = set()


def watch(pid: int) -> None:
    """Trace a process that waits for a go-ahead, if the runtime's program can be written at all. If this process ends
    meanwhile, so does that one.
    """
    if not os.access(_OWN, os.W_OK):
        return
    try:
        _ptrace(_SEIZE, pid, _O_TRACEEXEC | _O_EXITKILL)
        _watched.add(pid)
    except PermissionError:
        log.warn(f"process {pid} cannot be traced: a hostile image might write {os.readlink(_OWN)} (CVE-2019-5736)")
    except ProcessLookupError:  # its report tells why
        return


def judge(pid: int, *, ours: bool = True) -> None:
    """Wait until a process has executed a program, or ended, and let it go, if it is watched; end it and raise
    `ContainerError` if the program is this runtime's own. `ours`: it is a child of this process.
    """
    while pid in _watched:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
        if found is None or found.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
            _watched.remove(pid)
            if not ours:
                os.waitid(os.P_PID, pid, os.WEXITED)
            return
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        event, number = found.si_status >> 8, found.si_status & 0xFF
        if event == _EVENT_EXEC:
            _watched.remove(pid)
            _look(pid)
        elif event == _EVENT_STOP:
            _ptrace(_LISTEN if number in _STOPS else _CONT, pid, 0)
        else:
            _ptrace(_CONT, pid, number)


def _look(pid: int) -> None:
    own, executed = os.stat(_OWN), os.stat(f"/proc/{pid}/exe")
    if (own.st_dev, own.st_ino) == (executed.st_dev, executed.st_ino):
        os.kill(pid, _SIGKILL)
        raise ContainerError(
            "the container's program leads to the runtime's own, /proc/self/exe",
            hint="is the image hostile? see CVE-2019-5736",
            where="exec: ELOOP",
        )
    _ptrace(_DETACH, pid, 0)


def _ptrace(request: int, pid: int, data: int) -> None:
    linux.check(linux.syscall(_NR_PTRACE, request, pid, 0, data), "ptrace")
