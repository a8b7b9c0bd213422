"""A machine's command line: one small pure function for each device.

    MachineConfig + Wiring ──DEVICES──▶ argv        descriptors that QEMU inherits:
                                                      10 QMP   11 console   12 agent

Sockets are passed as open descriptors, so nothing is reached by a path, nobody else can connect, and nothing needs to
be retried. Options are those of qemu-system-x86_64(1), version 7.2 and later.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..agent.protocol import PORT_NAME
from ..errors import HostError, UserError
from .config import MEMORY_MIN_BYTES, MIB, DirectKernel, Firmware, MachineConfig, Multiboot, Platform, Wiring
from .disks import nodes
from .disks.disk import layers

__all__ = [
    "AGENT_FD",
    "CONSOLE_FD",
    "DEVICES",
    "DISK_BUS",
    "FIRST_FD",
    "NETDEV",
    "QMP_FD",
    "ROOM",
    "SLOT",
    "argv",
    "check",
    "escape",
    "program_path",
    "version_of",
]

FIRST_FD: Final = 10
QMP_FD: Final = FIRST_FD
CONSOLE_FD: Final = FIRST_FD + 1
AGENT_FD: Final = FIRST_FD + 2

DISK_BUS: Final = "scsi"
NETDEV: Final = "net0"
ROOM: Final = "room"
SLOT: Final = "port1"


def check(config: MachineConfig, host_cpus: int, host_memory_bytes: int) -> None:
    """Refuse a machine that cannot be; raises UserError."""
    least_bytes = max(MEMORY_MIN_BYTES, config.boot.least_bytes if isinstance(config.boot, Multiboot) else 0)
    size, least = config.memory_bytes // MIB, least_bytes // MIB
    if config.memory_bytes < least_bytes:
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


def argv(config: MachineConfig, wiring: Wiring, program: str = "") -> list[str]:
    """Return the command that starts this machine."""
    return [program or config.platform.program, *(word for device in DEVICES for word in device(config, wiring))]


Device = Callable[[MachineConfig, Wiring], tuple[str, ...]]


def bare(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """No window, no configuration files, none of the devices that QEMU adds by itself."""
    return ("-nodefaults", "-no-user-config", "-display", "none", "-name", config.name)


def sandbox(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """Let seccomp end a QEMU that was taken over by its guest and tries to start a program or gain rights."""
    return ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")


def board(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The board, with what its architecture's table says of it."""
    kind = config.machine_type or config.platform.machine_type
    return ("-machine", f"{kind}{config.platform.board}{_without_sata(config)},memory-backend=ram")


def _without_sata(config: MachineConfig) -> str:
    """Leave out a PC's own disk controller that controls nothing: each device is milliseconds of each start."""
    used = not config.agent or any(drive.bus in ("sata", "cdrom") for drive in config.drives)
    return "" if used or config.arch != "x86_64" else ",sata=off"


