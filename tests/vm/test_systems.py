"""Other systems than Linux with our agent, on real QEMU: payloads, images of disks, firmware, a boot sector.

Each proves itself by what it writes on its screen or its serial port.
"""

import asyncio
import contextlib
import struct

import pytest

from tests.patience import now_s
from tests.vm.launcher import LocalLauncher
from vmcontainer_kernel.errors import UserError
from vmcontainer_kernel.vm import packages, systems
from vmcontainer_kernel.vm.accelerator import choose
from vmcontainer_kernel.vm.config import Drive, Firmware
from vmcontainer_kernel.vm.console import readable
from vmcontainer_kernel.vm.disks.disk import Disk
from vmcontainer_kernel.vm.machine import Machine
from vmcontainer_kernel.vm.screen import Screen, press_power

LIMIT_S = 60.0

pytestmark = pytest.mark.needs("qemu")


def quiet(phase, fraction):
    pass


@pytest.fixture
def launcher():
    launcher = LocalLauncher()
    yield launcher
    assert not launcher.left()


@contextlib.asynccontextmanager
async def running(config, launcher, run_dir):
    machine = await Machine.boot(config, launcher, run_dir)
    try:
        yield machine
    finally:
        await machine.stop()


def payload(name):
    found = systems.payload_of(name)
    return systems.payload_config(name, found, systems.ensure_payload(found, quiet), choose())


async def shown(machine, words):
    """Wait until a machine's screen, in text mode, shows words."""
    end = now_s() + LIMIT_S
    while words not in (picture := await Screen(machine).picture()).text:
        assert now_s() < end, picture.alt
        await asyncio.sleep(0.2)
    return picture


async def said(machine, words):
    """Wait until a machine's serial port has said words."""
    end = now_s() + LIMIT_S
    while words not in (text := readable(machine.console.since(0)[0])):
        assert now_s() < end and not machine.gone.is_set(), text + machine.reason
        await asyncio.sleep(0.05)


def test_memtest_runs_is_seen_and_obeys_the_keyboard(launcher, tmp_path):
    async def use():
        async with running(payload("memtest"), launcher, tmp_path) as machine:
            picture = await shown(machine, "Press <F1>")
            assert "Memtest86+" in picture.text and (picture.width, picture.height) == (720, 400)
            assert len(picture.png) > 1000
            await Screen(machine).press(["f1"])
            await shown(machine, "CPU sequencing mode")

    asyncio.run(use())


def test_ipxe_reads_what_is_typed_and_goes_on_after_a_reset(launcher, tmp_path):
    async def use():
        async with running(payload("ipxe"), launcher, tmp_path) as machine:
            for _ in range(2):
                await shown(machine, "Press Ctrl-B")
                await Screen(machine).press(["ctrl", "b"])
                await shown(machine, "iPXE>")
                await Screen(machine).type("echo Hello: ${net0/mac}\n")
                await shown(machine, f"Hello: {machine.config.mac}")
                await machine.reset()
                assert await machine.status() == "running"

    asyncio.run(use())


@pytest.mark.parametrize("name", ["uefi", pytest.param("uefi-arm64", marks=pytest.mark.needs("qemu-arm64"))])
def test_uefi_has_a_shell_on_its_serial_port(launcher, tmp_path, name):
    async def use():
        async with running(payload(name), launcher, tmp_path) as machine:
            await said(machine, "UEFI Interactive Shell")
            picture = await Screen(machine).picture()
            assert "graphics mode" in picture.alt and picture.width >= 640
            await machine.console.type(b"\x1b")
            await said(machine, "Shell>")
            await machine.console.type(b"echo 1:$0 by serial\r" if name == "uefi" else b"mode\r")
            await said(machine, "by serial\n" if name == "uefi" else "Col")
            await press_power(machine)

    asyncio.run(use())


@pytest.fixture(scope="module")
def iso(tmp_path_factory):
    """A CD that boots by BIOS and by UEFI: the one of Memtest86+."""
    found = systems.payload_of("memtest")
    package = systems._fetched(found)
    content = packages.file_of(package, "./usr/lib/memtest86+/memtest86+x64.iso")
    file = tmp_path_factory.mktemp("iso") / "a, b.iso"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("uefi", [False, True])
def test_a_cd_boots_by_bios_and_by_uefi(launcher, tmp_path, iso, uefi):
    firmware = systems.ensure_payload(systems.uefi_of("x86_64"), quiet) if uefi else None
    drive = Drive(Disk("cd", iso, "raw", iso.stat().st_size, read_only=True), "cdrom")
    config = systems.boot_config("cd", Firmware(firmware), "x86_64", choose(), (drive,))

    async def use():
        async with running(config, launcher, tmp_path) as machine:
            if uefi:
                await said(machine, 'starting Boot0001 "UEFI QEMU DVD-ROM')
            else:
                await shown(machine, "Memtest86+")

    asyncio.run(use())


def sector(text, ending):
    """Return a boot sector that writes `text` to the first serial port and then runs `ending`; 16-bit real mode."""
    # mov si, text; cld; next: lodsb; test al, al; jz done; mov dx, 0x3f8; out dx, al; jmp next; done: …
    code = b"\xbe" + struct.pack("<H", 0x7C00 + 16 + len(ending)) + b"\xfc\xac\x84\xc0\x74\x06\xba\xf8\x03\xee\xeb\xf5"
    assert len(code) == 15
    body = code + ending + b"\xf4" + text.encode() + b"\0"
    return body.ljust(510, b"\0") + b"\x55\xaa"


# mov al, 0x20; out 0xf4, al: isa-debug-exit ends QEMU with status 2 * 0x20 + 1
EXIT = b"\xb0\x20\xe6\xf4"


def test_a_boot_sector_speaks_and_ends_its_machine(launcher, tmp_path):
    config = systems.boot_sector("own", sector("Hello from 0x7c00", EXIT), tmp_path, choose())

    async def use():
        async with running(config, launcher, tmp_path) as machine:
            await asyncio.wait_for(machine.gone.wait(), LIMIT_S)
            assert machine.console_tail(1) == "Hello from 0x7c00"
        assert launcher.spawned[0].process.returncode == 0x20 * 2 + 1

    asyncio.run(use())


def test_a_boot_sector_that_hangs_is_stopped_and_one_that_is_none_refused(launcher, tmp_path):
    config = systems.boot_sector("own", sector("I stay", b"\xfa"), tmp_path, choose())

    async def use():
        async with running(config, launcher, tmp_path) as machine:
            await said(machine, "I stay")
            assert await machine.status() == "running"

    asyncio.run(use())
    for wrong in (b"", bytes(512), sector("x", EXIT) + b"\0"):
        with pytest.raises(UserError, match="boot sector"):
            systems.boot_sector("own", wrong, tmp_path, choose())
