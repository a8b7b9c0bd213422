"""What a machine is: records only, which `qemu` turns into a command line.

    MachineConfig ── arch ──▶ PLATFORMS: QEMU's program, board, CPU model, console
                  ── boot ──▶ DirectKernel | Multiboot | Firmware
                  ── drives, screen, agent, …

A machine whose guest has no agent of ours is looked at through its screen and its serial console only.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final

from .accelerator import Accelerator
from .disks.disk import Disk

__all__ = [
    "MEMORY_MIN_BYTES",
    "MIB",
    "PLATFORMS",
    "QUICKLY",
    "Boot",
    "Boots",
    "DirectKernel",
    "Drive",
    "Firmware",
    "MachineConfig",
    "Multiboot",
    "Platform",
    "Wiring",
    "accelerator_for",
]

MIB: Final = 1 << 20
MEMORY_MIN_BYTES: Final = 96 * MIB

# What a quick boot leaves out under emulation (Linux Documentation/admin-guide/kernel-parameters.txt): the kernel's
# self-tests, defences against CPU bugs which an emulated CPU does not have, and to clear each page twice.
_QUICK: Final = (
    "quiet panic=-1 mitigations=off cryptomgr.notests audit=0 lsm=capability nowatchdog random.trust_cpu=on "
    "net.ifnames=0 init_on_alloc=0 initcall_blacklist="
    # Looks up the names of all 38 000 functions that can be traced, for those which the linker left out: a fifth of
    # what the kernel executes until its first program (kernel/trace/ftrace.c).
    "ftrace_check_for_weak_functions,"
    # Puts numbers for names into the formats of 1 500 trace events: a fifteenth (kernel/trace/trace.c).
    "trace_eval_init,"
    # A self-test that has no other switch; certificates for signatures that our modules do not have.
    "crypto_kdf108_init,load_system_certificate_list"
)


@dataclass(frozen=True)
class Platform:
    """What follows from a processor's architecture.

    `board` is what follows QEMU's machine type, `cpu` the CPU model under TCG, `quick` what a Linux guest's kernel is
    told.
    """

    arch: str
    program: str
    package: str
    machine_type: str
    board: str
    cpu: str
    quick: str


PLATFORMS: Final = {
    "x86_64": Platform(
        arch="x86_64",
        program="qemu-system-x86_64",
        package="qemu-system-x86",
        machine_type="q35",
        # No HPET: its emulated interrupts wake an idle guest's host.
        board=",hpet=off,vmport=off,smbus=off,usb=off",
        # The plainest: features that are emulated cost time. But without random numbers of the processor's the kernel
        # hashes its own clock until it has enough of them.
        cpu="qemu64,+rdrand",
        quick=f"console=ttyS0 {_QUICK} no_timer_check tsc=reliable 8250.nr_uarts=1 i8042.noaux i8042.nokbd "
        # With one processor the kernel takes the lock prefixes out of its own code, each in an address space made for
        # that: 35 000 times the emulator's table of addresses is emptied (arch/x86/kernel/alternative.c). To an
        # emulated processor they cost nothing.
        "noreplace-smp "
        # Memory that is plugged in is taken into use by the kernel itself. As it lies above 4 GiB, the kernel would
        # set 64 MiB aside for devices that reach less; there are none.
        "memhp_default_state=online swiotlb=noforce",
    ),
    "arm64": Platform(
        arch="arm64",
        program="qemu-system-aarch64",
        package="qemu-system-arm",
        machine_type="virt",
        board="",
        cpu="cortex-a57",
        # A kernel at a random place keeps its page tables apart from a program's (arch/arm64/kernel/cpufeature.c,
        # kaslr_requires_kpti), and each change between them empties the emulator's table: a system call costs thrice.
        # No 64 MiB set aside for devices without an IOMMU, as there are none.
        quick=f"console=ttyAMA0 {_QUICK} nokaslr cma=0",
    ),
}


@dataclass(frozen=True)
class Drive:
    """A disk and what it looks like to the guest: ``virtio``, ``sata``, ``cdrom`` or ``floppy``.

    Machines with firmware try their drives in order.
    """

    disk: Disk
    bus: str = "virtio"


@dataclass(frozen=True)
class DirectKernel:
    """A kernel that QEMU loads itself: Linux, or what speaks Linux' boot protocol (memtest86+, iPXE).

    `root` is a read-only disk image, the guest's first disk. `key` tells its files' contents, for templates.
    """

    kernel: Path
    initrd: Path | None = None
    parameters: str = ""
    root: Path | None = None
    key: str = ""


@dataclass(frozen=True)
class Multiboot:
    """A kernel by the Multiboot specification, such as Xen: `modules` are (file, its command line).

    It does not boot with less than `least_bytes` of memory.
    """

    kernel: Path
    modules: tuple[tuple[Path, str], ...] = ()
    parameters: str = ""
    root: Path | None = None
    key: str = ""
    least_bytes: int = 0


@dataclass(frozen=True)
class Firmware:
    """The machine's own firmware, which looks for something to boot on its disks: SeaBIOS, or a UEFI in a file."""

    uefi: Path | None = None
    key: str = ""