def accelerator(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """KVM, or TCG with a bounded code buffer: its default is an eighth of the host's RAM, whatever a cgroup allows."""
    return ("-accel", "kvm" if config.accelerator.name == "kvm" else "tcg,tb-size=96")


def processors(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The virtual CPUs; room for more makes an emulated guest pay for locks, so it is there only if asked for."""
    most = f",maxcpus={config.max_cpus}" if config.growable and config.max_cpus > config.cpus else ""
    return ("-cpu", config.cpu, "-smp", f"{config.cpus}{most}")


def memory(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The RAM: anonymous, or a file that a template writes and its clones map copy-on-write.

    It has the same name each time: memory that moves to another QEMU is named in what is sent.
    """
    total = f",slots={config.SLOTS},maxmem={(config.memory_bytes + config.ROOM_BYTES) // MIB}M"
    size = ("-m", f"{config.memory_bytes // MIB}M{total if config.growable else ''}")
    if wiring.ram is None:
        return (*size, "-object", f"memory-backend-ram,id=ram,size={config.memory_bytes}")
    backend = f"memory-backend-file,id=ram,size={config.memory_bytes},mem-path={escape(str(wiring.ram))}"
    # Opened for writing though nothing is written, `agent.cage` sees to that: before 8.2 QEMU knows no other way for a
    # private mapping, and later versions have no balloon for what they opened for reading.
    return (*size, "-object", f"{backend},share={'on' if wiring.save else 'off'}")


def firmware(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """UEFI, if that is to start the machine; SeaBIOS is QEMU's own default. Its variables live as long as QEMU."""
    boot = config.boot
    return ("-bios", str(boot.uefi)) if isinstance(boot, Firmware) and boot.uefi else ()


def kernel(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The kernel, started directly: no firmware menu, no boot loader, no partition."""
    boot = config.boot
    if isinstance(boot, DirectKernel):
        initrd = ("-initrd", str(boot.initrd)) if boot.initrd else ()
        return ("-kernel", str(boot.kernel), *initrd, *_append(boot.parameters))
    if isinstance(boot, Multiboot):
        # QEMU splits the list at commas, and the words of one module at its first space; doubled commas are kept.
        modules = ",".join(escape(f"{path} {line}".rstrip()) for path, line in boot.modules)
        initrd = ("-initrd", modules) if modules else ()
        return ("-kernel", str(boot.kernel), *initrd, *_append(boot.parameters))
    return ()


def _append(parameters: str) -> tuple[str, ...]:
    return ("-append", parameters) if parameters else ()


def monitor(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """QMP on an inherited socket."""
    return ("-chardev", f"socket,id=qmp,fd={QMP_FD}", "-mon", "chardev=qmp,mode=control")


def console(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The first serial port, a 16550A or a PL011: the kernel's console, whose output comes to us."""
    return ("-chardev", f"socket,id=console,fd={CONSOLE_FD}", "-serial", "chardev:console")


def agent(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The agent's byte stream: a virtio-serial port (not a console port, which drops what is not read in time)."""
    if not config.agent:
        return ()
    return (
        *("-chardev", f"socket,id=agent,fd={AGENT_FD}"),
        *("-device", "virtio-serial-pci,id=serial,max_ports=2"),
        *("-device", f"virtserialport,chardev=agent,name={PORT_NAME},id=agent"),
    )


def screen(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """A display, and a pointer that knows where it is; a PC has its keyboard already, another board needs one."""
    if not config.screen:
        return ()
    usb = ("-device", "qemu-xhci,id=usb", "-device", "usb-tablet,id=pointer")
    if config.arch == "x86_64":
        return ("-device", "VGA,id=screen", *usb)
    return ("-device", "virtio-gpu-pci,id=screen,max_hostmem=64M", *usb, "-device", "usb-kbd,id=keyboard")


def root_disk(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The read-only root disk, shared by all machines."""
    if config.root is None:
        return ()
    file = f"driver=file,node-name=root-file,filename={escape(str(config.root))},read-only=on,locking=off"
    return (
        *("-blockdev", file),
        *("-blockdev", "driver=raw,node-name=root,file=root-file,read-only=on"),
        *("-device", "virtio-blk-pci,drive=root,id=disk"),
    )


def drives(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """The other disks, each with its format named; firmware tries them in their order."""
    words: list[str] = []
    for index, drive in enumerate(config.drives):
        node = f"drive{index}"
        files = [str(layer.path) for layer in layers(drive.disk)]
        order = index + 1 if isinstance(config.boot, Firmware) else None
        words += nodes.words(nodes.blockdev(drive.disk, files, node))
        words += _device(config, drive.bus, node, order)
    return tuple(words)


_DRIVES: Final = {"virtio": "virtio-blk-pci", "sata": "ide-hd", "cdrom": "ide-cd"}


def _device(config: MachineConfig, bus: str, node: str, order: int | None) -> tuple[str, ...]:
    place = f"drive={node},id={node}-device"
    if bus == "floppy":
        controller = f"isa-fdc,id={node}-fdc" + (f",bootindexA={order}" if order else "")
        return ("-device", controller, "-device", f"floppy,bus={node}-fdc.0,unit=0,{place}")
    place += f",bootindex={order}" if order else ""
    if bus == "cdrom" and config.arch != "x86_64":
        return ("-device", f"virtio-scsi-pci,id={node}-bus", "-device", f"scsi-cd,bus={node}-bus.0,{place}")
    return ("-device", f"{_DRIVES[bus]},{place}")


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


def disk_bus(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """A SCSI controller: disks come and go on it without hot-plugging in PCI, as many as there are targets."""
    return ("-device", f"virtio-scsi-pci,id={DISK_BUS},num_queues=1") if config.agent else ()


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


def room(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """Processors that are there while a guest boots and are pulled out then, to come later.

    Newer Linux (6.18, and stable series since) passes over a processor that is not there at boot, unless it knows the
    hypervisor, and it knows no emulator (acpi_is_processor_usable of arch/x86/kernel/acpi/boot.c). `growing.make_room`
    pulls them out, which QEMU 7.2 does not survive (its memory is corrupted); it comes with older Linux.
    """
    if wiring.restore or not config.growable or config.accelerator.name == "kvm" or wiring.qemu_version < (10, 0):
        return ()
    driver = f"{config.cpu.partition(',')[0]}-x86_64-cpu"
    places = range(config.cpus, config.max_cpus)
    return tuple(word for place in places for word in ("-device", f"{driver},apic-id={place},id={ROOM}{place}"))


def plugged(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """What was plugged in while the machine ran: its saved state expects it."""
    return config.plugged


def endings(config: MachineConfig, wiring: Wiring) -> tuple[str, ...]:
    """What ends QEMU: a panic, and a reboot too, as a kernel that panics without pvpanic reboots (``panic=-1``).

    A machine with a port that ends it waits (-S), or it might end before anybody listens.
    """
    exit_port = ("-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-S") if config.debug_exit else ()
    return ("-action", f"panic=shutdown,reboot={'reset' if config.reboots else 'shutdown'}", *exit_port)


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
    firmware,
    kernel,
    monitor,
    console,
    agent,
    root_disk,
    drives,
    disk_bus,
    screen,
    network,
    slot,
    small_devices,
    room,
    plugged,
    endings,
    incoming,
)


def escape(value: str) -> str:
    """Double the commas, which separate options."""
    return value.replace(",", ",,")


def program_path(platform: Platform) -> Path:
    """Return the path of the platform's QEMU; raises HostError when it is not installed."""
    found = shutil.which(platform.program)
    if found is None:
        raise HostError(
            f"{platform.program} is not installed", hint=f"apt-get install {platform.package}", where="PATH"
        )
    return Path(found)


def version_of(output: str) -> tuple[int, int]:
    """Read ``qemu-system-x86_64 --version``: its major and minor number."""
    found = re.search(r"version (\d+)\.(\d+)", output)
    if not found:
        raise HostError("QEMU does not tell its version", where=output[:200], hint="apt-get install qemu-system-x86")
    return int(found[1]), int(found[2])
