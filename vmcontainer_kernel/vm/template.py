"""Templates and clones: a machine that has booted once, and machines that wake from it, copy on write.

    ensure_template   boot ─▶ settle ─▶ save          cache/templates/KEY/  ram    guest memory, mapped shared
                                                                            state  CPU and device state
    clone             QEMU maps ram privately, loads state, runs on         manifest.json

Memory is never copied: the template's QEMU works in the RAM file itself and each clone's maps it copy-on-write
(migration capability ``x-ignore-shared``: the saved state leaves out memory that both sides see). A clone wakes with
its template's clock, random seed, address, host name and machine-id; the agent's verb ``renew`` changes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import MachineError
from ..paths import cache_dir
from . import accelerator, cache, memory, qemu
from .build import host_cpu, qemu_build
from .config import MachineConfig, Wiring, accelerator_for
from .guest import find_guest
from .machine import Launcher, Machine, start
from .packages import Origin

__all__ = ["Settle", "Template", "clone", "ensure_template", "find_template", "fresh_mac", "template_of"]

Settle = Callable[[Machine], Awaitable[None]]

SAVE_LIMIT_S = 30.0
LOAD_LIMIT_S = 10.0
BUILD_NAME = "template"


@dataclass(frozen=True)
class Template:
    """A saved machine: its folder, its key, what it was made from, and QEMU's version."""

    path: Path
    key: str
    config: MachineConfig
    qemu_version: tuple[int, int]

    @property
    def ram(self) -> Path:
        """The guest's memory."""
        return self.path / "ram"

    @property
    def state(self) -> Path:
        """The saved CPU and device state."""
        return self.path / "state"

    def timelines(self) -> list[dict[str, Any]]:
        """Return how it was made (`timeline.start`), if that is known."""
        try:
            boot = json.loads((self.path / "manifest.json").read_text())["boot"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return [boot] if isinstance(boot, dict) else []


def find_template(config: MachineConfig) -> Template | None:
    """Return the template of such machines if it is there and undamaged; no other program, about a millisecond."""
    try:
        build = qemu_build(config.platform)
        key = key_of(config, build.identity)
        template = Template(cache_dir("templates") / key, key, config, build.version)
        return template if is_sound(template) else None
    except FileNotFoundError:
        return None


def template_of(origin: Origin) -> Template | None:
    """Return what a guest's usual machine wakes from; None if it would boot first, or be fetched."""
    image = find_guest(origin)
    if image is None:
        return None
    engine = accelerator_for(origin.arch, accelerator.choose())
    config = MachineConfig("", image.boot, engine, image.recipe.memory_bytes, arch=origin.arch)
    return find_template(config)


async def ensure_template(config: MachineConfig, launcher: Launcher, run_dir: Path, settle: Settle) -> Template:
    """Return the template of such machines, made now if there is none; two notebooks at once make it one time.

    `settle(machine)` waits for the guest's agent and has it put the guest to rest. A damaged template is made again.
    KVM that does not carry a guest through its first boot is given up until the next boot of this computer: the
    template's `config` then has the other accelerator.
    Raises MachineError when the guest does not come up, HostError when QEMU is missing or the disk is full.
    """
    found = find_template(config)
    if found:
        return found
    async with cache.held(cache_dir("templates") / "lock"):
        found = find_template(config)
        if found:
            return found
        try:
            return await _build(config, launcher, run_dir, settle)
        except MachineError as error:
            if config.accelerator.name != "kvm":
                raise
            slower = accelerator.condemn(f"a guest did not start with KVM: {error.message}")
        return await _build(replace(config, accelerator=slower), launcher, run_dir, settle)


async def clone(
    template: Template, name: str, launcher: Launcher, run_dir: Path, asked_s: float | None = None
) -> Machine:
    """Wake a machine from a template; returns when it runs, in the middle of what its template did.

    Raises MachineError when the template is damaged or gone (`ensure_template` makes it again).
    """
    if not is_sound(template):
        raise _damaged(template)
    config = template.config.named(name, fresh_mac())
    wiring = Wiring(ram=template.ram, qemu_version=template.qemu_version)
    machine = await start(config, wiring, launcher, run_dir, asked_s)
    machine.times.earlier = template.timelines()
    try:
        await _load(machine, template.state)
    except BaseException as error:
        if isinstance(error, MachineError):
            # Whatever it is, it will not load the next time either: `find_template` must not offer it again.
            with contextlib.suppress(OSError):
                (template.path / "manifest.json").unlink()
        await machine.stop()
        machine.stream.close()
        raise
    return machine


async def _load(machine: Machine, state: Path) -> None:
    running = machine.expect("RESUME")
    with _opened(state, os.O_RDONLY) as descriptor:
        # Asked in one go: QMP carries commands out in the order in which they came.
        await asyncio.gather(
            _ignore_shared(machine),
            machine.monitor.give(descriptor, "state"),
            machine.execute("migrate-incoming", uri="fd:state"),
        )
    await machine.within(running, LOAD_LIMIT_S, "wake from its template")
    machine.mark("restored")
    if machine.config.root:
        cache.used(machine.config.root.parent)


async def _ignore_shared(machine: Machine) -> None:
    capability = {"capability": "x-ignore-shared", "state": True}
    await machine.execute("migrate-set-capabilities", capabilities=[capability])


async def _build(config: MachineConfig, launcher: Launcher, run_dir: Path, settle: Settle) -> Template:
    """Boot a machine on a RAM file, settle it and save it."""
    build = await asyncio.to_thread(qemu_build, config.platform)
    key = key_of(config, build.identity)
    place = cache_dir("templates") / key
    shutil.rmtree(place, ignore_errors=True)
    # As many as the lessons use, and the former ones of some.
    cache.prune(place.parent, cache.KEYS, keep=10)
    need_mib = (config.memory_bytes >> 20) + 10
    with cache.reported_when_full(place.parent, "a template", need_mib), cache.made(place) as folder:
        wiring = Wiring(ram=folder / "ram", save=True, qemu_version=build.version)
        machine = await _boot(config.named(f"{BUILD_NAME}-{key}", config.mac), wiring, launcher, run_dir)
        await _save(machine, folder / "state", settle)
        await asyncio.to_thread(_dig_holes, folder / "ram")
        # In a thread: it waits until the disk has it all.
        await asyncio.to_thread(_write_manifest, folder, key, machine.timeline())
    return Template(place, key, config, build.version)


async def _boot(config: MachineConfig, wiring: Wiring, launcher: Launcher, run_dir: Path) -> Machine:
    assert wiring.ram is not None
    with _opened(wiring.ram, os.O_RDWR | os.O_CREAT) as ram:
        # All of it now: writing to a mapped file on a full disk would end QEMU by SIGBUS.
        os.posix_fallocate(ram, 0, config.memory_bytes)
    return await start(config, wiring, launcher, run_dir)


async def _save(machine: Machine, path: Path, settle: Settle) -> None:
    """Settle a machine, save it to `path` and end it."""
    try:
        await settle(machine)
        machine.mark("rehearsed")
        await _ignore_shared(machine)
        with _opened(path, os.O_WRONLY | os.O_CREAT) as state:
            await machine.monitor.give(state, "state")
        await machine.execute("migrate", uri="fd:state")
        await machine.within(_saved(machine), SAVE_LIMIT_S, "save its state")
        machine.mark("saved")
    finally:
        await machine.stop()
        machine.discard()


def _dig_holes(ram: Path) -> None:
    """Let go of the disk's room for pages that are zero, two of three: a cache is copied, to a student or to Binder."""
    whole = ram.with_name("whole")
    ram.rename(whole)
    with _opened(whole, os.O_RDONLY) as descriptor:
        memory.copy(descriptor, ram)
    whole.unlink()


async def _saved(machine: Machine) -> None:
    while (answer := await machine.execute("query-migrate")).get("status") != "completed":
        if answer.get("status") == "failed":
            reason = answer.get("error-desc", "no reason given")
            raise machine.error(f"QEMU could not save the template: {reason}", hint="is the disk full?")
        await asyncio.sleep(0.01)


def fresh_mac() -> str:
    """Return a random address below QEMU's prefix 52:54:00 (locally administered, unicast)."""
    return ":".join(["52:54:00", *(f"{byte:02x}" for byte in secrets.token_bytes(3))])


def key_of(config: MachineConfig, qemu_identity: str) -> str:
    """Return the key of a template: a digest of all that its saved state depends on."""
    # Whether the network has a way out is no part of the state.
    command = qemu.argv(replace(config, name="", mac="", restricted=True), Wiring(ram=Path("ram"), save=True))
    parts = {
        "qemu": qemu_identity,
        # Nor is where the cache is: each student of a class has a copy in his own home.
        "command": [word.replace(str(cache_dir()), "cache") for word in command],
        "boot": config.boot.key,
        "cpu": host_cpu(config),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _write_manifest(folder: Path, key: str, boot: dict[str, Any]) -> None:
    """Write what `is_sound` compares; times are cut to seconds, as copies of a cache in container images are."""
    for name in ("ram", "state"):
        with _opened(folder / name, os.O_RDWR) as descriptor:
            os.fsync(descriptor)
            seconds = int(os.fstat(descriptor).st_mtime)
            os.utime(descriptor, (seconds, seconds))
    boot = {**boot, "name": "the template"}
    manifest = {"key": key, "boot": boot, "ram": _stamp(folder / "ram"), "state": cache.digest(folder / "state")}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def is_sound(template: Template) -> bool:
    """Tell whether a template is there as it was written.

    The state's digest is compared; of the RAM file size and time only, as reading 256 MiB would take longer than a
    clone. Nothing of ours writes to it: clones map it privately.
    """
    try:
        manifest: dict[str, Any] = json.loads((template.path / "manifest.json").read_text())
        found = [template.key, _stamp(template.ram), cache.digest(template.state)]
        return found == [manifest["key"], manifest["ram"], manifest["state"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _damaged(template: Template) -> MachineError:
    return MachineError(
        "the template is damaged or gone", where=str(template.path), hint="run the cell again: it is made anew"
    )


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
