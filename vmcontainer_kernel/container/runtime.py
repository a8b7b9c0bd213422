"""The container runtime: create, start, exec, kill, remove — the operations of the OCI runtime specification
(runtime.md).

    create ──▶ created ──start──▶ running ──exited──▶ stopped ──remove──▶ (gone)
                                     └─ exec: one more process in it

The caller is a single-threaded process: it is the parent of every container, reaps each one (`os.waitpid`) and tells
with `exited`. `plan` is pure: it turns a `Spec` into steps, which `start` lets the child execute and `explain` prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container import container as observed
from vmcontainer_kernel.container import files, linux, namespaces, process, signals, spares
from vmcontainer_kernel.container.cgroups import Cgroups
from vmcontainer_kernel.container.checks import check_name, check_options, possible
from vmcontainer_kernel.container.container import Container
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.launch import (
    Launch,
    Report,
    Stdio,
    clone_child,
    enter_child,
    has_executed,
    read_report,
)
from vmcontainer_kernel.container.options import ExecOptions, Options, make_config
from vmcontainer_kernel.container.parsing import parse
from vmcontainer_kernel.container.planning import plan, surroundings
from vmcontainer_kernel.container.spares import Spare
from vmcontainer_kernel.container.spec import Process, User
from vmcontainer_kernel.container.step import Step
from vmcontainer_kernel.errors import ContainerError, HostError, NotFound, UserError

__all__ = ["Container", "Launch", "Report", "Runtime", "plan", "read_report"]

_SETUP_S = 10.0
_KILL_S = 5.0


class Runtime:
    """The containers of one session on one node.

    `run_dir`: holds ``containers/NAME/{config.json,rootfs,upper,work}``. `cgroups`: None where this process may make
    none; asking for a limit is a `HostError` then. As an ordinary user every container gets a user namespace.
    """

    def __init__(self, run_dir: Path, store: Store, *, session: str, cgroups: Cgroups | None = None) -> None:
        self.run_dir = Path(run_dir)
        self.store = store
        self.session = session
        self.cgroups = cgroups
        self.rootless = os.geteuid() != 0
        self.spare: Spare | None = None
        self._containers: dict[str, Container] = {}
        if self.rootless:
            # After a change of ids without exec, /proc/PID/uid_map of our children would belong to root (prctl(2),
            # PR_SET_DUMPABLE).
            linux.prctl(linux.PR_SET_DUMPABLE, 1)

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

    def view(self, container: Container) -> dict[str, Any]:
        """Return the container's part of the kernel view (docs/architecture.md, ``containers[]``)."""
        return observed.view(container)

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
        container = self._prepare(name, options)
        self._write_bundle(container)
        self._containers[name] = container
        return container

    def _write_bundle(self, container: Container) -> None:
        container.layers = self.store.rootfs_layers(container.image)
        files.remove_tree(container.bundle)  # of an earlier run that was killed
        try:
            for folder in ("rootfs", "upper", "work"):
                (container.bundle / folder).mkdir(parents=True)
            (container.bundle / "upper").chmod(
                0o755
            )  # it is the root folder's mode in the container, whatever our umask
            (container.bundle / "config.json").write_text(json.dumps(container.config))
        except OSError as error:
            with contextlib.suppress(OSError):
                files.remove_tree(container.bundle)
            raise HostError(
                f"no bundle could be written: {error.strerror}", hint="is the disk full?", where=str(container.bundle)
            ) from error

    def _prepare(self, name: str, options: Options) -> Container:
        check_name(name)
        image = self.store.resolve(options.image)
        wanted = options.user or (image.config.get("config") or {}).get("User") or ""
        user, home = self.store.find_user(image, str(wanted)) if wanted else (User(), "/root")
        check_options(options, user, grouped=self.cgroups is not None, rootless=self.rootless)
        grouped = None if self.cgroups is None else self.cgroups.path(name)
        owner = (os.geteuid(), os.getegid()) if self.rootless else None
        config = make_config(
            options, image.config, name=name, user=user, home=home, cgroups_path=grouped or "", owner=owner
        )
        spec = possible(parse(config), options, rootless=self.rootless)
        if self.cgroups:
            self.cgroups.check(spec.linux.resources)
        bundle = self.run_dir / "containers" / name
        layers = tuple(str(path) for path in self.store.layer_paths(image))
        group = self.cgroups.open(name) if self.cgroups else None
        steps = plan(spec, str(bundle), layers, group, tty=options.tty)
        return Container(name, f"{self.session}-{name}", image, config, spec, bundle, steps, home, group)

    def explain(self, name: str, options: Options) -> Sequence[dict[str, Any]]:
        """Return what `create` and `start` would do, in order: step, call, why, source."""
        container = self._prepare(name, options)
        kinds = tuple(kind for kind in container.spec.linux.kinds if kind != "cgroup")
        clone = {
            "step": "clone",
            "call": f"clone({namespaces.flag_text(kinds)}|SIGCHLD)",
            "why": "one call makes the process and its namespaces; all further steps are the new process's own",
            "source": "clone(2), namespaces(7)",
        }
        return [clone, *(step.describe() for step in container.steps)]

    # -- running

    def start(self, container: Container, stdio: Stdio, *, controlling_tty: bool = False) -> Launch:
        """Clone the container's first process and return at once; `stdio`: its descriptors 0 to 2; the caller closes
        its own copies.
        """
        if container.status == "running":
            raise UserError(f"container {container.name} is running already", hint="run in it, or stop it first")
        if container.status == "stopped":
            self._renew(container)
        steps: Sequence[Step] = container.steps
        if controlling_tty != container.spec.process.terminal:
            steps = self._plan_again(container, tty=controlling_tty)
        launch, gate_fd = self._clone(container, steps, stdio)
        _note_start(container, launch, gate_fd)
        return launch

    def make_spare(self, name: str, shape: Options) -> None:
        """Make a container ahead, for the next request of this `spares.shape_of`; its process waits."""
        self.drop_spare()
        container = self._prepare(name, replace(shape, argv=("true",)))
        self._write_bundle(container)
        spec, layers = container.spec, tuple(str(path) for path in container.layers)
        waiting = spares.waiting_step(spec.process, user_namespace="user" in spec.linux.kinds)
        steps = [*surroundings(spec, str(container.bundle), layers, container.cgroup), waiting]
        null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            launch, gate_fd = self._clone(container, steps, (null_fd, null_fd, null_fd))
        finally:
            os.close(null_fd)
        self.spare = Spare(shape, container, launch, gate_fd)

    def take_spare(self, options: Options, stdio: Stdio) -> tuple[Container, Launch] | None:
        """Start a program in the spare, if there is one that fits; raises as `create` does."""
        spare = self.spare
        if spare is None or spare.shape != spares.shape_of(options) or not options.argv:
            return None
        container = self._prepare(spare.container.name, options)
        if container.image.digest != spare.container.image.digest or not spare.alive:
            self.drop_spare()
            return None
        container.layers = spare.container.layers
        if container.cgroup:
            container.cgroup.limit(container.spec.linux.resources)
        if not spare.tell(container.spec.process, stdio):
            self.drop_spare()
            return None
        self.spare = None
        self._containers[container.name] = container
        _note_start(container, spare.launch, spare.gate_fd)
        (container.bundle / "config.json").write_text(json.dumps(container.config))
        return container, spare.launch

    def drop_spare(self) -> None:
        """End the spare, if there is one, and remove what is around it."""
        spare, self.spare = self.spare, None
        if spare:
            spare.close()
            spare.container.status, spare.container.pid = "running", spare.launch.pid
            self.remove(spare.container, force=True)

    def _clone(self, container: Container, steps: Sequence[Step], stdio: Stdio) -> tuple[Launch, int]:
        flags, group = namespaces.clone_flags(container.spec), container.cgroup
        born_inside = group is not None and group.has_version_2
        if born_inside:
            self._make_group(container)
        group_fd = group.open_for_birth() if group and born_inside else -1

        def set_up(pid: int, go: Callable[[], None]) -> None:
            """Do the parent's part while the child mounts."""
            if "user" in container.spec.linux.kinds:
                namespaces.write_maps(pid, container.spec.linux)
                go()
            if group:
                if not born_inside:
                    self._make_group(container)
                go()

        try:
            return clone_child(flags, steps, stdio, group_fd, set_up)
        finally:
            if group_fd >= 0:
                os.close(group_fd)

    def _make_group(self, container: Container) -> None:
        if self.cgroups:
            self.cgroups.create(container.name, container.spec.linux.resources)

    def _plan_again(self, container: Container, *, tty: bool) -> Sequence[Step]:
        layers = tuple(str(path) for path in container.layers)
        return plan(container.spec, str(container.bundle), layers, container.cgroup, tty=tty)

    def _renew(self, container: Container) -> None:
        """Make a new group, as `kill` forbids forks in the old one, and an empty work folder: a volatile overlay
        refuses one that was in use (overlayfs.rst, "Volatile mount").
        """
        if container.cgroup:
            container.cgroup.remove()
        files.remove_tree(container.bundle / "work")
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
                hint="start it again, or make a new one",
            )
        if not has_executed(container.gate_fd, _SETUP_S):
            raise ContainerError(f"container {container.name} is still being set up", hint="try again", where="exec")
        extra = self._exec_process(container, options)
        # The root of the joined mount namespace is the container's: nothing to mount, only an identity to take on.
        steps = process.identity_steps(extra, user_namespace="user" in container.spec.linux.kinds, tty=controlling_tty)
        flags = sum(linux.NAMESPACE_FLAGS[kind] for kind in container.spec.linux.kinds)
        return enter_child(flags, container.pid, steps, stdio, container.cgroup)

    def _exec_process(self, container: Container, options: ExecOptions) -> Process:
        base = container.spec.process
        user, home = base.user, container.home
        capabilities = base.capabilities
        if options.user:
            user, home = self.store.find_user(container.image, options.user)
            if self.rootless and (user.uid or user.gid):
                raise HostError(
                    "an ordinary user's container has one user, root", hint="run it in a guest: --on vm", where="user"
                )
            if user.uid and capabilities is not None:
                capabilities = capabilities.replace(effective=0, permitted=0)
        env = dict(one.split("=", 1) for one in base.env) | {"HOME": home} | options.env
        return base.replace(
            args=options.argv,
            env=tuple(f"{key}={value}" for key, value in env.items()),
            cwd=options.workdir or base.cwd,
            user=user,
            capabilities=capabilities,
        )

    def exited(self, container: Container, wait_status: int) -> None:
        """Take note that the caller has reaped the container's first process."""
        container.status, container.wait_status = "stopped", wait_status
        if container.gate_fd >= 0:
            os.close(container.gate_fd)
            container.gate_fd = -1

    # -- ending

    def kill(self, container: Container, signum: int, *, everything: bool = False) -> None:
        """Send a signal to the first process's group, or to every process of the container."""
        if container.status != "running":
            raise UserError(f"container {container.name} is not running, it is {container.status}")
        if everything and container.cgroup:
            container.cgroup.kill() if signum == signal.SIGKILL else container.cgroup.signal(signum)
        if everything and not container.cgroup and signum == signal.SIGKILL:
            signals.to_process(container.pid, signum)  # the end of PID 1 is the end of its pid namespace
            return
        signals.to_group(container.pid, signum)
        mortal = "pid" in container.spec.linux.kinds and signum in signals.FATAL_BY_DEFAULT
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
        files.remove_tree(container.bundle)
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
        with contextlib.suppress(ContainerError):
            self.drop_spare()
        for container in self.list():
            try:
                self.remove(container, force=True)
            except Exception as error:
                first = first or error
        if self.cgroups:
            self.cgroups.close()
        with contextlib.suppress(OSError):
            (self.run_dir / "containers").rmdir()
        if first:
            raise first


def _note_start(container: Container, launch: Launch, gate_fd: int) -> None:
    container.status, container.pid, container.gate_fd = "running", launch.pid, gate_fd
    container.started_s, container.wait_status, container.signalled = time.time(), None, None
