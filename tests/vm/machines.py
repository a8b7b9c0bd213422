"""What the machine tests share: a guest whose PID 1 is `standin.py`, and a conversation with it."""

import asyncio
import contextlib
import dataclasses
import shutil
from pathlib import Path

from tests.patience import now_s
from tests.vm.launcher import LocalLauncher
from vmcontainer_kernel.paths import cache_dir
from vmcontainer_kernel.vm import guest
from vmcontainer_kernel.vm.accelerator import choose
from vmcontainer_kernel.vm.config import MachineConfig
from vmcontainer_kernel.vm.machine import Machine

ANSWER_LIMIT_S = 30.0


def told_more(config, words):
    """Return the same machine whose kernel is told `words` besides."""
    boot = dataclasses.replace(config.boot, parameters=f"{config.boot.parameters} {words}")
    return dataclasses.replace(config, boot=boot)


def standin_guest(folder, monkeypatch):
    """Make a guest image of the stand-in in a cache of its own, out of the real cache's packages and base."""
    guest.ensure_guest()
    real = cache_dir("guests")
    monkeypatch.setenv("VMCONTAINER_CACHE", str(folder / "cache"))
    ours = cache_dir("guests")
    shutil.copy(real / "packages.json", ours)
    for path in [real / "packages", *real.glob("base-*")]:
        (ours / path.name).symlink_to(path)
    package = folder / "vmcontainer_kernel"
    (package / "agent").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "agent/__init__.py").touch()
    shutil.copy(Path(__file__).with_name("standin.py"), package / "agent/guest.py")
    monkeypatch.setattr(guest, "PACKAGE", package)
    monkeypatch.setattr(guest, "add_images", lambda images, busybox, same: None)
    return guest.ensure_guest()


class Bench:
    """A launcher, a run folder and a configuration."""

    def __init__(self, image, run_dir):
        self.launcher = LocalLauncher()
        self.run_dir = run_dir
        self.config = MachineConfig("vm", image.boot, choose())
        self.settled = 0

    async def settle(self, machine):
        self.settled += 1
        await heard(machine)
        await asked(machine, "1 + 1")

    @contextlib.asynccontextmanager
    async def booted(self):
        machine = await Machine.boot(self.config, self.launcher, self.run_dir)
        try:
            yield machine
        finally:
            await machine.stop()
            machine.stream.close()


async def heard(machine):
    """Return the next line from the guest."""

    async def line():
        got = b""
        while not got.endswith(b"\n"):
            data = await asyncio.get_running_loop().sock_recv(machine.stream, 4096)
            if not data:
                await asyncio.sleep(10)
            got += data
        return got.decode().strip()

    return await machine.within(line(), ANSWER_LIMIT_S, "answer")


async def asked(machine, expression):
    """Return the value of a Python expression in the guest, as text."""
    await told(machine, expression)
    return await heard(machine)


async def told(machine, expression):
    await asyncio.get_running_loop().sock_sendall(machine.stream, expression.encode() + b"\n")


def cpu_seconds(pid):
    """Return the CPU time of all threads of a process (proc(5), schedstat: nanoseconds)."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


async def until(condition, limit_s=5.0):
    """Wait until a condition holds, and fail if it does not in time."""
    end = now_s() + limit_s
    while not condition():
        assert now_s() < end, "it did not happen in time"
        await asyncio.sleep(0.02)
