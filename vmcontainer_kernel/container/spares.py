"""A container made ahead: all that is around its process is there, and the process waits to be told the rest.

    make ──▶ clone, `planning.surroundings` ──▶ waits on its sync socket
    take ──▶ the late part of a specification, and three descriptors ──▶ `planning.late_steps`, exec

What takes time in a start is done before anybody waits for it: the clone, the mounts, the groups. What comes after is
cheap, and is what one container has different from the next: its names, limits, user, rights, filter, program. So the
spare fits every request of the same shape (`shape_of`), and is told all of that. (`create` and `start` of the OCI
runtime specification divide a start nearly there.) It still has its rights while it waits, and nothing of the
container's is running: no other process is in its namespaces.
"""

from __future__ import annotations

import os
import select
import socket
from dataclasses import dataclass
from functools import partial

from vmcontainer_kernel.container.cgroups import Cgroup
from vmcontainer_kernel.container.container import Container
from vmcontainer_kernel.container.launch import Stdio, run_steps
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.orders import receive, send
from vmcontainer_kernel.container.planning import late_steps, surroundings
from vmcontainer_kernel.container.preparing import Preparer
from vmcontainer_kernel.container.reports import Launch
from vmcontainer_kernel.container.requests import SecurityOptions
from vmcontainer_kernel.container.seccomp.install import has_listener, seccomp_steps
from vmcontainer_kernel.container.spec import Linux, Process, Spec
from vmcontainer_kernel.container.starting import Starter
from vmcontainer_kernel.container.step import Scene, Step

__all__ = ["Spare", "Spares", "early", "late", "may_be_made_ahead", "shape_of", "waiting_plan"]

_LATE = (
    *("argv", "entrypoint", "runs_entrypoint", "env", "workdir", "user", "group_add", "interactive", "labels"),
    *("hostname", "domainname", "read_only", "cap_add", "cap_drop", "ulimits"),
    *("memory_bytes", "memory_swap_bytes", "memory_reservation_bytes", "cpus", "cpu_shares", "pids_limit"),
    *("restart", "stop_signal", "stop_timeout_s", "health"),
)
"""The options that take effect in the late steps, in the group's files, or in the agent alone."""
_LATE_PROTECTIONS = ("caps", "no-new-privs", "seccomp")
_UNSAID = {name: getattr(Options, name) for name in _LATE}


def shape_of(options: Options) -> Options:
    """Return what of a request must be known when a spare is made; an option not named above is part of it."""
    without = tuple(word for word in options.without if word not in _LATE_PROTECTIONS)
    return options.replace(**_UNSAID, without=without, security=SecurityOptions(unmasked=options.security.unmasked))


def may_be_made_ahead(shape: Options) -> bool:
    """Tell whether all that a request names will be the same when it is used: a folder, a device and another container
    may be removed and made anew meanwhile, and the spare would have the old one. A terminal, and a name and ports in a
    network, are of one container only.
    """
    shared = (shape.network, shape.pid, shape.ipc, shape.uts, shape.userns, shape.cgroupns)
    outside = shape.volumes or shape.devices or any(one.startswith("container:") for one in shared)
    return not (outside or shape.tty or shape.named or shape.publish)


def early(spec: Spec) -> Spec:
    """Return what of a specification has taken effect when a process waits; of equal ones the surroundings are."""
    unsaid = Linux()
    linux = spec.linux.replace(
        resources=unsaid.resources,
        seccomp=None,
        rootfs_propagation="",
        personality=None,
    )
    process = Process((), oom_score_adj=spec.process.oom_score_adj)
    root = spec.root.replace(readonly=False)
    return spec.replace(process=process, root=root, hostname="", domainname="", linux=linux, annotations=())


def late(spec: Spec) -> Spec:
    """Return what of a specification the late steps need, without the filter, which goes compiled."""
    linux = Linux(
        namespaces=spec.linux.namespaces,
        rootfs_propagation=spec.linux.rootfs_propagation,
        personality=spec.linux.personality,
    )
    return Spec(spec.process, spec.root, spec.hostname, spec.domainname, hooks=spec.hooks, linux=linux)


