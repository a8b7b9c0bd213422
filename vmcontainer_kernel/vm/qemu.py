"""A machine's description, and the QEMU command line it becomes: one small pure function for each device.

    MachineConfig + Wiring ──DEVICES──▶ argv        descriptors that QEMU inherits:
                                                      10 QMP   11 agent   12 console

Sockets are passed as open descriptors, so nothing is reached by a path, nobody else can connect, and nothing needs to
be retried. Options are those of qemu-system-x86_64(1), version 7.2 and later.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..agent.protocol import PORT_NAME
from ..errors import HostError, UserError
from .accelerator import Accelerator
from .guest import GuestImage

__all__ = [
    "AGENT_FD",
    "CONSOLE_FD",
    "DEVICES",
    "FIRST_FD",
    "NETDEV",
    "PROGRAM",
    "QMP_FD",
    "SLOT",
    "MachineConfig",
    "Wiring",
    "argv",
    "check",
    "program_path",
    "version_of",
]

PROGRAM: Final = "qemu-system-x86_64"
FIRST_FD: Final = 10
QMP_FD: Final = FIRST_FD
AGENT_FD: Final = FIRST_FD + 1
CONSOLE_FD: Final = FIRST_FD + 2

NETDEV: Final = "net0"
SLOT: Final = "port1"

MIB: Final = 1 << 20
MEMORY_MIN_BYTES: Final = 96 * MIB

# What a quick boot leaves out under emulation: the kernel's self-tests, hardware that is not there, and defences
# against CPU bugs which an emulated CPU does not have (Linux Documentation/admin-guide/kernel-parameters.txt).
KERNEL_PARAMETERS: Final = (
    "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests audit=0 lsm=capability no_timer_check tsc=reliable "
    "nowatchdog random.trust_cpu=on 8250.nr_uarts=1 i8042.noaux i8042.nokbd net.ifnames=0"
)


@dataclass(frozen=True)
class MachineConfig:
    """What a machine is: who it is, what it is given, what it boots and what runs it."""

    name: str
    guest: GuestImage
    accelerator: Accelerator
    memory_bytes: int = 256 * MIB
    cpus: int = 1
    mac: str = "52:54:00:12:34:56"
    cpu_model: str = ""
    machine_type: str = "q35"
    network: bool = True
    # A guest that reaches nothing outside: -netdev user,restrict=on of qemu-system-x86_64(1).
    restricted: bool = True
    kernel_parameters: str = ""

    def named(self, name: str, mac: str) -> MachineConfig:
        """Return the same machine under another name and address."""
        return replace(self, name=name, mac=mac)

    @property
    def cpu(self) -> str:
        """The CPU model: the host's own under KVM; under TCG the plainest, as features that are emulated cost time."""
        return self.cpu_model or ("host" if self.accelerator.name == "kvm" else "qemu64")


@dataclass(frozen=True)
class Wiring:
    """How this start of a machine is connected: a RAM file (`ram`), written to (`save`) or mapped copy-on-write."""

    ram: Path | None = None
    save: bool = False
    qemu_version: tuple[int, int] = (7, 2)

    @property
    def restore(self) -> bool:
        """Whether the machine wakes from a saved state."""
        return self.ram is not None and not self.save


def check(config: MachineConfig, host_cpus: int, host_memory_bytes: int) -> None:
    """Refuse a machine that cannot be; raises UserError."""
    size, least = config.memory_bytes // MIB, MEMORY_MIN_BYTES // MIB
    if config.memory_bytes < MEMORY_MIN_BYTES:
        raise UserError(f"{size} MiB are too few for a guest", hint=f"give it {least} MiB or more", where="memory")
    if config.memory_bytes > host_memory_bytes:
        hint = f"{host_memory_bytes // MIB} MiB are: give it less, or end others first (%vm ls)"
        raise UserError(f"{size} MiB are more memory than is free here", hint=hint, where="memory")
    if not 1 <= config.cpus <= max(host_cpus, 8):
        raise UserError(f"{config.cpus} CPUs cannot be given", hint=f"give 1 to {max(host_cpus, 8)}", where="cpus")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", config.name):
        raise UserError(
            f"{config.name!r} cannot be a machine's name", hint="use letters, digits, '-', '_', '.'", where="name"
        )


def argv(config: MachineConfig, wiring: Wiring, program: str = PROGRAM) -> list[str]:
    """Return the command that starts this machine."""
    return [program, *(word for device in DEVICES for word in device(config, wiring))]


Device = Callable[[MachineConfig, Wiring], tuple[str, ...]]


