"""A machine saved to a folder, and woken from one.

    receiver ── QEMU on a memory file of ours ─┐
    machine  ── stop ── memory and state ─────▶│ state without memory ─▶ state
                cont                           └ quit                    ram ◀─ the memory file, without zeros
    wake     ── QEMU maps ram copy-on-write, loads state, cont

So what is saved is a template like any other: nothing is read when a machine wakes from it, and any number of machines
share what they do not write to. The machine stands still only while it sends; the memory file (memfd_create(2)) is why
that takes half a second and not three: in a disk's file each page that is mapped and written for the first time costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import MachineError
from .. import memory
from ..build import qemu_build
from ..config import MachineConfig, Wiring
from ..machine import Launcher, Machine, start
from . import manifest, transfer
from .manifest import Saved

__all__ = ["Receiver", "freeze", "receiver", "seal", "standing_still", "wake"]

LIMIT_S = 60.0


@contextlib.asynccontextmanager
async def standing_still(machine: Machine) -> AsyncIterator[None]:
    """Stop a machine's virtual CPUs meanwhile; it runs on, if it did before, however this ends."""
    running = await machine.status() == "running"
    if running:
        await machine.pause()
    try:
        yield
    finally:
        if running and not machine.gone.is_set():
            await machine.resume()


@dataclass(frozen=True)
class Receiver:
    """A QEMU that never runs its guest, and the open file which is its memory."""

    machine: Machine
    memory_fd: int


@contextlib.asynccontextmanager
async def receiver(machine: Machine, launcher: Launcher, run_dir: Path) -> AsyncIterator[Receiver]:
    """Start a QEMU which is to receive `machine`."""
    config = machine.config
    descriptor = os.memfd_create("vmcontainer-ram", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, config.memory_bytes)
        version = qemu_build(config.platform).version
        wiring = Wiring(ram=Path(f"/proc/self/fd/{descriptor}"), save=True, receive=True, qemu_version=version)
        target = await start(config, wiring, launcher, run_dir, place=f"{config.name}~saving")
        try:
            await transfer.check_alike(machine, target)
            yield Receiver(target, descriptor)
        finally:
            await target.stop()
            target.discard()
    finally:
        os.close(descriptor)


async def freeze(machine: Machine, target: Machine) -> None:
    """Send a machine that stands still to its receiver."""
    await transfer.offer(machine, target)
    try:
        await transfer.progress(machine, LIMIT_S)
    except MachineError:
        # The receiver's end is the reason, if that has ended.
        await asyncio.sleep(0.1)
        raise target.error(f"machine {machine.config.name} could not be saved") from None
    await transfer.progress(target, LIMIT_S)


async def seal(received: Receiver, saved: Saved) -> None:
    """Write what a receiver has received to the folder, and its manifest; the receiver's part is then over.

    Raises OSError when the disk is full.
    """
    with saved.state.open("wb") as file:
        try:
            await transfer.save(received.machine, file.fileno(), LIMIT_S)
        except MachineError as error:
            os.pwrite(file.fileno(), b"\0", os.fstat(file.fileno()).st_size)  # if the disk is full, this says so
            raise error
    await received.machine.stop()
    build = await asyncio.to_thread(qemu_build, saved.config.platform)
    await asyncio.to_thread(memory.copy, received.memory_fd, saved.ram)
    await asyncio.to_thread(manifest.write, saved, build.text)


async def wake(saved: Saved, config: MachineConfig, launcher: Launcher, run_dir: Path, *, place: str = "") -> Machine:
    """Start a machine from a folder; returns when it runs on from where it was saved.

    `config` is the saved one, perhaps under another name. Raises MachineError when the folder is damaged, or was saved
    by another build of QEMU.
    """
    await asyncio.to_thread(manifest.check, saved)
    manifest.files_back(saved)
    wiring = Wiring(ram=saved.ram, qemu_version=qemu_build(config.platform).version)
    machine = await start(config, wiring, launcher, run_dir, place=place)
    try:
        with saved.state.open("rb") as file:
            await transfer.load(machine, file.fileno(), LIMIT_S)
        await machine.resume()
        machine.mark("restored")
    except BaseException:
        await machine.stop()
        machine.discard()
        raise
    return machine
