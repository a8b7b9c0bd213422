"""The supervisor: an agent beside this notebook, exec'd clean, which starts and ends everything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import vmcontainer_kernel

from .container.sealing import open_sealed
from .errors import NodeError, NodeLost
from .node import Node

__all__ = ["HostAgent", "agent_command"]

_AGENT = (
    "import sys; sys.path[:0] = sys.argv[1:2]; from vmcontainer_kernel.agent.__main__ import main; main(sys.argv[2:])"
)


class HostAgent:
    """The supervisor process beside this notebook, and the node it serves."""

    def __init__(self, process: subprocess.Popen[bytes], node: Node, folder: Path) -> None:
        self.process, self.node, self.folder = process, node, folder

    @classmethod
    async def launch(cls, folder: Path, images: Path, timeout_s: float = 10.0, *, spares: bool = True) -> HostAgent:
        """Exec a clean, single-threaded process; the notebook itself has threads and must never fork.

        With `spares` it keeps a container made ahead (`container.spares`) once there has been one.
        """
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as stderr:
            with theirs, os.fdopen(open_sealed(str(Path(sys.executable).resolve())), "rb", buffering=0) as program:
                process = subprocess.Popen(
                    agent_command(theirs.fileno(), folder, images, spares=spares),
                    executable=f"/proc/{os.getpid()}/fd/{program.fileno()}",
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    start_new_session=True,
                )
            node = Node("host", ours)
            try:
                await node.connect(timeout_s)
            except NodeLost as error:
                node.close()
                where = os.pread(stderr.fileno(), 1 << 20, 0).decode(errors="replace")[-2000:]
                raise NodeError("the supervisor did not start", where=where, hint="vmcontainer doctor") from error
        return cls(process, node, folder)

    async def close(self, patience_s: float = 15.0) -> None:
        """Close the stream and wait until the supervisor has ended everything and itself."""
        self.node.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self.process.wait, patience_s)


def agent_command(fd: int, folder: Path, images: Path, *, spares: bool) -> list[str]:
    """Return the command line of a supervisor that serves the socket `fd`."""
    package = str(Path(vmcontainer_kernel.__file__).parent.parent)
    # -S: no site-packages, as in a guest. -I: nothing imported by the notebook's folder or environment; cells get both.
    command = [sys.executable, "-S", "-I", "-c", _AGENT, package, "--spares", str(int(spares))]
    return [*command, "--fd", str(fd), "--run", str(folder), "--images", str(images)]