def bare(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """No window, no configuration files, none of the devices that QEMU adds by itself."""
    return ("-nodefaults", "-no-user-config", "-display", "none", "-name", config.name)


def sandbox(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """Let seccomp end a QEMU that was taken over by its guest and tries to start a program or gain rights."""
    return ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")


def board(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The board; no HPET, whose emulated interrupts wake an idle guest's host."""
    return ("-machine", f"{config.machine_type},hpet=off,vmport=off,smbus=off,usb=off" + _ram_id(wiring))


def _ram_id(wiring: Wiring) -> str:
    return ",memory-backend=ram" if wiring.ram else ""


def accelerator(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """KVM, or TCG with a bounded code buffer: its default is an eighth of the host's RAM, whatever a cgroup allows."""
    return ("-accel", "kvm" if config.accelerator.name == "kvm" else "tcg,tb-size=96")


def processors(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The virtual CPUs."""
    return ("-cpu", config.cpu, "-smp", str(config.cpus))


def memory(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The RAM: anonymous, or a file that a template writes and its clones map copy-on-write."""
    size = ("-m", f"{config.memory_bytes // MIB}M")
    if wiring.ram is None:
        return size
    backend = f"memory-backend-file,id=ram,size={config.memory_bytes},mem-path={_escape(str(wiring.ram))}"
    if wiring.save:
        return (*size, "-object", backend + ",share=on")
    # From 8.2 on a private mapping may be of a file that is opened read-only; before, QEMU opens it read-write.
    read_only = ",readonly=on,rom=off" if wiring.qemu_version >= (8, 2) else ""
    return (*size, "-object", f"{backend},share=off{read_only}")


def kernel(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The kernel, started directly: no firmware menu, no boot loader, no partition."""
    parameters = f"{KERNEL_PARAMETERS} {config.kernel_parameters}".strip()
    return ("-kernel", str(config.guest.kernel), "-initrd", str(config.guest.initrd), "-append", parameters)


def monitor(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """QMP on an inherited socket."""
    return ("-chardev", f"socket,id=qmp,fd={QMP_FD}", "-mon", "chardev=qmp,mode=control")


def serial_bus(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The agent's byte stream: a virtio-serial port (not a console port, which drops what is not read in time)."""
    return (
        *("-chardev", f"socket,id=agent,fd={AGENT_FD}"),
        *("-device", "virtio-serial-pci,id=serial,max_ports=2"),
        *("-device", f"virtserialport,chardev=agent,name={PORT_NAME},id=agent"),
    )


def console(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The kernel's console: an emulated 16550A, whose output comes to us."""
    return ("-chardev", f"socket,id=console,fd={CONSOLE_FD}", "-serial", "chardev:console")


def root_disk(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The read-only root disk, shared by all machines."""
    file = f"driver=file,node-name=root-file,filename={_escape(str(config.guest.root))},read-only=on,locking=off"
    return (
        *("-blockdev", file),
        *("-blockdev", "driver=raw,node-name=root,file=root-file,read-only=on"),
        *("-device", "virtio-blk-pci,drive=root,id=disk"),
    )


def network(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """A network card on QEMU's own user-mode network."""
    if not config.network:
        return ()
    restrict = "on" if config.restricted else "off"
    return (
        *("-netdev", f"user,id={NETDEV},restrict={restrict}"),
        # No option ROM: a guest never boots from the network. No announcement: a clone that wakes would first greet
        # neighbours that it does not have.
        *("-device", f"virtio-net-pci,netdev={NETDEV},mac={config.mac},romfile=,guest_announce=off,id=net"),
    )


def slot(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """An empty slot for a second card, which a machine gets while it runs: PCI Express's own bus takes none."""
    return ("-device", f"pcie-root-port,id={SLOT},chassis=1") if config.network else ()


def small_devices(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """Randomness from the host, a bell for the guest's panic, and a balloon that gives memory back and counts it."""
    return (
        *("-object", "rng-random,id=random,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=random,id=rng"),
        *("-device", "pvpanic-pci,id=panic"),
        *("-device", "virtio-balloon-pci,id=balloon,deflate-on-oom=on,free-page-reporting=off"),
    )


def endings(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """What ends QEMU: a panic, and a reboot too, as a kernel that panics without pvpanic reboots (``panic=-1``)."""
    return ("-action", "panic=shutdown,reboot=shutdown")


def incoming(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """A clone waits for its state; that it comes without RAM must be said before (QMP, ``x-ignore-shared``)."""
    return ("-incoming", "defer") if wiring.restore else ()


DEVICES: Final[tuple[Device, ...]] = (
    bare,
    sandbox,
    board,
    accelerator,
    processors,
    memory,
    kernel,
    monitor,
    serial_bus,
    console,
    root_disk,
    network,
    slot,
    small_devices,
    endings,
    incoming,
)


def _escape(value: str) -> str:
    """Double the commas, which separate options."""
    return value.replace(",", ",,")


def program_path() -> Path:
    """Return the QEMU program's path; raises HostError when it is not installed."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise HostError(f"{PROGRAM} is not installed", hint="apt-get install qemu-system-x86", where="PATH")
    return Path(found)


def version_of(output: str) -> tuple[int, int]:
    """Read ``qemu-system-x86_64 --version``: its major and minor number."""
    found = re.search(r"version (\d+)\.(\d+)", output)
    if not found:
        raise HostError("QEMU does not tell its version", where=output[:200], hint="apt-get install qemu-system-x86")
    return int(found[1]), int(found[2])
