"""``%vm``: machines that boot something of their own, and their screens, keyboards and serial ports."""

from __future__ import annotations

import asyncio
import base64
import html
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import parse_number, parse_size
from ..cells import Printer
from ..display import Progress, Table, size_text
from ..errors import MachineError, TimeLimit, UserError
from ..guests import Guest
from ..messages import say
from ..paths import cache_dir
from ..session import Session
from .words import NAME, Verb, Words, flag, option, word, words

if TYPE_CHECKING:
    from ..vm.config import Drive, MachineConfig
    from ..vm.console import Console
    from ..vm.machine import Machine
    from ..vm.screen import Picture, Screen

__all__ = ["VERBS", "ScreenImage", "sector_cell"]

POLL_S = 0.05
POWER_LIMIT_S = 20.0
END_LIMIT_S = 5.0


class ScreenImage:
    """What was on a machine's screen: a picture with its words for those who do not see it."""

    def __init__(self, picture: Picture) -> None:
        self.png, self.text, self.alt = picture.png, picture.text, picture.alt
        self.width, self.height = picture.width, picture.height

    def __repr__(self) -> str:
        return self.alt

    def _repr_png_(self) -> bytes:
        return self.png

    def _repr_html_(self) -> str:
        source = base64.b64encode(self.png).decode()
        alt = html.escape(self.alt, quote=True)
        return f'<img src="data:image/png;base64,{source}" alt="{alt}" style="max-width:100%">'


# -- what can be booted, and booting it


def _systems(session: Session, given: Words, language: str) -> Table:
    from ..vm import systems

    rows = [
        (one.name, one.title, origin.arch, "%%vm NAME", _size(systems.guest_size(origin)))
        for one, origin in systems.guests_here()
    ]
    rows += [
        (one.name, one.title, one.arch, "%vm boot NAME", _size(systems.payload_size(one))) for one in systems.PAYLOADS
    ]
    return Table(("system", "what it is", "processor", "starts with", "here"), rows)


def _size(size_bytes: int | None) -> str:
    return "must be fetched" if size_bytes is None else size_text(size_bytes)


def _boot(session: Session, given: Words, language: str) -> None:
    progress = Progress()

    async def boot() -> Guest:
        config = await asyncio.to_thread(_config, session, given, progress)
        return await session.machines.boot(config)

    guest = session.wait(boot())
    name = guest.machine.config.name
    print(say(f"[lab] machine {name} runs: %vm screen {name}, %vm console {name}, %vm rm {name}"))


def _config(session: Session, given: Words, progress: Progress) -> MachineConfig:
    from dataclasses import replace

    from ..vm import accelerator, systems
    from ..vm.config import Firmware

    engine = accelerator.choose()
    systems.check_arch(given.arch)
    arch = given.arch or "x86_64"
    drives = _drives(given)
    if given.system:
        if drives or given.uefi:
            raise UserError("--system brings its own files", hint="leave --cdrom, --floppy, --disk and --uefi out")
        payload = systems.payload_of(given.system)
        file = systems.ensure_payload(payload, progress.report)
        config = systems.payload_config(given.name, payload, file, engine)
    elif drives:
        uefi = systems.ensure_payload(systems.uefi_of(arch), progress.report) if _wants_uefi(given) else None
        config = systems.boot_config(given.name, Firmware(uefi), arch, engine, drives)
    else:
        hint = "%vm boot NAME --system memtest, --cdrom FILE or --disk DISK; %vm systems lists what there is"
        raise UserError("what is it to boot?", hint=hint)
    memory_bytes = parse_size(given.memory) if given.memory else config.memory_bytes
    cpus = int(parse_number(given.cpus, "--cpus", whole=True) or config.cpus)
    return replace(config, memory_bytes=memory_bytes, cpus=cpus, network=config.network and not given.no_network)


def _wants_uefi(given: Words) -> bool:
    """An arm64 board has no other firmware."""
    return bool(given.uefi) or given.arch == "arm64"


def _drives(given: Words) -> tuple[Drive, ...]:
    read = [_drive(Path(path), bus) for bus in ("cdrom", "floppy") for path in [getattr(given, bus)] if path]
    return tuple(read + [_kept(name, given.arch) for name in given.disk])


def _kept(name: str, arch: str) -> Drive:
    """Return a disk of `%vm disk` as a drive that any system has a driver for."""
    from ..vm.config import Drive
    from ..vm.disks.live import in_use
    from ..vm.disks.store import own_store

    store = own_store()
    disk = store.writable(name)
    if store.is_used(name):
        raise in_use(name, name)
    return Drive(disk, "virtio" if arch == "arm64" else "sata")


