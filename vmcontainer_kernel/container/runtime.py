"""The container runtime: create, start, exec, kill, remove — the operations of the OCI runtime specification (runtime.md).

    create ──▶ created ──start──▶ running ──exited──▶ stopped ──remove──▶ (gone)
                                     └─ exec: one more process in it

The caller is a single-threaded process: it is the parent of every container, reaps each one (`os.waitpid`) and tells with `exited`.
`plan` is pure: it turns a `Spec` into steps, which `start` lets the child execute and `explain` prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container import files, linux, namespaces, process, rootfs
from vmcontainer_kernel.container.cgroups import Cgroup, Cgroups
from vmcontainer_kernel.container.images import Image, Store
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
from vmcontainer_kernel.container.spec import Capabilities, Spec, User, parse
from vmcontainer_kernel.container.step import Step
from vmcontainer_kernel.errors import ContainerError, HostError, NotFound, UserError

__all__ = ["Container", "Launch", "Report", "Runtime", "plan", "read_report"]

_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_SETUP_S = 10.0
_KILL_S = 5.0
_FATAL_BY_DEFAULT = frozenset(
    (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
)


@dataclass
class Container:
    """A container of this runtime: what it was made of, and what has become of it.

    `status`: created, running or stopped. `wait_status`: as `os.waitpid` gave it. `signalled`: the signal that `kill` had to turn into
    SIGKILL because PID 1 of a namespace is deaf to signals it has no handler for (pid_namespaces(7)).
    """

    name: str
    id: str
    image: Image
    config: dict[str, Any]
    spec: Spec
    bundle: Path
    steps: list[Step]
    home: str = "/"
    cgroup: Cgroup | None = None
    status: str = "created"
    pid: int = 0
    started_s: float | None = None
    wait_status: int | None = None
    signalled: int | None = None
    gate_fd: int = -1
    layers: list[Path] = field(default_factory=list)


def plan(spec: Spec, bundle: str, layers: tuple[str, ...], groups: dict[str, str], *, tty: bool = False) -> list[Step]:
    """Return every step of the child, in order, without doing anything; `groups`: what to show of the control groups, empty for none."""
    steps = [*namespaces.first_steps(spec), *rootfs.root_steps(spec, bundle, layers)]
    joined = False
    for kind, step in rootfs.mount_steps(spec, groups):
        if kind == "cgroup":
            steps += namespaces.cgroup_steps(spec, grouped=bool(groups))
            joined = True
        steps.append(step)
    if not joined:
        steps += namespaces.cgroup_steps(spec, grouped=bool(groups))
    steps += rootfs.protection_steps(spec)
    steps += namespaces.content_steps(spec)
    return [*steps, *process.identity_steps(spec.process, user_namespace="user" in spec.linux.namespaces, tty=tty)]


def check_name(name: str) -> None:
    """Raise `UserError` if `name` can be no container's: it names a folder, a group and a host."""
    if not name or len(name) > 63 or not _NAME_LETTERS.issuperset(name) or not name[0].isalnum():
        raise UserError(
            f"{name!r} cannot be a container's name",
            hint="letters, digits, '_', '.' and '-', at most 63, a letter or digit first",
        )


