"""Why a machine is gone, told from its last events; and an event's data in a line."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["event_detail", "why_gone"]

_NONE: Final[Mapping[str, int]] = {}


def event_detail(data: Mapping[str, Any]) -> str:
    """Write an event's data as ``key=value`` words."""
    return " ".join(f"{key}={value}" for key, value in data.items() if not isinstance(value, (dict, list)))


def why_gone(
    events: Iterable[tuple[float, str, str]], status: int, struck: Mapping[str, int] = _NONE, *, panicked: bool = False
) -> str:
    """Tell why QEMU ended, from its last events, its exit status (-N: signal N), how often limits of its group struck
    and what its console says.
    """
    if status == -signal.SIGKILL and struck.get("oom_kills"):
        return "QEMU was killed by the host's kernel: it reached the memory limit of its control group (OOM)"
    seen = [(name, detail) for _, name, detail in events]
    if panicked or any(name == "GUEST_PANICKED" for name, _ in seen):
        return "the guest's kernel panicked"
    shutdown = next((detail for name, detail in reversed(seen) if name == "SHUTDOWN"), "")
    reasons = {
        "guest-shutdown": "the guest powered off",
        "guest-reset": "the guest rebooted",
        "guest-panic": "the guest's kernel panicked",
        "host-qmp-quit": "it was stopped",
        "host-signal": "QEMU was told to end by a signal",
    }
    for reason, words in reasons.items():
        if f"reason={reason}" in shutdown:
            return words
    if status == -signal.SIGKILL:
        return "QEMU was ended by signal 9 (SIGKILL): somebody sent it, or the host's kernel had no memory left"
    if status == -signal.SIGBUS:
        return "QEMU was ended by SIGBUS: the file its memory is mapped from, the template's, was cut short as it ran"
    return f"QEMU was ended by signal {-status}" if status < 0 else f"QEMU ended with status {status}"
