"""A launcher for tests: `subprocess` with the descriptors where the machine wants them."""

import asyncio
import fcntl
import os
import subprocess
import sys

from vmcontainer_kernel.vm.qemu import FIRST_FD

# dup2 in a process of its own: the test's process has threads, so no preexec_fn.
_SHIFT = (
    "import os,sys;n=int(sys.argv[1]);[os.dup2(int(f),{first}+i) for i,f in enumerate(sys.argv[2:2+n])];"
    "os.execvp(sys.argv[2+n],sys.argv[2+n:])"
)


class LocalSpawned:
    def __init__(self, process):
        self.process = process
        self.warnings, self.struck = (), {}
        self.pid = process.pid

    async def wait(self):
        while self.process.poll() is None:
            await asyncio.sleep(0.01)
        return self.process.returncode

    async def kill(self):
        self.process.kill()


class LocalLauncher:
    """Starts programs and remembers them, so that a test can see that none is left."""

    def __init__(self):
        self.spawned = []

    async def spawn(self, argv, *, fds=(), log, cage=None):
        # Numbers from 64 up cannot collide with the ones they are moved to.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in fds]
        try:
            shift = [sys.executable, "-S", "-c", _SHIFT.format(first=FIRST_FD), str(len(high)), *map(str, high)]
            with open(log, "wb") as output:
                process = subprocess.Popen(
                    [*shift, *argv], pass_fds=high, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
        finally:
            for fd in high:
                os.close(fd)
        self.spawned.append(LocalSpawned(process))
        return self.spawned[-1]

    def left(self):
        return [one.pid for one in self.spawned if one.process.poll() is None]