Boot = DirectKernel | Multiboot | Firmware


@dataclass(frozen=True)
class Boots:
    """How long a guest boots under emulation: in words, and when nobody waits for its agent any more."""

    usually: str = "5 s"
    limit_s: float = 60.0


QUICKLY: Final = Boots()


@dataclass(frozen=True)
class MachineConfig:
    """What a machine is: who it is, what it boots, what it is given and what runs it.

    `agent`: its guest has our agent, on a virtio-serial port. `screen`: it has a display, keyboard and pointer.
    `restricted`: its guest reaches nothing outside (qemu-system-x86_64(1), ``-netdev user,restrict=on``). `reboots`: it
    may reboot itself; else that is its end. `debug_exit`: port 0xf4 ends it (``isa-debug-exit``). `label`: what it
    boots, in a word; empty for this computer's own system. `cpu_shares` is its weight against others (1024 is usual),
    `cpu_quota_us` how long it may use processors in each 100 ms. `plugged` is what was plugged in while it ran, as
    options, with `plugged_bytes` of memory and `plugged_cpus`; up to `max_cpus`, `SLOTS` modules and `ROOM_BYTES`.
    """

    name: str
    boot: Boot
    accelerator: Accelerator
    memory_bytes: int = 256 * MIB
    cpus: int = 1
    max_cpus: int = 1
    cpu_shares: int | None = None
    cpu_quota_us: int | None = None
    mac: str = "52:54:00:12:34:56"
    arch: str = "x86_64"
    cpu_model: str = ""
    machine_type: str = ""
    network: bool = True
    restricted: bool = True
    drives: tuple[Drive, ...] = ()
    agent: bool = True
    screen: bool = False
    reboots: bool = False
    debug_exit: bool = False
    plugged: tuple[str, ...] = ()
    plugged_bytes: int = 0
    plugged_cpus: int = 0

    SLOTS: ClassVar[int] = 4
    ROOM_BYTES: ClassVar[int] = 4096 * MIB
    label: str = ""
    boots: Boots = QUICKLY

    def named(self, name: str, mac: str) -> MachineConfig:
        """Return the same machine under another name and address."""
        return replace(self, name=name, mac=mac)

    @property
    def growable(self) -> bool:
        """Whether memory and processors can be plugged in: a PC whose guest takes them into use."""
        return self.agent and self.arch == "x86_64" and not self.machine_type and not self.hosts_others

    @property
    def hosts_others(self) -> bool:
        """Whether its guest is a hypervisor, beside whose first domain there are others."""
        return isinstance(self.boot, Multiboot) and self.agent

    @property
    def total_bytes(self) -> int:
        """Its memory, with the modules that were plugged in."""
        return self.memory_bytes + self.plugged_bytes

    @property
    def total_cpus(self) -> int:
        """Its processors, with those that were plugged in."""
        return self.cpus + self.plugged_cpus

    @property
    def plugged_modules(self) -> int:
        """How many memory modules were plugged in."""
        return sum(word.startswith("pc-dimm") for word in self.plugged)

    @property
    def platform(self) -> Platform:
        """What follows from its architecture."""
        return PLATFORMS[self.arch]

    @property
    def cpu(self) -> str:
        """The CPU model: the host's own under KVM; under TCG the platform's."""
        return self.cpu_model or ("host" if self.accelerator.name == "kvm" else self.platform.cpu)

    @property
    def root(self) -> Path | None:
        """The read-only root disk, if what it boots has one."""
        return None if isinstance(self.boot, Firmware) else self.boot.root


@dataclass(frozen=True)
class Wiring:
    """How this start of a machine is connected: a RAM file (`ram`), written to (`save`) or mapped copy-on-write.

    `receive`: its memory comes from another QEMU, with its state.
    """

    ram: Path | None = None
    save: bool = False
    qemu_version: tuple[int, int] = (7, 2)
    receive: bool = False

    @property
    def restore(self) -> bool:
        """Whether the machine wakes from a saved state."""
        return self.receive or (self.ram is not None and not self.save)


def accelerator_for(arch: str, ours: Accelerator) -> Accelerator:
    """Return what runs machines of an architecture: this computer's accelerator only if its processor is of that."""
    host = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
    if host == arch:
        return ours
    return Accelerator("tcg", f"this computer is {host}, the guest is {arch}")
