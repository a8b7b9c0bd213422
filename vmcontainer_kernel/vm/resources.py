"""What a machine may use of its host, as a record, and what becomes of it: limits of a control group.

MachineConfig ──limits_of──▶ Limits ──▶ cage document ──▶ agent/cage.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from .config import MIB, MachineConfig

__all__ = ["OVERHEAD_BYTES", "Limits", "cage", "limits_of"]

OVERHEAD_BYTES: Final = 256 * MIB
"""What QEMU may need besides the guest's memory: 96 MiB of translated code, its own heap, copies in flight."""
_THREADS: Final = 128
"""QEMU's pool for disk requests has up to 64 threads (util/thread-pool.c); the rest are few."""
PERIOD_US: Final = 100_000


@dataclass(frozen=True)
class Limits:
    """Bounds of a QEMU process; None is no limit.

    `cpu_shares`: weight against others (1024 is usual); `cpu_quota_us`: CPU time in each 100 ms.
    """

    memory_bytes: int
    threads: int
    cpu_shares: int | None = None
    cpu_quota_us: int | None = None

    def document(self) -> dict[str, int]:
        """Return the words of `agent.cage.read_resources`."""
        document = {"memory_bytes": self.memory_bytes, "pids": self.threads}
        if self.cpu_shares is not None:
            document["cpu_shares"] = self.cpu_shares
        if self.cpu_quota_us is not None:
            document |= {"cpu_quota_us": self.cpu_quota_us, "cpu_period_us": PERIOD_US}
        return document


def limits_of(config: MachineConfig) -> Limits:
    """Return what bounds a machine's QEMU."""
    return Limits(config.memory_bytes + OVERHEAD_BYTES, _THREADS + config.cpus, config.cpu_shares, config.cpu_quota_us)


def cage(config: MachineConfig, groups: Sequence[int]) -> dict[str, Any]:
    """Return how a machine's QEMU is to be held (`agent.cage.CageVerbs.spawn`)."""
    return {
        "name": config.name,
        "resources": limits_of(config).document(),
        "groups": list(groups),
        "devices": ["/dev/kvm"] if config.accelerator.name == "kvm" else [],
        "network": config.network,
    }
