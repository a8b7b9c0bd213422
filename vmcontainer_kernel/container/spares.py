"""Containers made ahead: all that is around the process is there, and the process waits to be told the rest.

    make ──▶ clone, `planning.surroundings` ──▶ general: waits with its rights
                                      └──▶ names, rights given up, filter ──▶ exact: waits for a program
    take ──▶ what it does not know, and three descriptors ──▶ the rest of the plan, exec

What takes time in a start is done before anybody waits for it: the clone, the mounts, the groups. What comes after is
cheap, and is what one container has different from the next: its names, limits, user, rights, filter, program. So the
general one fits every request of the same shape (`shape_of`). The exact one has that done, too: it is for a request
like the last one but for its program, and half a millisecond faster. Both follow the order of `planning.plan`.

A process that waits with its rights is alone in its namespaces: nothing of the container's runs before it has given
them up.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from vmcontainer_kernel.container.cgroups import Cgroup
from vmcontainer_kernel.container.container import Container
from vmcontainer_kernel.container.launch import Stdio, run_steps
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.orders import receive, send
from vmcontainer_kernel.container.planning import late_steps, rights_given_up, surroundings
from vmcontainer_kernel.container.preparing import Preparer
from vmcontainer_kernel.container.process import placed, program_steps
from vmcontainer_kernel.container.reports import Launch, Stopwatch
from vmcontainer_kernel.container.requests import SecurityOptions
from vmcontainer_kernel.container.seccomp.install import has_listener, seccomp_steps
from vmcontainer_kernel.container.spec import SHOWN_DEVICES, Linux, Process, Spec
from vmcontainer_kernel.container.starting import Starter
from vmcontainer_kernel.container.step import Scene, Step, explained

__all__ = ["Spare", "Spares", "early", "exact_plan", "late", "may_be_made_ahead", "shape_of", "waiting_plan"]

_LATE = (
    *("argv", "entrypoint", "runs_entrypoint", "env", "workdir", "user", "group_add", "interactive", "labels"),
    *("hostname", "domainname", "read_only", "cap_add", "cap_drop", "ulimits"),
    *("memory_bytes", "memory_swap_bytes", "memory_reservation_bytes", "cpus", "cpu_shares", "pids_limit"),
    *("restart", "stop_signal", "stop_timeout_s", "health"),
)
"""The options that take effect in the late steps, in the group's files, or in the agent alone."""
_LATE_PROTECTIONS = ("caps", "no-new-privs", "seccomp")
_AMONG_RIGHTS = ("", "builtin")  # filters that allow what comes after waiting, so they need not come last
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
    shown = tuple(one for one in spec.annotations if one == SHOWN_DEVICES)
    return spec.replace(process=process, root=root, hostname="", domainname="", linux=linux, annotations=shown)


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
    """Return a general spare's steps: the surroundings, and to wait for what the rest is to be; `spec` is `early`."""
    return [*surroundings(spec, bundle, layers, group), _wait_step(_await_rest)]


def exact_plan(
    spec: Spec,
    bundle: str,
    layers: tuple[str, ...],
    group: Cgroup | None,
    seccomp: Sequence[Step],
    *,
    filtered: bool,
) -> list[Step]:
    """Return an exact spare's steps: all but the program's.

    `filtered`: the filter allows what comes after waiting, as the default one does, so it need not come last.
    """
    among, before = placed(spec.process, seccomp)
    rights = rights_given_up(spec, seccomp=among)
    if filtered:
        rights, before = [*rights, *before], ()
    wait = _wait_step(partial(_await_program, spec.process, before))
    return [*surroundings(spec, bundle, layers, group), *rights, wait]


def _wait_step(action: Callable[[Scene], None]) -> Step:
    return Step("wait", "recvmsg(…, SCM_RIGHTS)", "made ahead: what is asked for is not known yet", "unix(7)", action)


def _await_rest(scene: Scene) -> None:
    spec, judged = _told(scene)
    os._exit(run_steps(late_steps(spec, seccomp=judged), scene))


def _await_program(process: Process, judged: Sequence[Step], scene: Scene) -> None:
    args, env = _told(scene)
    os._exit(run_steps(program_steps(process.replace(args=args, env=env), (), judged), scene))


def _told(scene: Scene) -> Any:
    """Wait until we are told what is missing, with the descriptors 0 to 2."""
    gate = socket.socket(fileno=scene.sync_fd)
    order, fds = receive(gate)
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    gate.detach()
    return order


# -- in the agent