# -- in the child


def waiting_plan(spec: Spec, bundle: str, layers: tuple[str, ...], group: Cgroup | None) -> list[Step]:
    """Return a spare's steps: the surroundings, and to wait for what the rest is to be; `spec` as from `early`."""
    why = "made ahead: what is asked for is not known yet"
    return [*surroundings(spec, bundle, layers, group), Step("wait", "recvmsg(…, SCM_RIGHTS)", why, "unix(7)", _wait)]


def _wait(scene: Scene) -> None:
    gate = socket.socket(fileno=scene.sync_fd)
    (spec, judged), fds = receive(gate)
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    gate.detach()
    os._exit(run_steps(late_steps(spec, seccomp=judged), scene))


# -- in the agent


@dataclass(frozen=True)
class Spare:
    """A container whose first process waits: the options it was made for, and its pid and pipes."""

    options: Options
    shape: Options
    container: Container
    launch: Launch
    gate: socket.socket

    @property
    def alive(self) -> bool:
        """False if its process failed or ended: nothing is reported before it is told what to run."""
        poller = select.poll()
        poller.register(self.launch.report_fd, select.POLLIN)
        return not poller.poll(0)

    def tell(self, spec: Spec, stdio: Stdio) -> bool:
        """Send the process all that it does not know; False if it cannot be told, so that another way must be found."""
        try:
            send(self.gate, (late(spec), seccomp_steps(spec.linux.seccomp)), stdio)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close our ends; a process that still waits ends."""
        os.close(self.launch.report_fd)
        self.gate.close()


class Spares:
    """The container that is made ahead, if there is one."""

    def __init__(self, preparer: Preparer, starter: Starter) -> None:
        self._preparer, self._starter = preparer, starter
        self.spare: Spare | None = None

    def make(self, name: str, options: Options) -> None:
        """Make one for requests like `options`, whatever they run; there is none before."""
        container = self._preparer.prepare(name, options.replace(argv=("true",)))
        self._preparer.write_bundle(container)
        layers = tuple(str(path) for path in container.layers)
        recipe = partial(waiting_plan, early(container.spec), str(container.bundle), layers, container.cgroup)
        null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            launch, gate_fd = self._starter.start_recipe(container, recipe, (null_fd, null_fd, null_fd))
        finally:
            os.close(null_fd)
        self.spare = Spare(_unprogrammed(options), shape_of(options), container, launch, socket.socket(fileno=gate_fd))

    def is_for(self, options: Options) -> bool:
        """Tell whether the next request like `options` finds nothing to change."""
        return self.spare is not None and self.spare.options == _unprogrammed(options)

    def take(self, options: Options, stdio: Stdio) -> tuple[Container, Launch] | None:
        """Start what `options` ask for in the spare, if it fits; raises as `Preparer.prepare` does. One that could not
        be used after all stays, to be dropped.
        """
        spare = self.spare
        if spare is None or spare.shape != shape_of(options):
            return None
        container = self._adapted(spare, options) if spare.alive else None
        if container is None or not spare.tell(container.spec, stdio):
            return None
        self.spare = None
        container.gate_fd = spare.gate.detach()
        return container, spare.launch

    def _adapted(self, spare: Spare, options: Options) -> Container | None:
        """Return the container that the spare becomes; None if the image has changed meanwhile, or a limit that the
        spare has is not wanted.
        """
        made = spare.container
        if options.argv and spare.options == _unprogrammed(options):
            return self._preparer.adapt(made, options)
        container = self._preparer.prepare(made.name, options)
        if container.image.digest != made.image.digest or has_listener(container.spec.linux.seccomp):
            return None
        if made.cgroup and container.cgroup and not made.cgroup.turn_into(container.cgroup):
            return None
        container.layers = made.layers
        return container


def _unprogrammed(options: Options) -> Options:
    return options.replace(argv=(), env={}, workdir="")
