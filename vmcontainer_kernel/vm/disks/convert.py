"""qemu-img, bounded: what it is told, with which rights and limits it runs, and what its failures mean.

    convert ─▶ prlimit(1) memory, CPU time, size of files ─▶ setpriv(1) nobody (if we are root) ─▶ qemu-img convert

An image of a stranger is read by descriptor only (``/proc/self/fd/N``), as a user who may open nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from ...errors import HostError, ImageError, LabError, UserError
from .nodes import Node, file_name

__all__ = ["NOBODY", "OPTIONS", "Report", "Runner", "bounded", "can_be_nobody", "check", "convert", "finished"]

Report = Callable[[str, float], None]

NOBODY: Final = 65534
MEMORY_BYTES: Final = 2 << 30
CPU_S: Final = 3600
SPARE_BYTES: Final = 16 << 20  # left free, for notes and for everybody else
_PERCENT: Final = re.compile(r"\((\d+\.\d+)/100%\)")
_FULL: Final = ("No space left on device", "File too large", "Disk quota exceeded")
_LOCKED: Final = re.compile(r'Failed to get (?:shared )?"[a-z ]+" lock')
_XFSZ: Final = 25  # the signal for a file that outgrew RLIMIT_FSIZE, signal(7)

# What each format needs so that the other hypervisors take it, and its size stays what it was.
OPTIONS: Final = {
    "qcow2": "compat=1.1",
    "vpc": "subformat=dynamic,force_size=on",
    "vmdk": "subformat=monolithicSparse",
    "vhdx": "subformat=dynamic",
}


class Runner(Protocol):
    """Whoever starts programs: ``fds[i]`` becomes descriptor 10 + i; returns status (-N for signal N) and output."""

    def __call__(self, argv: Sequence[str], fds: Sequence[int], told: Callable[[str], None]) -> tuple[int, str]:
        """Run a program to its end; `told` is called with its output so far."""


def bounded(argv: Sequence[str], file_bytes: int, *, nobody: bool) -> list[str]:
    """Put limits before a command: it may write files of `file_bytes` each, and as nobody reach only what all may."""
    limits = ["prlimit", f"--as={MEMORY_BYTES}", f"--cpu={CPU_S}", f"--fsize={file_bytes}", "--core=0"]
    if not nobody:
        return [*limits, *argv]
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    rights = ["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
    return [*limits, "setpriv", *ids, *rights, *argv]


def can_be_nobody(uid_map: Path = Path("/proc/self/uid_map")) -> bool:
    """Tell whether we may become the user nobody: root, in a user namespace in which there is one (uid_map(5))."""
    if os.geteuid():
        return False
    lines = [[int(word) for word in line.split()] for line in uid_map.read_text().splitlines()]
    return any(first <= NOBODY < first + count for first, _, count in lines)


def convert(
    run: Runner,
    source: Node,
    target: str,
    format: str,
    *,
    room: Path,
    size_bytes: int,
    fds: Sequence[int] = (),
    nobody: bool = False,
    options: str = "",
    report: Report = lambda phase, fraction: None,
    phase: str = "converting",
) -> None:
    """Write an image to `target`; `room` is a folder on the disk that it is written to.

    Raises HostError for a full disk, ImageError for a source that cannot be read to its end.
    """
    free_bytes = shutil.disk_usage(room).free - SPARE_BYTES
    most_bytes = min(size_bytes + size_bytes // 256 + SPARE_BYTES, free_bytes)
    if most_bytes <= 0:
        raise _full(room)
    settings = ["-o", options or OPTIONS[format]] if options or format in OPTIONS else []
    command = ["qemu-img", "convert", "-p", "-O", format, *settings, file_name(source), target]

    def told(output: str) -> None:
        part = progress(output)
        report(f"{phase}, {int(part * 10)}0 %" if 0.1 <= part < 1 else phase, part)

    status, output = run(bounded(command, most_bytes, nobody=nobody), fds, told)
    finished(status, output, room)


def check(run: Runner, source: Node, fds: Sequence[int], *, room: Path, nobody: bool) -> None:
    """See that all an image says it holds is in its file (``qemu-img check``); raises ImageError."""
    command = ["qemu-img", "check", "-q", file_name(source)]
    status, output = run(bounded(command, SPARE_BYTES, nobody=nobody), fds, lambda output: None)
    if status == 3:
        return  # clusters that nothing uses: wasted, not wrong
    if status == 2:
        raise ImageError("the image is damaged or cut short", hint="fetch or export it again", where=_last(output))
    finished(status, output, room)


def progress(output: str) -> float:
    """Return the part that is done, of what ``qemu-img -p`` has written."""
    found = _PERCENT.findall(output[-200:])
    return float(found[-1]) / 100 if found else 0.0


def finished(status: int, output: str, room: Path) -> None:
    """Turn the end of qemu-img into the error that it means, if it does not mean success."""
    if status == 0:
        return
    raise _meant(status, output, room)


def _meant(status: int, output: str, room: Path) -> LabError:
    if any(word in output for word in _FULL) or status in (-_XFSZ, 128 + _XFSZ):
        return _full(room)
    if _LOCKED.search(output):
        return UserError("the disk is in use by a machine", hint="detach it first: %vm disk detach MACHINE NAME")
    if "failed to execute" in output or status == 127:
        return HostError("qemu-img is not installed", hint="apt-get install qemu-utils util-linux", where=_last(output))
    why = f"qemu-img was ended by signal {-status}" if status < 0 else f"qemu-img ended with status {status}"
    hint = "the image is damaged, or larger than what qemu-img may use; nothing of it was kept"
    return ImageError("the image cannot be converted", hint=hint, where=_last(output) or why)


def _full(room: Path) -> HostError:
    free = shutil.disk_usage(room).free >> 20
    hint = f"{free} MiB are free there: remove what is not needed, or set VMCONTAINER_CACHE to a folder elsewhere"
    return HostError("the disk is full; nothing was kept", hint=hint, where=str(room))


def _last(output: str) -> str:
    lines = [line for line in re.split(r"[\r\n]+", output) if line.strip() and not _PERCENT.search(line)]
    return "\n".join(line[:500] for line in lines[-3:])
