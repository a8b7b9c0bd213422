"""When and where the process runs: CPU scheduler, I/O priority, CPUs, and the personality the kernel shows it."""

from __future__ import annotations

import errno
import os

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.light import partial
from vmcontainer_kernel.container.spec import IoPriority, Personality, Scheduler
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError, SpecError

__all__ = ["cpu_set", "io_priority_step", "personality_step", "pin", "scheduler_step"]

# linux/sched.h, linux/ioprio.h, linux/personality.h
_POLICIES = {
    **{"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5},
    "SCHED_DEADLINE": 6,
}
_FLAGS = {
    **{"SCHED_FLAG_RESET_ON_FORK": 0x1, "SCHED_FLAG_RECLAIM": 0x2, "SCHED_FLAG_DL_OVERRUN": 0x4},
    **{"SCHED_FLAG_KEEP_POLICY": 0x8, "SCHED_FLAG_KEEP_PARAMS": 0x10},
    **{"SCHED_FLAG_UTIL_CLAMP_MIN": 0x20, "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40},
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_IO_CLASS_SHIFT = 13
_DOMAINS = {"LINUX": 0x0, "LINUX32": 0x8}


def scheduler_step(one: Scheduler) -> Step:
    """Return the step that sets policy and priority, or the times of a deadline."""
    flags = sum(_FLAGS[name] for name in one.flags)
    times = (one.runtime, one.deadline, one.period)
    return Step(
        "scheduler",
        f"sched_setattr({one.policy}, nice {one.nice}, priority {one.priority}, "
        f"runtime {one.runtime} deadline {one.deadline} period {one.period} ns, {'|'.join(one.flags) or '0'})",
        "how this process shares the CPUs with others; set while it still may",
        "sched_setattr(2), sched(7)",
        partial(_schedule, one, (_POLICIES[one.policy], flags, one.nice, one.priority, times)),
    )


def _schedule(one: Scheduler, arguments: tuple[int, int, int, int, tuple[int, int, int]], _: Scene) -> None:
    try:
        linux.sched_setattr(*arguments)
    except OSError as error:
        hints = {
            errno.EPERM: "real-time policies and a negative nice value need CAP_SYS_NICE, a deadline needs all CPUs",
            errno.EBUSY: "the CPUs have not that much time left for deadlines",
            errno.EINVAL: "priority belongs to SCHED_FIFO and _RR, nice to _OTHER and _BATCH, times to _DEADLINE",
        }
        raise ContainerError(
            f"process.scheduler: {one.policy} cannot be set: {error.strerror}",
            hint=hints.get(error.errno or 0, ""),
            where="process.scheduler",
        ) from None


def io_priority_step(one: IoPriority) -> Step:
    """Return the step that sets the I/O class and priority."""
    value = _IO_CLASSES[one.io_class] << _IO_CLASS_SHIFT | one.priority
    return Step(
        "I/O priority",
        f"ioprio_set(IOPRIO_WHO_PROCESS, 0, {one.io_class}, {one.priority})",
        "whose reads and writes of a disk come first",
        "ioprio_set(2)",
        partial(_prioritise, one, value),
    )


def _prioritise(one: IoPriority, value: int, _: Scene) -> None:
    try:
        linux.set_io_priority(value)
    except OSError as error:
        raise ContainerError(
            f"process.ioPriority: {one.io_class} {one.priority} cannot be set: {error.strerror}",
            hint="IOPRIO_CLASS_RT needs CAP_SYS_NICE" if error.errno == errno.EPERM else "",
            where="process.ioPriority",
        ) from None


def personality_step(one: Personality) -> Step:
    """Return the step that sets what kind of kernel programs believe they run on."""
    return Step(
        "personality",
        f"personality({one.domain})",
        "with LINUX32 uname(2) names a 32-bit machine",
        "personality(2)",
        lambda _: linux.personality(_DOMAINS[one.domain]),
    )


def cpu_set(text: str) -> set[int]:
    """Read a list of CPUs such as ``0-3,7`` (cpuset(7), "List format")."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def pin(cpus: str, where: str) -> None:
    """Let this process run on these CPUs only; nothing for an empty list."""
    if not cpus:
        return
    try:
        os.sched_setaffinity(0, cpu_set(cpus))
    except OSError as error:
        raise SpecError(f"{where}: CPUs {cpus}: {error.strerror}", hint="see /proc/self/status", where=where) from None
