"""What a process may do is found out once: for the same rights, since the same start of the computer, the answer is the
same.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["circumstances", "remembered"]


def remembered(store: Path, find: Callable[[], Any]) -> Any:
    """Return what `find` found for a process with the same rights since this computer started; else ask it now, and
    keep its answer, which JSON must be able to say, in the file `store`.
    """
    held = circumstances()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(store.read_text())
        if kept["circumstances"] == held:
            return kept["found"]
    found = find()
    with contextlib.suppress(OSError):  # a full disk costs the memory, not the answer
        store.parent.mkdir(parents=True, exist_ok=True)
        temporary = store.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"circumstances": held, "found": found}))
        temporary.rename(store)
    return found


_WORDS = ("Uid:", "Gid:", "Groups:", "CapPrm:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:")


def circumstances() -> list[str]:
    """Return all that a probe's outcome depends on: this boot, this program and its namespaces, what proc(5) calls
    its credentials and filters, which cgroup it is in, what covers /proc and /sys, and which ids are set aside for it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    namespaces = [str(path.readlink()) for path in sorted(Path("/proc/self/ns").iterdir())]
    covered = [line for line in _text(Path("/proc/self/mountinfo")).splitlines() if _covers(line.split()[4])]
    conditions = [_text(path) for path in _CONDITIONS]
    return [line for line in lines if line.startswith(_WORDS)] + namespaces + covered + conditions


def _covers(point: str) -> bool:
    return point.startswith(("/proc/", "/sys/")) and not point.startswith("/sys/fs/cgroup")


_CONDITIONS = [
    Path(name)
    for name in (
        *("/proc/self/attr/current", "/proc/self/cgroup", "/proc/sys/kernel/random/boot_id"),
        *("/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/unprivileged_userns_clone"),
        *("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "/etc/subuid", "/etc/subgid"),
    )
]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