class Runtime:
    """The containers of one session on one node.

    `run_dir`: holds ``containers/NAME/{config.json,rootfs,upper,work}``. `cgroups`: None where this process may make none; asking for a
    limit is a `HostError` then. As an ordinary user every container gets a user namespace.
    """

    def __init__(self, run_dir: Path, store: Store, *, session: str, cgroups: Cgroups | None = None) -> None:
        self.run_dir = Path(run_dir)
        self.store = store
        self.session = session
        self.cgroups = cgroups
        self.rootless = os.geteuid() != 0
        self._containers: dict[str, Container] = {}
        if self.rootless:
            # After a change of ids without exec, /proc/PID/uid_map of our children would belong to root (prctl(2), PR_SET_DUMPABLE).
            linux.prctl(linux.PR_SET_DUMPABLE, 1)

    # -- looking

    def get(self, name: str) -> Container:
        """Return a container by name; raise `NotFound` with those there are."""
        try:
            return self._containers[name]
        except KeyError:
            names = ", ".join(sorted(self._containers)) or "none"
            raise NotFound(f"there is no container {name} on this node", hint=f"there are: {names}") from None

    def list(self) -> list[Container]:
        """Return all containers, oldest first."""
        return [*self._containers.values()]

    def state(self, container: Container) -> dict[str, Any]:
        """Return the OCI state (runtime.md, "State")."""
        return {
            "ociVersion": container.config["ociVersion"],
            "id": container.id,
            "status": container.status,
            "pid": container.pid if container.status == "running" else 0,
            "bundle": str(container.bundle),
            "annotations": dict(container.spec.annotations),
        }

    def inspect(self, container: Container) -> dict[str, Any]:
        """Return all that is known of a container: its configuration, state, image, groups, use and exit."""
        return {
            "name": container.name,
            "state": self.state(container),
            "config": container.config,
            "image": {
                "name": container.image.name,
                "digest": container.image.digest,
                "size_bytes": container.image.size_bytes,
            },
            "cgroup": dict(container.cgroup.paths) if container.cgroup else None,
            "stats": self.stats(container),
            "events": self.events(container),
            "started_s": container.started_s,
            "exit_status": None if container.wait_status is None else exit_status(container.wait_status),
        }

    def view(self, container: Container) -> dict[str, Any]:
        """Return the container's part of the kernel view (docs/architecture.md, ``containers[]``)."""
        head = {"name": container.name, "id": container.id, "status": container.status, "pid": container.pid or None}
        return head | {"image": container.image.name, "started_s": container.started_s} | self.stats(container)

    def stats(self, container: Container) -> dict[str, Any]:
        """Return memory, cpu and pids use and limits; None where this node counts none."""
        if container.cgroup is not None:
            with contextlib.suppress(FileNotFoundError):
                return container.cgroup.stats()
        return Cgroup(container.name, {}, {}).stats()

    def events(self, container: Container) -> dict[str, int]:
        """Return how often limits struck: oom_kills, pids_denied."""
        return container.cgroup.events() if container.cgroup else {"oom_kills": 0, "pids_denied": 0}

    def watch(self, container: Container) -> list[int]:
        """Return descriptors that become readable when `events` may have changed; the caller reads and closes them."""
        return container.cgroup.watch() if container.cgroup else []

    # -- creating

    def create(self, name: str, options: Options) -> Container:
        """Check everything, then write the bundle; raise before any effect (`UserError`, `NotFound`, `HostError`, `ImageError`)."""
        if name in self._containers:
            raise UserError(
                f"there is a container {name} already", hint=f"run in it, or remove it first: %container rm {name}"
            )
        container = self._prepare(name, options)
        container.layers = self.store.rootfs_layers(container.image)
        files.remove_tree(container.bundle)  # of an earlier run that was killed
        try:
            for folder in ("rootfs", "upper", "work"):
                (container.bundle / folder).mkdir(parents=True)
            (container.bundle / "upper").chmod(
                0o755
            )  # it is the root folder's mode in the container, whatever our umask
            (container.bundle / "config.json").write_text(json.dumps(container.config, indent=1))
        except OSError as error:
            with contextlib.suppress(OSError):
                files.remove_tree(container.bundle)
            raise HostError(
                f"no bundle could be written: {error.strerror}", hint="is the disk full?", where=str(container.bundle)
            ) from error
        self._containers[name] = container
        return container

    def _prepare(self, name: str, options: Options) -> Container:
        check_name(name)
        image = self.store.resolve(options.image)
        user, home = self.store.find_user(image, options.user) if options.user else _root(image)
        self._check(options, user)
        grouped = None if self.cgroups is None else self.cgroups.path(name)
        owner = (os.geteuid(), os.getegid()) if self.rootless else None
        config = make_config(
            options, image.config, name=name, user=user, home=home, cgroups_path=grouped or "", owner=owner
        )
        spec = self._possible(parse(config), options)
        if self.cgroups:
            self.cgroups.check(spec.linux.resources)
        bundle = self.run_dir / "containers" / name
        layers = tuple(str(path) for path in self.store.layer_paths(image))
        groups = self.cgroups.open(name).shown() if self.cgroups else {}
        steps = plan(spec, str(bundle), layers, groups, tty=options.tty)
        return Container(name, f"{self.session}-{name}", image, config, spec, bundle, steps, home)

    def _check(self, options: Options, user: User) -> None:
        """Refuse what this node cannot keep, before anything is done."""
        total_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        cpus = os.cpu_count() or 1
        if (options.memory_bytes or 0) > total_bytes:
            raise UserError(
                f"memory: {options.memory_bytes} bytes are more than this node has ({total_bytes})",
                hint="ask for less",
                where="memory",
            )
        if (options.cpus or 0) > cpus:
            raise UserError(
                f"cpus: {options.cpus} are more than this node has ({cpus})", hint="ask for less", where="cpus"
            )
        if self.cgroups is None:
            self._refuse_limits(options)
        if self.rootless and (user.uid or user.gid):
            raise HostError(
                f"an ordinary user's container has one user, root, not {options.user}",
                hint="his user namespace maps one id (user_namespaces(7)); run it in a guest: --on vm",
                where="user",
            )
        if "user" in options.without:
            why = (
                "an ordinary user can make the other namespaces only inside one"
                if self.rootless
                else "root's containers have none"
            )
            raise UserError(f"the user namespace cannot be left out: {why}", where="without")

    def _refuse_limits(self, options: Options) -> None:
        limits = {"memory": options.memory_bytes, "cpus": options.cpus, "pids-limit": options.pids_limit}
        asked = [f"--{name}" for name, value in limits.items() if value is not None]
        if asked:
            who = "an ordinary user" if self.rootless else "this process"
            raise HostError(
                f"{' '.join(asked)}: {who} may not make control groups on this node, and limits are kept by them",
                hint="run it in a guest, where you are root: --on vm",
                where="cgroups(7)",
            )

    def _possible(self, spec: Spec, options: Options) -> Spec:
        """Keep of the default capabilities those this process has itself; refuse an added one it lacks."""
        if self.rootless or spec.process.capabilities is None:
            return spec
        held, asked = linux.capabilities_permitted(), spec.process.capabilities
        missing = [name for name in options.cap_add if name != "ALL" and not held >> linux.CAPABILITIES.index(name) & 1]
        if missing:
            hint = "this node was started without it; run it in a guest: --on vm"
            raise HostError(
                f"cap-add: this process has no {' '.join(missing)} to give", hint=hint, where="capabilities(7)"
            )
        masks = (asked.bounding, asked.effective, asked.permitted, asked.inheritable, asked.ambient)
        return replace(spec, process=replace(spec.process, capabilities=Capabilities(*(mask & held for mask in masks))))

    def explain(self, name: str, options: Options) -> list[dict[str, Any]]:
        """Return what `create` and `start` would do, in order: step, call, why, source."""
        container = self._prepare(name, options)
        kinds = tuple(kind for kind in container.spec.linux.namespaces if kind != "cgroup")
        clone = {
            "step": "clone",
            "call": f"clone({namespaces.flag_text(kinds)}|SIGCHLD)",
            "why": "one call makes the process and its namespaces; all further steps are the new process's own",
            "source": "clone(2), namespaces(7)",
        }
        return [clone, *(step.describe() for step in container.steps)]

    # -- running

    def start(self, container: Container, stdio: Stdio, *, controlling_tty: bool = False) -> Launch:
        """Clone the container's first process and return at once; `stdio`: its descriptors 0 to 2; the caller closes its own copies."""
        if container.status == "running":
            raise UserError(f"container {container.name} is running already", hint="run in it, or stop it first")
        if container.status == "stopped":
            self._renew(container)
        steps = container.steps
        if controlling_tty != container.spec.process.terminal:
            steps = self._plan_again(container, tty=controlling_tty)
        launch, gate_fd = clone_child(
            namespaces.clone_flags(container.spec), steps, stdio, lambda pid, go: self._set_up(container, pid, go)
        )
        container.status, container.pid, container.gate_fd = "running", launch.pid, gate_fd
        container.started_s, container.wait_status, container.signalled = time.time(), None, None
        return launch

    def _set_up(self, container: Container, pid: int, go: Any) -> None:
        """Do the parent's part while the child mounts."""
        if "user" in container.spec.linux.namespaces:
            namespaces.write_maps(pid, container.spec.linux)
            go()
        if self.cgroups:
            container.cgroup = self.cgroups.create(container.name, container.spec.linux.resources)
            container.cgroup.add(pid)
            go()

    def _plan_again(self, container: Container, *, tty: bool) -> list[Step]:
        groups = self.cgroups.open(container.name).shown() if self.cgroups else {}
        layers = tuple(str(path) for path in container.layers)
        return plan(container.spec, str(container.bundle), layers, groups, tty=tty)

    def _renew(self, container: Container) -> None:
        """Make an empty work folder: a volatile overlay refuses one that was in use (overlayfs.rst, "Volatile mount")."""
        files.remove_tree(container.bundle / "work")
        (container.bundle / "work").mkdir()

    def exec(
        self, container: Container, options: ExecOptions, stdio: Stdio, *, controlling_tty: bool = False
    ) -> Launch:
        """Start one more process in a running container: same namespaces, same groups, own session and process group."""
        if container.status != "running":
            raise UserError(
                f"container {container.name} is not running, it is {container.status}",
                hint="start it again, or make a new one",
            )
        if not has_executed(container.gate_fd, _SETUP_S):
            raise ContainerError(f"container {container.name} is still being set up", hint="try again", where="exec")
        extra = self._exec_process(container, options)
        # The root of the joined mount namespace is the container's: nothing to mount, only an identity to take on.
        steps = process.identity_steps(
            extra, user_namespace="user" in container.spec.linux.namespaces, tty=controlling_tty
        )
        flags = sum(linux.NAMESPACE_FLAGS[kind] for kind in container.spec.linux.namespaces)
        group = container.cgroup
        return enter_child(flags, container.pid, steps, stdio, lambda: group.add(0) if group else None)

    def _exec_process(self, container: Container, options: ExecOptions) -> Any:
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
                capabilities = replace(capabilities, effective=0, permitted=0)
        env = dict(one.split("=", 1) for one in base.env) | {"HOME": home} | options.env
        return replace(
            base,
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
            _signal(container.pid, signum)  # the end of PID 1 is the end of its pid namespace
            return
        _signal_group(container.pid, signum)
        if "pid" in container.spec.linux.namespaces and signum in _FATAL_BY_DEFAULT and _is_deaf(container.pid, signum):
            container.signalled = signum
            _signal(container.pid, signal.SIGKILL)

    def remove(self, container: Container, *, force: bool = False) -> None:
        """Remove a container: its groups, then its bundle; `force` kills and reaps it first. What fails leaves it listed, to try again."""
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
        _signal(container.pid, signal.SIGKILL)
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


def exit_status(wait_status: int) -> int:
    """Return an exit status as a shell counts: 128 + N for signal N (waitpid(2))."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code


def _root(image: Image) -> tuple[User, str]:
    return User(), "/root"


def _signal(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def _signal_group(pid: int, signum: int) -> None:
    """Signal the process group `pid` leads; before its setsid there is none, and the process itself is signalled."""
    try:
        os.killpg(pid, signum)
    except ProcessLookupError:
        _signal(pid, signum)


def _is_deaf(pid: int, signum: int) -> bool:
    """Tell whether a process neither handles nor ignores a signal (proc_pid_status(5): SigCgt, SigIgn)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = {
        name: int(value, 16)
        for name, _, value in (line.partition(":\t") for line in lines)
        if name in ("SigIgn", "SigCgt")
    }
    return not any(mask >> (signum - 1) & 1 for mask in masks.values())
