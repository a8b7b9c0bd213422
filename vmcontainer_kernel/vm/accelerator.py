"""Which accelerator QEMU is to use, found out by doing what a kernel will do, in under a second, once per boot.

    /dev/kvm there? ─▶ may it be opened? ─▶ does KVM run 200 000 turns of a 64-bit loop in 20 ms? ─▶ kvm
         │ no                 │ no                        │ no, or it hangs
         └────────────────────┴───────────────────────────┴─▶ tcg, with the reason

The last rung is what others leave out. A /dev/kvm may open, answer its version and create machines while each
instruction is emulated (a nested hypervisor without VT-x or SVM below it): hardware needs 0.1 ms for the loop, such a
KVM 300 ms, and no ordinary kernel boots on it. The loop runs in a child process, as it may never return.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import platform
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from ..errors import UserError
from ..paths import cache_dir

__all__ = ["Accelerator", "Probe", "choose", "condemn", "loop_seconds", "verdict"]

ENVIRONMENT: Final = "VMCONTAINER_ACCEL"
DEVICE: Final = Path("/dev/kvm")
PROBE_LIMIT_S: Final = 0.6
# 50 000 turns at about two a nanosecond; emulated they take a thousand times as long. The limit leaves room for an
# interruption by something else on a busy computer.
TURNS: Final = 50_000
HARDWARE_S: Final = 25e-6
LOOP_LIMIT_S: Final = 0.005


@dataclass(frozen=True)
class Accelerator:
    """The choice: `name` is ``kvm`` or ``tcg``, `reason` says why, `seconds` is what finding out took."""

    name: str
    reason: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Probe:
    """What was seen of /dev/kvm: `loop_s` is the time of the loop, `failure` why there is none."""

    machine: str = "x86_64"
    exists: bool = True
    openable: bool = True
    loop_s: float | None = None
    failure: str = ""


def choose() -> Accelerator:
    """Return the accelerator for this computer; the verdict is kept until the next boot.

    ``VMCONTAINER_ACCEL`` set to ``kvm`` or ``tcg`` forces it. Raises UserError for another value of it.
    """
    forced = os.environ.get(ENVIRONMENT, "")
    if forced:
        if forced not in ("kvm", "tcg"):
            raise UserError(f"{ENVIRONMENT}={forced}: no such accelerator", hint="set it to kvm or tcg, or unset it")
        return Accelerator(forced, f"forced by {ENVIRONMENT}")
    return _kept() or _keep(_found())


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
        return "tcg", f"KVM cannot run 64-bit code: {probe.failure}"
    if probe.loop_s > LOOP_LIMIT_S:
        time_ms, factor = probe.loop_s * 1e3, probe.loop_s / HARDWARE_S
        return "tcg", f"KVM is there but emulates: a loop of 0.03 ms took {time_ms:.0f} ms ({factor:.0f} times)"
    return "kvm", f"KVM runs 64-bit code at full speed ({probe.loop_s * 1e3:.2f} ms for the test loop)"


def _found() -> Accelerator:
    start = time.perf_counter()
    name, reason = verdict(_probe())
    return Accelerator(name, reason, round(time.perf_counter() - start, 3))


def _probe() -> Probe:
    machine = platform.machine()
    if machine != "x86_64" or not DEVICE.exists():
        return Probe(machine=machine, exists=DEVICE.exists())
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Probe(openable=False)
    command = [sys.executable, "-S", "-m", __name__]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    try:
        done = subprocess.run(
            command, check=False, env=environment, capture_output=True, text=True, timeout=PROBE_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return Probe(failure=f"the test loop was not done after {PROBE_LIMIT_S} s")
    if done.returncode:
        return Probe(failure=(done.stderr.splitlines() or [f"the test ended with status {done.returncode}"])[-1])
    return Probe(loop_s=float(done.stdout))


def _store() -> Path:
    return cache_dir("probes") / "accelerator.json"


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


def _kept() -> Accelerator | None:
    try:
        kept = json.loads(_store().read_text())
        if kept["boot_id"] == _boot_id() and kept["device"] == _device_state():
            return Accelerator(**kept["accelerator"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _keep(accelerator: Accelerator) -> Accelerator:
    document = {"boot_id": _boot_id(), "device": _device_state(), "accelerator": asdict(accelerator)}
    temporary = _store().with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(document))
    temporary.rename(_store())
    return accelerator


# The probe itself: the KVM API (Linux Documentation/virt/kvm/api.rst), numbers from <linux/kvm.h>, x86-64.

KVM_CREATE_VM: Final = 0xAE01
KVM_GET_VCPU_MMAP_SIZE: Final = 0xAE04
KVM_CREATE_VCPU: Final = 0xAE41
KVM_SET_USER_MEMORY_REGION: Final = 0x4020AE46
KVM_RUN: Final = 0xAE80
KVM_SET_REGS: Final = 0x4090AE82
KVM_GET_SREGS: Final = 0x8138AE83
KVM_SET_SREGS: Final = 0x4138AE84
KVM_EXIT_HLT: Final = 5

_PML4, _PDPT, _PD, _CODE, _MEMORY_BYTES = 0x1000, 0x2000, 0x3000, 0x4000, 2 << 20
_CR0_PE_PG, _CR4_PAE, _EFER_LME_LMA = 0x8000_0001, 0x20, 0x500


def loop_seconds() -> float:
    """Run the loop in 64-bit mode on KVM and return its time; raises OSError with the step that failed."""
    kvm = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    machine = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    memory = mmap.mmap(-1, _MEMORY_BYTES)
    _write_guest(memory)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # struct kvm_userspace_memory_region: slot, flags, guest address, size, our address
    fcntl.ioctl(machine, KVM_SET_USER_MEMORY_REGION, struct.pack("IIQQQ", 0, 0, 0, _MEMORY_BYTES, address))
    vcpu = fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)
    state = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
    fcntl.ioctl(vcpu, KVM_SET_SREGS, _long_mode(fcntl.ioctl(vcpu, KVM_GET_SREGS, bytes(312))))
    # struct kvm_regs: sixteen registers, rip, rflags (bit 1 is always set)
    fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("18Q", *[0] * 16, _CODE, 2))
    start = time.perf_counter()
    fcntl.ioctl(vcpu, KVM_RUN, 0)
    seconds = time.perf_counter() - start
    (reason,) = struct.unpack_from("I", state, 8)
    if reason != KVM_EXIT_HLT:
        raise OSError(f"KVM_RUN ended with exit reason {reason} instead of KVM_EXIT_HLT")
    return seconds


def _write_guest(memory: mmap.mmap) -> None:
    """Write page tables that map the first 2 MiB onto itself, and the loop."""
    struct.pack_into("<Q", memory, _PML4, _PDPT | 3)  # present, writable
    struct.pack_into("<Q", memory, _PDPT, _PD | 3)
    struct.pack_into("<Q", memory, _PD, 0x83)  # a 2 MiB page
    # mov ecx, TURNS; again: dec ecx; jnz again; hlt
    memory[_CODE : _CODE + 10] = b"\xb9" + struct.pack("<I", TURNS) + b"\xff\xc9\x75\xfc\xf4"


def _long_mode(sregs: bytes) -> bytes:
    """Change a struct kvm_sregs to 64-bit mode with flat segments; the task and descriptor tables stay as they are."""

    def segment(kind: int, selector: int, *, long: bool) -> bytes:
        # struct kvm_segment: base, limit, selector, then type present dpl db s l g avl unusable padding
        return struct.pack("<QIH10B", 0, 0xFFFFFFFF, selector, kind, 1, 0, not long, 1, long, 1, 0, 0, 0)

    code, data = segment(11, 8, long=True), segment(3, 16, long=False)
    # Six segments of 24 bytes come first; the control registers stand behind tr, ldt (24 each), gdt, idt (16 each).
    changed = bytearray(code + data * 5 + sregs[144:])
    cr0, cr2, cr3, cr4, cr8 = 224, 232, 240, 248, 256
    for offset, value in ((cr0, _CR0_PE_PG), (cr2, 0), (cr3, _PML4), (cr4, _CR4_PAE), (cr8, 0), (264, _EFER_LME_LMA)):
        struct.pack_into("<Q", changed, offset, value)
    return bytes(changed)


def main(measure: Callable[[], float] = loop_seconds) -> int:
    """Print the loop's time in seconds, or an error; the program that the probe runs."""
    try:
        print(f"{measure():.6f}")
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
