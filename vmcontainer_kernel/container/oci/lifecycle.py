"""The operations of the specification (runtime.md, "Operations"), each for one container.

    create ──▶ created ──start──▶ running ──exited──▶ stopped ──delete──▶ (gone)
       └─ creating                   └─ pause ⇄ resume: paused

Whatever fails, and wherever the runtime is killed: what it had made is found again by the folder (`state`), the pid in
it and the groups, and `delete --force` takes all of it away.
"""

from __future__ import annotations

import os

from vmcontainer_kernel.container import hooks, jsontext
from vmcontainer_kernel.container.birth import adopt, bear
from vmcontainer_kernel.container.csignal import signal
from vmcontainer_kernel.container.launch import Gate
from vmcontainer_kernel.container.oci import gate, groups, guard, log
from vmcontainer_kernel.container.oci.state import Folder, Process, Saved, now
from vmcontainer_kernel.container.parsing import parse
from vmcontainer_kernel.container.planning import finishing, surroundings
from vmcontainer_kernel.container.process import identity_steps
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.reports import Launch
from vmcontainer_kernel.container.seccomp.install import ordered, pass_on
from vmcontainer_kernel.container.spec import Hook, Spec
from vmcontainer_kernel.container.step import Step
from vmcontainer_kernel.errors import ContainerError, HostError, LabError, NotFound, SpecError, UserError, from_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmcontainer_kernel.container.cgroups import Cgroup

__all__ = [
    "Request",
    "create",
    "delete",
    "find_failure",
    "load_spec",
    "pause",
    "resume",
    "send_signal",
    "start",
    "state",
    "status_of",
    "wants_terminal",
]

_SIGKILL = 9
_END_S = 10.0


class Request(Record):
    """What `create` and `run` were told; `console_fd`: a socket for the terminal's master, -1 for none; `preserve_fds`:
    how many descriptors from 3 on the program gets; `gated`: it waits for `start`.
    """

    id: str
    bundle: str
    console_fd: int = -1
    preserve_fds: int = 0
    keyring: bool = True
    gated: bool = True


def load_spec(folder: Folder) -> Spec:
    """Return the configuration a container was made with."""
    return parse(jsontext.loads(folder.read("config.json")), [])  # its warnings were told when it was made


def _read_config(bundle: str) -> tuple[str, Spec]:
    path = f"{bundle}/config.json"
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except OSError as error:
        raise UserError(
            f"no configuration: {error.strerror}", hint="--bundle names a folder with config.json", where=path
        ) from error
    try:
        warnings: list[str] = []
        spec = parse(jsontext.loads(text), warnings)
        for warning in warnings:
            log.warn(warning)
        return text, spec
    except (ValueError, RecursionError) as error:
        raise SpecError(f"config.json is no JSON document: {error}", where=path) from error


def wants_terminal(bundle: str) -> bool:
    """Tell whether the configuration of a bundle asks for a terminal; what is wrong with it is `create`'s to say."""
    try:
        with open(f"{bundle}/config.json", encoding="utf-8") as stream:
            return bool(jsontext.loads(stream.read())["process"]["terminal"])
    except (OSError, ValueError, LookupError, TypeError):
        return False


# -- create


def create(root: str, request: Request) -> int:
    """Make a container and return its pid; its process waits, or, if not `gated`, is the program."""
    bundle = os.path.realpath(request.bundle)
    text, spec = _read_config(bundle)
    _check(spec, bundle, request)
    saved = Saved(
        id=request.id,
        bundle=bundle,
        created=now(),
        owner=os.geteuid(),
        maker=Process.look(os.getpid()),
    )
    with Folder.make(root, request.id) as folder:
        try:
            saved = saved.replace(cgroup=groups.path_of(spec, request.id))
            folder.save(saved)
            folder.write("config.json", text)
            pid = _launch(folder, saved, spec, request)
            if not request.gated:
                _run_poststart(folder, spec.hooks.poststart, bundle)
        except BaseException:
            saved = folder.load() or saved
            _end(saved)
            _tidy(folder, saved)
            raise
    return pid


def _run_poststart(folder: Folder, wanted: tuple[Hook, ...], bundle: str) -> None:
    if wanted:
        hooks.run(wanted, "poststart", jsontext.dumps(state(folder)).encode(), _folder_of_hooks(bundle))


def _run_poststop(folder: Folder, wanted: tuple[Hook, ...], bundle: str) -> None:
    """Run the hooks of the end; that one fails is a warning, and the next one runs (runtime.md, "Lifecycle")."""
    if wanted:
        text = jsontext.dumps(state(folder) | {"status": "stopped"}).encode()
        for error in hooks.run_all(wanted, "poststop", text, _folder_of_hooks(bundle)):
            log.warn(log.describe(error))


