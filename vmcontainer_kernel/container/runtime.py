"""The container runtime: create, start, exec, kill, remove — the operations of the OCI runtime specification
(runtime.md).

    create ──▶ created ──start──▶ running ──exited──▶ stopped ──remove──▶ (gone)
                                     └─ exec: one more process in it

The caller is a single-threaded process: it is the parent of every container, reaps each one (`os.waitpid`) and tells
with `exited`. `plan` is pure: it turns a `Spec` into steps, which `start` lets the child execute and `explain` prints.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container import connections, linux, signals
from vmcontainer_kernel.container import container as observed
from vmcontainer_kernel.container.cgroups import Cgroup, Cgroups
from vmcontainer_kernel.container.checks import check_options
from vmcontainer_kernel.container.container import Container
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.ladder import Footing, assumed
from vmcontainer_kernel.container.launch import Stdio, has_executed
from vmcontainer_kernel.container.limits import resources
from vmcontainer_kernel.container.network.networks import Networks
from vmcontainer_kernel.container.options import ExecOptions, Options
from vmcontainer_kernel.container.parsing import parse
from vmcontainer_kernel.container.planning import plan
from vmcontainer_kernel.container.preparing import Preparer
from vmcontainer_kernel.container.reports import Launch
from vmcontainer_kernel.container.spares import Spare, Spares
from vmcontainer_kernel.container.starting import Starter
from vmcontainer_kernel.container.volumes import Volumes
from vmcontainer_kernel.errors import ContainerError, HostError, LabError, NotFound, UserError

__all__ = ["Container", "Runtime", "plan"]

_SETUP_S = 10.0
_KILL_S = 5.0


class Runtime:
    """The containers of one session on one node.

    `run_dir`: holds ``containers/NAME/{config.json,rootfs,upper,work}``. `cgroups`: None where this process may make
    none. `footing`: what this user may have here; only assumed if not given. Ordinary users get user namespaces.
    """

    def __init__(
        self,
        run_dir: Path,
        store: Store,
        *,
        session: str,
        cgroups: Cgroups | None = None,
        volumes: Volumes | None = None,
        guest: bool = False,
        footing: Footing | None = None,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.store = store
        self.session = session
        self.cgroups = cgroups
        self.volumes = volumes
        self.footing = footing or assumed()
        self._containers: dict[str, Container] = {}
        self.networks = Networks(self.run_dir, session=session, guest=guest)
        self.starter = Starter(cgroups, self.networks)
        self._preparer = Preparer(
            self.run_dir, store, session, cgroups, volumes, self.networks, self.get, self.footing, guest=guest
        )
        self.spares = Spares(self._preparer, self.starter)
        if self.footing.ids:
            linux.prctl(linux.PR_SET_DUMPABLE, 1)  # after a change of ids our children's uid_map would be root's

    # -- looking

    def get(self, name: str) -> Container:
        """Return a container by name; raise `NotFound` with those there are."""
        try:
            return self._containers[name]
        except KeyError:
            names = ", ".join(sorted(self._containers)) or "none"
            raise NotFound(f"there is no container {name} on this node", hint=f"there are: {names}") from None

    def list(self) -> Sequence[Container]:
        """Return all containers, oldest first."""
        return [*self._containers.values()]

    def state(self, container: Container) -> dict[str, Any]:
        """Return the OCI state (runtime.md, "State")."""
        return observed.state(container)

    def inspect(self, container: Container) -> dict[str, Any]:
        """Return all that is known of a container: its configuration, state, image, groups, use and exit."""
        return observed.inspect(container)

    def view(self, container: Container, before: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the container's part of the kernel view (docs/architecture.md, ``containers[]``)."""
        return observed.view(container, before)

    def stats(self, container: Container) -> dict[str, Any]:
        """Return memory, cpu and pids use and limits."""
        return observed.stats(container)

    def events(self, container: Container) -> dict[str, int]:
        """Return how often limits struck: oom_kills, pids_denied."""
        return observed.events(container)

    # -- creating

    def create(self, name: str, options: Options) -> Container:
        """Check everything, then write the bundle; raise before any effect (`UserError`, `NotFound`, `HostError`,
        `ImageError`).
        """
        if name in self._containers:
            raise UserError(
                f"there is a container {name} already", hint=f"run in it, or remove it first: %container rm {name}"
            )
        self.drop_spares(lambda one: one.container.name == name)
        container = self._preparer.prepare(name, options)
        self._preparer.write_bundle(container)
        self._containers[name] = container
        return container

    def explain(self, name: str, options: Options) -> dict[str, Any]:
        """Return what `create` and `start` would do: the ``config``, and ``steps``: step, call, why, source."""
        return self._preparer.explain(name, options)

    # -- running

    def start(self, container: Container, stdio: Stdio, *, controlling_tty: bool = False) -> Launch:
        """Clone the container's first process and return at once; `stdio`: its descriptors 0 to 2; the caller closes
        its own copies.
        """
        if container.status == "running":
            raise UserError(f"container {container.name} is running already", hint="run in it, or stop it first")
        if container.status == "stopped" or container.work_used:
            self.renew(container)
        connections.write_names(self.networks, container)
        try:
            launch, gate_fd = self.starter.start(container, stdio, tty=controlling_tty)
        except BaseException:
            connections.disconnect(self.networks, container)
            raise
        _note_start(container, launch, gate_fd)
        return launch

    def make_spare(self, name: str, options: Options, *, exact: bool) -> None:
        """Make a container ahead (`spares`), in place of an older one; its process waits."""
        self.drop_spares(lambda one: one.exact == exact)
        self.spares.make(name, options, exact=exact)

    def take_spare(self, options: Options, stdio: Stdio) -> tuple[Container, Launch] | None:
        """Start what is asked for in the spare, if there is one that fits; raises as `create` does."""
        taken = self.spares.take(options, stdio)
        if taken:
            container, launch = taken
            self._containers[container.name] = container
            _note_start(container, launch, container.gate_fd)
        return taken

    def write_config(self, container: Container) -> None:
        """Write the configuration of what was a spare into its bundle."""
        self._preparer.write_config(container)

    def drop_spares(self, unwanted: Callable[[Spare], bool] = lambda _: True) -> None:
        """End the spares that are unwanted, and remove what is around them."""
        for spare in self.spares.take_out(unwanted):
            spare.close()
            spare.container.status, spare.container.pid = "running", spare.launch.pid
            self.remove(spare.container, force=True)

    def renew(self, container: Container) -> None:
        """Make a new group, as `kill` forbids forks in the old one, and an empty work folder: a volatile overlay
        refuses one that was in use (overlayfs.rst, "Volatile mount"). Whoever mounts it next uses it up.
        """
        container.work_used = True
        if container.cgroup:
            container.cgroup.remove()
        self.store.steward.remove_tree(container.bundle / "work")
        (container.bundle / "work").mkdir()

    def exec(
        self, container: Container, options: ExecOptions, stdio: Stdio, *, controlling_tty: bool = False
    ) -> Launch:
        """Start one more process in a running container: same namespaces, same groups, own session and process
        group.
        """
        if container.status != "running":
            raise UserError(
                f"container {container.name} is not running, it is {container.status}",
                hint=f"start it again: %container start {container.name}, or make a new one",
            )
        if container.paused:
            raise UserError(
                f"container {container.name} is paused", hint=f"let it go on: %container unpause {container.name}"
            )
        if not has_executed(container.gate_fd, _SETUP_S):
            raise ContainerError(f"container {container.name} is still being set up", hint="try again", where="exec")
        extra = self._preparer.exec_process(container, options)
        return self.starter.enter(container, extra, stdio, tty=controlling_tty)

    def exited(self, container: Container, wait_status: int) -> None:
        """Take note that the caller has reaped the container's first process."""
        container.status, container.wait_status = "stopped", wait_status
        container.paused, container.finished_s = False, time.time()
        connections.disconnect(self.networks, container)
        if container.gate_fd >= 0:
            os.close(container.gate_fd)
            container.gate_fd = -1

    def pause(self, container: Container) -> None:
        """Freeze every process of a container where it is (cgroups(7), "freezer")."""
        self._require_running(container, paused=False)
        self._require_group(container).freeze()
        container.paused = True

    def resume(self, container: Container) -> None:
        """Let a paused container go on."""
        self._require_running(container, paused=True)
        self._require_group(container).thaw()
        container.paused = False

    def update(self, container: Container, options: Options) -> None:
        """Change the limits of a container to those of `options` that are said; raises as `create` does."""
        user = container.spec.process.user
        check_options(options, user, self.footing, grouped=self.cgroups is not None, running=True)
        if self.cgroups is None:
            return
        asked = {"linux": {"resources": resources(options, {})}}
        spec = parse({**container.config, "linux": {**container.config["linux"], **asked["linux"]}})
        self.cgroups.check(spec.linux.resources)
        if container.status == "running":
            self.cgroups.update(self._require_group(container), spec.linux.resources)
        merged = {**container.config["linux"]["resources"], **asked["linux"]["resources"]}
        container.config["linux"]["resources"] = merged
        container.spec = parse(container.config)
        container.cgroup = self.cgroups.group(container.name, container.spec.linux.resources)

    def processes(self, container: Container) -> Sequence[int]:
        """Return the node's pids of all processes of a container."""
        return container.cgroup.pids() if container.cgroup else [container.pid]

    def _require_group(self, container: Container) -> Cgroup:
        if container.cgroup is None:
            raise HostError(
                "without control groups a container cannot be paused",
                hint="run it in a guest, where you are root: --on vm",
                where="cgroups(7)",
            )
        return container.cgroup

    def _require_running(self, container: Container, *, paused: bool) -> None:
        if container.status != "running" or container.paused != paused:
            wanted = "paused" if paused else "running"
            raise UserError(f"container {container.name} is not {wanted}, it is {container.shown_status}")

    # -- ending

    def kill(self, container: Container, signum: int, *, group: bool = False, everything: bool = False) -> None:
        """Send a signal to the first process alone, as docker-kill(1) and docker-stop(1) do; to its `group`, as a
        terminal's interrupt key does; or to every process of the container.
        """
        if container.status != "running":
            raise UserError(f"container {container.name} is not running, it is {container.status}")
        if everything and container.cgroup:
            container.cgroup.kill() if signum == signal.SIGKILL else container.cgroup.signal(signum)
        if everything and not container.cgroup and signum == signal.SIGKILL:
            signals.to_process(container.pid, signum)  # the end of PID 1 is the end of its pid namespace
            return
        (signals.to_group if group else signals.to_process)(container.pid, signum)
        mortal = "pid" in container.spec.linux.new_kinds and signum in signals.FATAL_BY_DEFAULT
        if mortal and signals.is_deaf(container.pid, signum):
            container.signalled = signum
            signals.to_process(container.pid, signal.SIGKILL)

    def remove(self, container: Container, *, force: bool = False) -> None:
        """Remove a container: its groups, then its bundle; `force` kills and reaps it first. What fails leaves it
        listed, to try again.
        """
        if container.status == "running":
            if not force:
                raise UserError(
                    f"container {container.name} is running", hint=f"stop it first: %container stop {container.name}"
                )
            self._end(container)
        if container.cgroup:
            container.cgroup.kill()
            container.cgroup.remove()
        self.store.steward.remove_tree(container.bundle)
        self._containers.pop(container.name, None)

    def _end(self, container: Container) -> None:
        if container.cgroup:
            container.cgroup.kill()
        signals.to_process(container.pid, signal.SIGKILL)
        deadline = time.monotonic() + _KILL_S
        while True:
            try:
                pid, status = os.waitpid(container.pid, os.WNOHANG)
            except ChildProcessError:  # the caller has reaped it and not told yet
                pid, status = container.pid, signal.SIGKILL
            if pid:
                self.exited(container, status)
                return
            if time.monotonic() > deadline:
                raise ContainerError(
                    f"container {container.name} does not die", hint=f"see /proc/{container.pid}/stack", where="kill"
                )
            time.sleep(0.001)

    def close(self) -> None:
        """End and remove every container and the session's groups; the first error is raised once all was tried."""
        first: Exception | None = None
        self.starter.readiness.drop()
        with contextlib.suppress(ContainerError):
            self.drop_spares()
        for container in self.list():
            try:
                self.remove(container, force=True)
            except Exception as error:
                first = first or error
        with contextlib.suppress(LabError, OSError):
            self.networks.close()
        if self.cgroups:
            self.cgroups.close()
        with contextlib.suppress(OSError):
            (self.run_dir / "containers").rmdir()
        if first:
            raise first


def _note_start(container: Container, launch: Launch, gate_fd: int) -> None:
    container.status, container.pid, container.gate_fd = "running", launch.pid, gate_fd
    container.started_s, container.wait_status, container.signalled = time.time(), None, None
