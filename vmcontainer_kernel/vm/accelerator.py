"""Which accelerator QEMU is to use, found out by doing what a kernel will do, in under a second, once per boot.

    /dev/kvm there? ─▶ may it be opened? ─▶ machine made? ─▶ 16-bit code runs? ─▶ 64-bit loop in 5 ms? ─▶ kvm
         │ no                 │ no               │ no                │ no                │ no, or it hangs
         └────────────────────┴──────────────────┴───────────────────┴───────────────────┴─▶ tcg, with the reason

The last rung is what others leave out. A /dev/kvm may open, answer its version and create machines while each
instruction is emulated (a nested hypervisor without VT-x or SVM below it): hardware needs 0.03 ms for the loop, such a
KVM 34 ms or more, and no ordinary kernel boots on it. `kvm` climbs in a child process, as a rung may never return.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ..errors import UserError
from ..paths import cache_dir

__all__ = ["Accelerator", "Probe", "Rung", "abilities", "choose", "condemn", "find", "ladder", "verdict"]

ENVIRONMENT: Final = "VMCONTAINER_ACCEL"
DEVICE: Final = Path("/dev/kvm")
PROBE_LIMIT_S: Final = 1.0
# The loop is 50 000 turns at about two a nanosecond; emulated they take a thousand times as long. The limit leaves room
# for an interruption by something else on a busy computer.
HARDWARE_S: Final = 25e-6
LOOP_LIMIT_S: Final = 0.005


@dataclass(frozen=True)
class Rung:
    """A step on the way to KVM: whether it holds, what it took (None if it was not tried), and what was seen."""

    name: str
    holds: bool
    seconds: float | None
    told: str


@dataclass(frozen=True)
class Accelerator:
    """The choice: `name` is ``kvm`` or ``tcg``, `reason` says why, `seconds` is what finding out took."""

    name: str
    reason: str
    seconds: float = 0.0
    rungs: tuple[Rung, ...] = ()


@dataclass(frozen=True)
class Probe:
    """What was seen of /dev/kvm: `reached` is the seconds of each rung of `kvm.rungs`, `failure` why it ends there."""

    machine: str = "x86_64"
    exists: bool = True
    openable: bool = True
    reached: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def loop_s(self) -> float | None:
        """Return the time of the 64-bit loop, None if it did not end."""
        return self.reached.get("loop")


def choose() -> Accelerator:
    """Return the accelerator for this computer; the verdict is kept until the next boot.

    ``VMCONTAINER_ACCEL`` set to ``kvm`` or ``tcg`` forces it. Raises UserError for another value of it.
    """
    forced = os.environ.get(ENVIRONMENT, "")
    if forced:
        if forced not in ("kvm", "tcg"):
            raise UserError(f"{ENVIRONMENT}={forced}: no such accelerator", hint="set it to kvm or tcg, or unset it")
        return Accelerator(forced, f"forced by {ENVIRONMENT}")
    return _kept() or _keep(find())


def condemn(reason: str) -> Accelerator:
    """Keep until the next boot that KVM is of no use here, because a guest did not start on it."""
    return _keep(Accelerator("tcg", reason))


def verdict(probe: Probe) -> tuple[str, str]:
    """Decide: (``kvm`` or ``tcg``, the reason in words)."""
    if probe.machine != "x86_64":
        return "tcg", f"this computer is {probe.machine}, the guest is x86-64"
    if not probe.exists:
        return "tcg", "there is no /dev/kvm: no hardware virtualization here, or its module is not loaded"
    if not probe.openable:
        return "tcg", "/dev/kvm may not be opened by this user (group kvm may)"
    if probe.loop_s is None:
        return "tcg", f"{_missed(probe)}: {probe.failure}"
    if probe.loop_s > LOOP_LIMIT_S:
        time_ms, factor = probe.loop_s * 1e3, probe.loop_s / HARDWARE_S
        return "tcg", f"KVM is there but emulates: a loop of 0.03 ms took {time_ms:.0f} ms ({factor:.0f} times)"
    return "kvm", f"KVM runs 64-bit code at full speed ({probe.loop_s * 1e3:.2f} ms for the test loop)"


def _missed(probe: Probe) -> str:
    if "machine" not in probe.reached:
        return "KVM does not work"
    return f"KVM cannot run {'64-bit' if 'real mode' in probe.reached else 'real-mode'} code"


RUNGS: Final = {
    "open": "/dev/kvm opens",
    "version": "it answers its version",
    "machine": "it makes a machine with memory and a virtual CPU",
    "real mode": "16-bit code runs, and its exits come back",
    "loop": "a 64-bit loop runs at the speed of hardware",
}


def ladder(probe: Probe) -> tuple[Rung, ...]:
    """Return every rung with its verdict and time; a rung above the first that does not hold was not tried."""
    reason = verdict(probe)[1]
    found: list[Rung] = []
    for name in RUNGS:
        seconds = probe.reached.get(name)
        holds = seconds is not None and (name != "loop" or seconds <= LOOP_LIMIT_S)
        below = all(rung.holds for rung in found)
        told = RUNGS[name] if holds else reason if below else "not tried"
        found += [Rung(name, holds, seconds, told)]
    return tuple(found)


def find() -> Accelerator:
    """Climb the ladder now, whatever is kept or forced; takes at most `PROBE_LIMIT_S` and a little."""
    start = time.perf_counter()
    probe = _probe()
    name, reason = verdict(probe)
    return Accelerator(name, reason, round(time.perf_counter() - start, 3), ladder(probe))


def _probe() -> Probe:
    machine = platform.machine()
    if machine != "x86_64" or not DEVICE.exists():
        return Probe(machine=machine, exists=DEVICE.exists())
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Probe(openable=False)
    from . import kvm  # late: where the verdict is kept, nobody needs it

    reached, failure = kvm.rungs(PROBE_LIMIT_S)
    return Probe(reached=reached, failure=failure)


def abilities() -> dict[str, str]:
    """Return what KVM can do for a lesson, and what happened instead of what it cannot (`kvm.abilities`).

    Kept until the next boot, if each had an answer in time. Raises HostError without KVM.
    """
    kept = _read("abilities")
    if isinstance(kept, dict):
        return kept
    from . import kvm

    found = kvm.abilities()
    if not any("deadline" in failure for failure in found.values()):
        _write("abilities", found)
    return found


def _kept() -> Accelerator | None:
    try:
        found = _read("accelerator")
        return Accelerator(**{**found, "rungs": tuple(Rung(**rung) for rung in found["rungs"])})
    except (KeyError, TypeError):
        return None


def _keep(accelerator: Accelerator) -> Accelerator:
    _write("accelerator", asdict(accelerator))
    return accelerator


def _store(name: str = "accelerator") -> Path:
    return cache_dir("probes") / f"{name}.json"


def _read(name: str) -> Any:
    """Return what was written in this boot for this user and this /dev/kvm, None if there is nothing."""
    try:
        kept = json.loads(_store(name).read_text())
        return kept[name] if kept["boot_id"] == _boot_id() and kept["device"] == _device_state() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(name: str, value: Any) -> None:
    document = {"boot_id": _boot_id(), "device": _device_state(), name: value}
    temporary = _store(name).with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(document))
    temporary.rename(_store(name))


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _device_state() -> list[int]:
    """What changes when /dev/kvm appears, vanishes, or changes its owner or mode."""
    try:
        status = DEVICE.stat()
    except OSError:
        return []
    return [status.st_mode, status.st_uid, status.st_gid, os.geteuid()]