def _folder_of_hooks(bundle: str) -> str:
    return bundle if os.path.isdir(bundle) else "/"


def _check(spec: Spec, bundle: str, request: Request) -> None:
    root = os.path.join(bundle, spec.root.path)
    if not os.path.isdir(root):
        raise UserError("the root of the container is no folder", hint="root.path names it", where=root)
    if spec.process.terminal and request.console_fd < 0:
        raise UserError("a terminal needs one who shows it", hint="give --console-socket", where="process.terminal")
    if request.console_fd >= 0 and not spec.process.terminal:
        raise UserError("a console socket is given, but process.terminal is false", where="process.terminal")


def _launch(folder: Folder, saved: Saved, spec: Spec, request: Request) -> int:
    group = groups.wanted(saved.cgroup, spec.linux.resources)
    extra = list(gate.make_gate(folder.path)) if request.gated else []
    steps = _steps(spec, saved.bundle, group, request)
    extra += [request.console_fd] if request.console_fd >= 0 else []
    born_inside = group is not None and group.has_version_2
    if group and born_inside:
        groups.make(group)
    group_fd = group.open_for_birth() if group and born_inside else -1

    def set_up(pid: int, go: Gate) -> None:
        """Do the parent's part while the child mounts."""
        nonlocal saved
        saved = saved.replace(init=Process.look(pid))
        folder.save(saved)
        if group:
            if not born_inside:
                groups.make(group)
            adopt(spec, group, pid)
            go()
        hooks.answer(spec.hooks, go, lambda: state(folder), saved.bundle)
        pass_on(spec.linux.seccomp, lambda: state(folder), pid, go.fd)
        if not request.gated:
            guard.watch(pid)
        go()

    stdio = tuple(range(3 + request.preserve_fds))
    try:
        launch, sync_fd = bear(spec, saved.bundle, steps, stdio, set_up, group_fd=group_fd, extra=extra)
    finally:
        for fd in (*extra, group_fd):
            if fd >= 0:
                os.close(fd)
    os.close(sync_fd)
    guard.judge(launch.pid)
    _await_set_up(launch, gated=request.gated)
    folder.save(saved.replace(complete=True))
    return launch.pid


def _steps(spec: Spec, bundle: str, group: Cgroup | None, request: Request) -> list[Step]:
    gated = gate.gate_steps(spec.process, 0) if request.gated else []
    shown = []
    if request.console_fd >= 0:
        from vmcontainer_kernel.container.oci.console import terminal_step

        shown.append(terminal_step(spec.process, len(gated)))
    judged, last = ordered(spec, [gate.recorded_step(), *gated, *hooks.start_steps(spec.hooks)])
    identity = identity_steps(
        spec.process,
        user_namespace="user" in spec.linux.kinds,
        tty=spec.process.terminal,
        keyring=request.keyring,
        mortal=False,
        last=last,
        seccomp=judged,
        personality=spec.linux.personality,
    )
    return [*surroundings(spec, bundle, (), group), *shown, *finishing(spec), *identity]


def _await_set_up(launch: Launch, *, gated: bool) -> None:
    """Read the child's report until it waits at the gate, or its pipe closes as it becomes the program."""
    data = b""
    while chunk := os.read(launch.report_fd, 65536):
        data += chunk
        if gated and data.endswith(gate.CREATED.encode()):
            break
    os.close(launch.report_fd)
    report = data.decode()
    if error := find_failure(report):
        raise error
    log.pass_on(report)
    if gated and not data.endswith(gate.CREATED.encode()):
        raise ContainerError(
            "the container's process was killed while it was set up", hint="is the memory limit too small?"
        )


def find_failure(report: str) -> LabError | None:
    """Return the error in a child's report, if there is one."""
    for line in report.splitlines():
        if line.startswith('{"error"'):
            return from_json(jsontext.loads(line)["error"])
    return None


# -- start, kill, pause


def start(folder: Folder) -> None:
    """Let a created container run its program; raise if the program could not be executed.

    If a hook fails, too, and then the container is stopped (runtime.md, "Lifecycle"); it is left for `delete`, as those
    who called `start` will call it.
    """
    with folder:
        saved = folder.load()
        status = folder.status(saved)
        if saved is None or status != "created":
            raise UserError(f"container {folder.name!r} cannot be started: it is {status}, not created")
        gate_fd = folder.open_gate()
        if gate_fd >= 0:
            gate.open_gate(gate_fd, saved.init.pid)
            os.close(gate_fd)
        if error := find_failure(folder.read("failed")):
            raise error
        try:
            _run_poststart(folder, load_spec(folder).hooks.poststart, saved.bundle)
        except BaseException:
            _end(saved)
            raise