def _drive(path: Path, bus: str) -> Drive:
    """Return a raw image as a drive that is only read: QEMU is told the format, and never looks for it."""
    from ..vm.config import Drive
    from ..vm.disks.disk import Disk

    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"--{bus} {path}: there is no such file", hint="give the path of an image", where=f"--{bus}")
    return Drive(Disk(path.name, path, "raw", path.stat().st_size, read_only=True), bus)


def sector_cell(session: Session, name: str, code: bytes, timeout_s: float) -> None:
    """Start machine `name` from a boot sector, and show what its serial port says until it ends, halts, or the time is
    over; then it runs on. A former one of that name, from a boot sector too, is removed.
    """
    guest = session.wait(_boot_sector(session, name, code))
    machine = guest.machine
    shown = _follow(session, machine.console, timeout_s, lambda seen: session.wait(_is_done(machine)))
    if shown and not shown.endswith("\n"):
        print()
    halted = session.wait(_is_done(machine))
    if not machine.gone.is_set():
        state = "has halted" if halted else "runs on"
        print(say(f"[lab] machine {name} {state}: %vm screen {name}, %vm rm {name}"))
        return
    session.wait(session.machines.remove(name))
    status = machine.exit_status or 0
    # isa-debug-exit of QEMU: the status is twice the value that was written, plus one
    itself = f"machine {name} ended itself with {status >> 1:#x}"
    print(f"[lab] {say(itself if status & 1 else f'machine {name} has ended: {machine.reason}')}")


async def _is_done(machine: Machine) -> bool:
    """Whether it is gone, or halted for good."""
    from ..vm.screen import stands_still

    failure: MachineError | None = None
    if not machine.console.ended:
        try:
            return await stands_still(machine)
        except MachineError as error:
            failure = error
    # QEMU is ending: how, its supervisor tells in a moment.
    try:
        await asyncio.wait_for(machine.gone.wait(), END_LIMIT_S)
    except TimeoutError:
        if failure:
            raise failure from None
    return True


async def _boot_sector(session: Session, name: str, code: bytes) -> Guest:
    from ..vm import accelerator, systems

    former = session.machines.guests.get(name)
    if former and former.machine.config.label == systems.SECTOR:
        await session.machines.remove(name)
    engine = await asyncio.to_thread(accelerator.choose)
    return await session.machines.boot(systems.boot_sector(name, code, cache_dir("sectors"), engine))


# -- looking and touching


def _screen_of(session: Session, name: str) -> Screen:
    from ..vm.screen import Screen

    machine = session.machines.guest(name).machine
    if not machine.config.screen:
        raise UserError(f"machine {name} has no screen", hint=f"its words: %vm console {name}")
    return Screen(machine)


def _screen(session: Session, given: Words, language: str) -> Any:
    if given.live:
        from ..live import screen_view

        _screen_of(session, given.name)
        return screen_view(session, given.name, language)
    screen = _screen_of(session, given.name)
    wanted, limit_s = given.until, _seconds(given)

    async def look() -> Picture:
        end_s = time.monotonic() + limit_s
        while True:
            picture = await screen.picture()
            if wanted is None or wanted in picture.text:
                return picture
            if time.monotonic() > end_s:
                raise TimeLimit(
                    f"the screen of {given.name} did not show {wanted!r} in {limit_s:g} s",
                    where=picture.alt,
                    hint="only a text mode's letters can be read",
                )
            await asyncio.sleep(4 * POLL_S)

    return ScreenImage(session.wait(look()))


def _seconds(given: Words) -> float:
    return float(parse_number(given.timeout, "--timeout") or 0)


def _type(session: Session, given: Words, language: str) -> None:
    text = " ".join(given.text) + ("\n" if given.enter else "")
    if given.serial:
        console = session.machines.guest(given.name).machine.console
        session.wait(console.type(text.replace("\n", "\r").encode()))
        return
    session.wait(_screen_of(session, given.name).type(text))


def _key(session: Session, given: Words, language: str) -> None:
    from ..vm.screen import chord

    screen = _screen_of(session, given.name)

    async def press() -> None:
        for names in [chord(one) for one in given.keys]:
            await screen.press(names)

    session.wait(press())


def _click(session: Session, given: Words, language: str) -> None:
    x, y = (int(parse_number(text, "x and y", whole=True, low=0) or 0) for text in (given.x, given.y))
    session.wait(_screen_of(session, given.name).click(x, y, given.button))


