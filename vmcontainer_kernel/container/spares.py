"""A container made ahead: everything is set up, and its first process waits to be told what to run.

    prepare ──▶ clone, all steps but the last ones ──▶ waits on its sync socket
    tell    ──▶ {"args", "env", "cwd"} and three descriptors ──▶ identity, exec

What takes time in a start is done before anybody waits for it: the clone, the mounts, and the pages that a forked
Python copies when it first runs. The next request of the same `shape_of` takes the spare; what differs between such
requests is the program, its environment, its folder and its limits. (`create` and `start` of the OCI runtime
specification divide a start at the same place.)
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from vmcontainer_kernel.container.container import Container
from vmcontainer_kernel.container.launch import Stdio, run_steps
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.process import SETUP_FAILED, program_steps, rights_steps
from vmcontainer_kernel.container.reports import Launch
from vmcontainer_kernel.container.spec import Process
from vmcontainer_kernel.container.step import Scene, Step

__all__ = ["Spare", "may_be_made_ahead", "shape_of", "waiting_steps"]

_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True)
class Spare:
    """A container whose first process waits: what it was made for, and its pid and pipes."""

    shape: Options
    container: Container
    launch: Launch
    gate_fd: int

    @property
    def alive(self) -> bool:
        """False if its process failed or ended: nothing is reported before it is told what to run."""
        poller = select.poll()
        poller.register(self.launch.report_fd, select.POLLIN)
        return not poller.poll(0)

    def tell(self, process: Process, stdio: Stdio) -> bool:
        """Send the process what to run; False if it cannot be told, so that another way must be found."""
        message = _message(process)
        if len(message) > _MESSAGE_BYTES:
            return False
        with socket.socket(fileno=os.dup(self.gate_fd)) as gate:
            try:
                # A length ahead: a stream socket may deliver a long message in parts.
                socket.send_fds(gate, [len(message).to_bytes(4, "big")], stdio)
                gate.sendall(message)
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Close our ends; a process that still waits ends."""
        os.close(self.launch.report_fd)
        os.close(self.gate_fd)


def shape_of(options: Options) -> Options:
    """Return what of a request must be known when a spare is made."""
    return options.replace(argv=(), env={}, workdir="")


def may_be_made_ahead(shape: Options) -> bool:
    """Tell whether all that a request names will be the same when it is used: a folder, a device and another container
    may be removed and made anew meanwhile, and the spare would have the old one. A terminal, and a name and ports in a
    network, are of one container only.
    """
    shared = (shape.network, shape.pid, shape.ipc, shape.uts, shape.userns, shape.cgroupns)
    outside = shape.volumes or shape.devices or any(one.startswith("container:") for one in shared)
    return not (outside or shape.tty or shape.named or shape.publish)


def waiting_steps(
    base: Process, *, user_namespace: bool, seccomp: Sequence[Step] = (), filtered: bool = False
) -> list[Step]:
    """Return a spare's last steps: it gives up its rights, waits, and becomes the program.

    `filtered`: the filter allows what comes after waiting, as the default one does, so it need not come last.
    """
    early, late = ((), seccomp) if base.no_new_privileges else (seccomp, ())
    rights = rights_steps(base, user_namespace=user_namespace, tty=False, seccomp=early)
    if filtered:
        rights, late = [*rights, *late], ()

    def wait(scene: Scene) -> None:
        _become(scene, base, late)

    why = "made ahead: the program is not known yet"
    return [*rights, Step("wait", "recvmsg(…, SCM_RIGHTS)", why, "unix(7)", wait)]


def _become(scene: Scene, base: Process, seccomp: Sequence[Step]) -> NoReturn:
    _told(base, _message(base))  # a rehearsal: the pages it writes to need not be copied when somebody waits
    process = _told(base, _receive(scene.sync_fd))
    os._exit(run_steps(program_steps(process, (), seccomp), scene))


def _message(process: Process) -> bytes:
    return json.dumps({"args": process.args, "env": process.env, "cwd": process.cwd}).encode()


def _told(base: Process, message: bytes) -> Process:
    document = json.loads(message)
    return base.replace(args=tuple(document["args"]), env=tuple(document["env"]), cwd=document["cwd"])


def _receive(sync_fd: int) -> bytes:
    """Wait for a message and put its descriptors at 0 to 2; end quietly if the other side ends."""
    gate = socket.socket(fileno=sync_fd)
    head, fds, _, _ = socket.recv_fds(gate, 4, 3)
    if len(head) < 4:
        os._exit(SETUP_FAILED)
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    message = b""
    while len(message) < int.from_bytes(head, "big"):
        part = gate.recv(_MESSAGE_BYTES)
        if not part:
            os._exit(SETUP_FAILED)
        message += part
    gate.detach()
    return message