def send_signal(folder: Folder, signum: int, *, everything: bool) -> None:
    """Signal a container's first process, or all of its processes; a `UserError` if it is neither created nor running.

    The specification wants an error for a stopped container; with `everything`, what is left in its group is signalled.
    """
    saved = folder.load()
    status = folder.status(saved)
    group = groups.find(saved.cgroup) if saved else None
    if saved is None or (status not in ("created", "running") and not everything):
        raise UserError(f"container not running: {folder.name!r} is {status}")
    if everything and group:
        group.kill() if signum == _SIGKILL else group.signal(signum)
    if saved.init.alive:
        _signal(saved.init, signum)
    if signum == _SIGKILL and group:
        groups.thaw(group)  # a frozen version 1 task takes its SIGKILL only when thawed


def _signal(process: Process, signum: int) -> None:
    """Signal a process that cannot be another one: its descriptor is opened before it is looked at again."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if process.alive:
            signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def pause(folder: Folder) -> None:
    """Freeze every process of a container."""
    with folder:
        _freezer_of(folder, "pause", ("created", "running")).freeze()


def resume(folder: Folder) -> None:
    """Let the processes of a paused container go on."""
    with folder:
        _freezer_of(folder, "resume", ("paused",)).thaw()


def _freezer_of(folder: Folder, verb: str, allowed: tuple[str, ...]) -> Cgroup:
    saved = folder.load()
    status = status_of(folder, saved)
    if saved is None or status not in allowed:
        raise UserError(f"container {folder.name!r} cannot {verb}: it is {status}")
    group = groups.find(saved.cgroup)
    if group is None:
        raise HostError("the container has no control group, so it cannot be paused")
    return group


def status_of(folder: Folder, saved: Saved | None) -> str:
    """Return the status as the command line tells it: the specification's, and paused."""
    status = folder.status(saved)
    if saved and saved.cgroup and status in ("created", "running"):
        group = groups.find(saved.cgroup)
        return "paused" if group and group.is_frozen() else status
    return status


def state(folder: Folder) -> dict[str, Any]:
    """Return the state (runtime.md, "State"), with the fields runc adds."""
    saved = folder.load()
    if saved is None:
        return {"ociVersion": "1.2.0", "id": folder.name, "status": "stopped", "pid": 0, "bundle": ""}
    document = jsontext.loads(folder.read("config.json") or "{}")
    status = status_of(folder, saved)
    root = (document.get("root") or {}).get("path", "rootfs")
    return {
        "ociVersion": "1.2.0",
        "id": saved.id,
        "pid": 0 if status == "stopped" else saved.init.pid,
        "status": status,
        "bundle": saved.bundle,
        "rootfs": os.path.join(saved.bundle, root),
        "created": saved.created,
        "annotations": document.get("annotations") or {},
        "owner": str(saved.owner),
    }


# -- delete


def delete(folder: Folder, *, force: bool) -> None:
    """Remove a stopped container and what was made for it; with `force` any container, whatever is left of it.

    With `force` it is no error if there is none, as callers clean up after a `create` that failed.
    """
    try:
        with folder:
            saved = folder.load()
            status = status_of(folder, saved)
            if status != "stopped" and not force:
                raise UserError(
                    f"cannot delete container {folder.name!r} that is not stopped: {status}",
                    hint="kill it first, or use --force",
                )
            if saved:
                _end(saved)
            _tidy(folder, saved)
    except NotFound:
        if not force:
            raise


def _end(saved: Saved) -> None:
    """End every process of a container and wait for the first."""
    import select

    group = groups.find(saved.cgroup)
    if group:
        group.kill()
    try:
        pidfd = os.pidfd_open(saved.init.pid) if saved.init.pid else -1
    except ProcessLookupError:
        return
    if pidfd < 0:
        return
    if saved.init.alive:
        _signal(saved.init, _SIGKILL)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(_END_S * 1000):
            raise ContainerError("the container's process does not die of SIGKILL", where=f"/proc/{saved.init.pid}")
    os.close(pidfd)


def _tidy(folder: Folder, saved: Saved | None) -> None:
    group = groups.find(saved.cgroup) if saved else None
    if group:
        group.remove()
    if saved and (wanted := _stop_hooks(folder)):
        _run_poststop(folder, wanted, saved.bundle)
    folder.remove()


def _stop_hooks(folder: Folder) -> tuple[Hook, ...]:
    """Return the hooks for the end; none if the configuration was not even written or read."""
    try:
        return load_spec(folder).hooks.poststop
    except (LabError, ValueError):
        return ()