def _console(session: Session, given: Words, language: str) -> None:
    """Print what the serial port has said, and with --follow or --until what it says."""
    console = session.machines.guest(given.name).machine.console
    if not given.follow and given.until is None:
        print(console.tail(int(parse_number(given.tail, "--tail", whole=True) or 1)))
        return
    wanted = given.until
    seen = _follow(session, console, _seconds(given), lambda seen: wanted is not None and wanted in seen)
    if wanted is not None and wanted not in seen:
        why = "has ended" if console.ended else f"did not say so in {_seconds(given):g} s"
        hint = "give it more time with --timeout"
        raise TimeLimit(f"the console of {given.name} {why}: {wanted!r}", hint=hint, where=seen[-500:])


def _follow(session: Session, console: Console, limit_s: float, enough: Callable[[str], bool]) -> str:
    """Print what a serial port has said and says, until it is enough, it has ended, or the time is over.

    Returns the last of it: at most twice what a console keeps.
    """
    from ..vm.console import KEPT_BYTES, readable

    end_s, printer, position, seen = time.monotonic() + limit_s, Printer(sys.stdout), 0, ""

    async def more() -> tuple[bytes, int]:
        return console.since(position)

    over = False
    while True:
        data, position = session.wait(more())
        text = readable(data)
        printer.add(text.encode())
        seen = seen[-KEPT_BYTES:] + text
        if over:
            break
        # Then it is read once more: meanwhile a machine may have said its last words.
        over = console.ended or time.monotonic() > end_s or enough(seen)
        if not over:
            time.sleep(POLL_S)
    printer.end()
    return seen


def _power(session: Session, given: Words, language: str) -> None:
    from ..vm.screen import press_power

    machine = session.machines.guest(given.name).machine

    async def press() -> bool:
        await press_power(machine)
        try:
            await asyncio.wait_for(machine.gone.wait(), POWER_LIMIT_S)
        except TimeoutError:
            return False
        return True

    if not session.wait(press()):
        print(say(f"[lab] {given.name} does not listen to its power button: %vm rm {given.name}"), file=sys.stderr)


_TIMEOUT = option("--timeout", metavar="SECONDS", help="how long at most (default: 30)", default="30")
_UNTIL = option("--until", help="wait until it shows this")

VERBS: dict[str, Verb] = {
    "systems": Verb(_systems, "what can be booted, and what of it is here"),
    "boot": Verb(
        _boot,
        "start a machine that boots something of its own",
        NAME,
        option("--system", metavar="SYSTEM", help="a program that needs no Linux: %%vm systems lists them", default=""),
        option("--cdrom", metavar="FILE", help="a CD's image (ISO 9660)", default=""),
        option("--floppy", metavar="FILE", help="a floppy disk's image", default=""),
        (
            ("--disk",),
            {"metavar": "DISK", "action": "append", "default": [], "help": "a disk of %%vm disk; may be given again"},
        ),
        flag("--uefi", help="start it by UEFI instead of BIOS"),
        option("--arch", help="its processor: x86_64 or arm64", default=""),
        option("--memory", "-m", metavar="SIZE", help="its memory (default: 256m)", default=""),
        option("--cpus", metavar="N", help="its virtual CPUs (default: 1)"),
        flag("--no-network", help="without a network card"),
    ),
    "screen": Verb(
        _screen,
        "a picture of its screen",
        NAME,
        flag("--live", help="one that follows it, and takes keys and clicks"),
        _UNTIL,
        _TIMEOUT,
    ),
    "type": Verb(
        _type,
        "type on its keyboard",
        NAME,
        words("text", "what to type"),
        flag("--enter", help="and press Enter"),
        flag("--serial", help="into its serial port instead"),
    ),
    "key": Verb(_key, "press keys, as ctrl-alt-delete or f2", NAME, words("keys", "which, one after the other")),
    "click": Verb(
        _click,
        "click on a point of its screen",
        NAME,
        word("x", "from the left"),
        word("y", "from the top"),
        option("--button", help="left, middle or right", default="left"),
    ),
    "console": Verb(
        _console,
        "its serial port's words",
        NAME,
        option("--tail", metavar="N", help="the last lines (default: 200)", default="200"),
        flag("-f", "--follow", help="show what comes, until the time is over"),
        _UNTIL,
        _TIMEOUT,
    ),
    "poweroff": Verb(_power, "press its power button (ACPI)", NAME),
}
