"""Load filters in children of a clean process and make system calls there; JSON lines in, JSON lines out.

Request: {"filter": linux.seccomp or null, "calls": [[WAY, NUMBER, ARGUMENT…], …]}. A way is
how the kernel is entered: "native", "i386" (int 0x80) or "x32". Answer: {"results": [[value, errno], …], "status"}.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import sys
import time
from typing import Any

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.fields import Fields
from vmcontainer_kernel.container.parsing_linux import parse_linux
from vmcontainer_kernel.container.seccomp import install
from vmcontainer_kernel.container.spec import Seccomp
from vmcontainer_kernel.container.step import Scene

LIBC = ctypes.PyDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
X32_BIT = 0x40000000
# push rbx; mov eax, edi; mov ebx, esi; mov ecx, edx; int 0x80; pop rbx; cdqe; ret
INT_80 = bytes.fromhex("53 89f8 89f3 89d1 cd80 5b 4898 c3")


def through_int_80() -> Any:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(INT_80)
    kind = ctypes.PYFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 3)
    function = kind(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    function.page = page
    return function


def call(way: str, number: int, arguments: list[int], gate: Any) -> tuple[int, int]:
    if way == "i386":
        value = gate(number, *[*arguments, 0, 0][:2])
        return (-1, -value) if -4096 < value < 0 else (value, 0)
    bit = X32_BIT if way == "x32" else 0
    ctypes.set_errno(0)
    value = LIBC.syscall(ctypes.c_long(bit | number), *[ctypes.c_ulong(one) for one in arguments])
    return int(value), ctypes.get_errno()


def child(seccomp: Seccomp | None, calls: list[Any], results_fd: int, sync_fd: int) -> None:
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    gate, scene = through_int_80(), Scene(os.open("/dev/null", os.O_WRONLY), sync_fd)
    for step in install.seccomp_steps(seccomp):
        step.execute(scene)
    for way, number, *arguments in calls:
        os.write(results_fd, json.dumps(call(way, number, arguments, gate)).encode() + b"\n")


def run(filter: dict[str, Any] | None, calls: list[Any]) -> dict[str, Any]:
    seccomp = parse_linux(Fields({"seccomp": filter})).seccomp
    ours, theirs = socket.socketpair()
    results_r, results_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(seccomp, calls, results_w, theirs.fileno())
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(99)
        os._exit(0)
    os.close(results_w)
    theirs.close()
    state = {"ociVersion": "1.2.0", "id": "t", "status": "creating", "pid": pid, "bundle": "/"}
    install.pass_on(seccomp, lambda: state, pid, ours.fileno())
    with open(results_r) as stream:
        results = [json.loads(line) for line in stream]
    return {"results": results, "status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "pid": pid}


def measure(filter: dict[str, Any] | None, rounds: int) -> dict[str, Any]:
    """Return what loading took, and a cheap call, in microseconds."""
    pid_r, pid_w = os.pipe()
    steps = install.seccomp_steps(parse_linux(Fields({"seccomp": filter})).seccomp)
    if os.fork() == 0:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        begin_ns = time.perf_counter_ns()
        for step in steps:
            step.execute(Scene(-1))
        loaded_ns = time.perf_counter_ns()
        for _ in range(rounds):
            os.getppid()
        end_ns = time.perf_counter_ns()
        text = {"load_us": (loaded_ns - begin_ns) / 1e3, "call_us": (end_ns - loaded_ns) / 1e3 / rounds}
        os.write(pid_w, json.dumps(text).encode())
        os._exit(0)
    os.wait()
    return dict(json.loads(os.read(pid_r, 4096)))


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(measure(**request) if "rounds" in request else run(**request)), flush=True)


if __name__ == "__main__":
    main()