@dataclass(frozen=True)
class Spare:
    """A container whose first process waits; it is for requests of which `key` is left without what it will be told."""

    key: Options
    exact: bool
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
        process, filtered = spec.process, spec.linux.seccomp
        order = (process.args, process.env) if self.exact else (late(spec), seccomp_steps(filtered))
        try:
            send(self.gate, order, stdio)
        except OSError:
            return False
        return True

    def rest(self, spec: Spec) -> Sequence[Step]:
        """Return the steps that it takes once it is told `spec`, for who asks later."""
        judged = seccomp_steps(spec.linux.seccomp)
        if not self.exact:
            return late_steps(late(spec), seccomp=judged)
        filtered = self.key.security.seccomp in _AMONG_RIGHTS
        return program_steps(spec.process, (), () if filtered else placed(spec.process, judged)[1])

    def close(self) -> None:
        """Close our ends; a process that still waits ends."""
        os.close(self.launch.report_fd)
        self.gate.close()


class Spares:
    """The containers that are made ahead: at most one exact and one general, both after the last request."""

    def __init__(self, preparer: Preparer, starter: Starter) -> None:
        self._preparer, self._starter = preparer, starter
        self._spares: dict[bool, Spare] = {}  # by whether it is exact

    @property
    def pids(self) -> list[int]:
        """The processes that wait."""
        return [one.launch.pid for one in self._spares.values()]

    def missing(self, options: Options) -> list[bool]:
        """Return which are to be made for the next request like `options`: exact or not, for each."""
        if not may_be_made_ahead(options):
            return []
        fitting = [exact for exact, one in self._spares.items() if one.key == _key(options, exact=exact)]
        return [exact for exact in (True, False) if exact not in fitting]

    def take_out(self, unwanted: Callable[[Spare], bool]) -> list[Spare]:
        """Return those that are not to be used any more, for the caller to remove."""
        found = [one for one in self._spares.values() if unwanted(one)]
        for one in found:
            del self._spares[one.exact]
        return found

    def make(self, name: str, options: Options, *, exact: bool) -> None:
        """Make one for requests like `options`, whatever they run."""
        note = Stopwatch()
        note("begun")
        container = self._preparer.prepare(name, options.replace(argv=("true",)))
        self._preparer.write_bundle(container)
        spec, layers = container.spec, tuple(str(path) for path in container.layers)
        recipe = partial(waiting_plan, early(spec), str(container.bundle), layers, container.cgroup)
        if exact:
            judged, filtered = seccomp_steps(spec.linux.seccomp), options.security.seccomp in _AMONG_RIGHTS
            bare = spec.replace(linux=spec.linux.replace(seccomp=None))
            place = (str(container.bundle), layers, container.cgroup)
            recipe = partial(exact_plan, bare, *place, judged, filtered=filtered)
        note("created")
        null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            launch, gate_fd = self._starter.start_recipe(container, recipe, (null_fd, null_fd, null_fd))
        finally:
            os.close(null_fd)
        launch = launch.replace(marks=(*note.marks, *launch.marks))
        gate = socket.socket(fileno=gate_fd)
        self._spares[exact] = Spare(_key(options, exact=exact), exact, container, launch, gate)

    def take(self, options: Options, stdio: Stdio) -> tuple[Container, Launch] | None:
        """Start what `options` ask for in a spare, if one fits; raises as `Preparer.prepare` does. One that could not
        be used after all stays, to be removed.
        """
        note = Stopwatch()
        for exact in (True, False):
            spare = self._spares.get(exact)
            if spare is None or spare.key != _key(options, exact=exact):
                continue
            container = self._adapted(spare, options) if spare.alive else None
            note("created")
            if container and spare.tell(container.spec, stdio):
                del self._spares[exact]
                container.gate_fd = spare.gate.detach()
                marks = (*spare.launch.marks, *note.marks)
                explain = (*spare.launch.explain, partial(explained, partial(spare.rest, container.spec)))
                way = "exact spare" if exact else "spare"
                return container, spare.launch.replace(way=way, marks=marks, explain=explain)
        return None

    def _adapted(self, spare: Spare, options: Options) -> Container | None:
        """Return the container that the spare becomes; None if the image has changed meanwhile, or a limit that the
        spare has is not wanted.
        """
        made = spare.container
        if spare.exact:
            return self._preparer.adapt(made, options) if options.argv else None
        container = self._preparer.prepare(made.name, options)
        if container.image.digest != made.image.digest or has_listener(container.spec.linux.seccomp):
            return None
        if made.cgroup and container.cgroup and not made.cgroup.turn_into(container.cgroup):
            return None
        container.layers = made.layers
        return container


def _key(options: Options, *, exact: bool) -> Options:
    return options.replace(argv=(), env={}) if exact else shape_of(options)
