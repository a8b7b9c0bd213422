"""One more process in a container that is there already: ``exec``."""

from __future__ import annotations

import os

from vmcontainer_kernel.container import jsontext, linux
from vmcontainer_kernel.container.entering import enter_child
from vmcontainer_kernel.container.oci import groups, guard, log
from vmcontainer_kernel.container.oci.gate import recorded_step
from vmcontainer_kernel.container.oci.lifecycle import find_failure, load_spec, state, status_of
from vmcontainer_kernel.container.oci.state import Folder, Saved
from vmcontainer_kernel.container.parsing import parse_process
from vmcontainer_kernel.container.process import identity_steps
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.seccomp.install import ordered, waiting_for
from vmcontainer_kernel.container.spec import Process, Spec
from vmcontainer_kernel.container.step import Step
from vmcontainer_kernel.errors import SpecError, UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Changes", "execute", "process_of"]


class Changes(Record):
    """What ``exec`` says about its process besides what the container's own has; "" and () are "the same"."""

    args: tuple[str, ...] = ()
    cwd: str = ""
    env: tuple[str, ...] = ()
    user: str = ""
    groups: tuple[int, ...] = ()
    capabilities: tuple[str, ...] = ()
    no_new_privileges: bool = False
    terminal: bool = False


def process_of(folder: Folder, file: str, changes: Changes) -> Process:
    """Return the process to execute: from a file (``--process``), or the container's own, changed."""
    folder.load()  # whether it exists is said before anything else
    if file:
        try:
            with open(file, encoding="utf-8") as stream:
                document = jsontext.loads(stream.read())
        except OSError as error:
            raise UserError(f"no process description: {error.strerror}", where=file) from error
        except ValueError as error:
            raise SpecError(f"this is no JSON document: {error}", where=file) from error
    else:
        document = _changed(jsontext.loads(folder.read("config.json"))["process"], changes)
    return parse_process(document)


def _changed(document: dict[str, Any], changes: Changes) -> dict[str, Any]:
    if not changes.args:
        raise UserError("exec needs a program to execute", hint="exec ID PROGRAM, or --process FILE")
    document |= {"args": list(changes.args), "terminal": changes.terminal}
    document["env"] = [*(document.get("env") or ()), *changes.env]
    if changes.cwd:
        document["cwd"] = changes.cwd
    if changes.user:
        document["user"] = _user(document.get("user") or {}, changes.user)
    if changes.groups:
        document["user"] = dict(document.get("user") or {}) | {"additionalGids": list(changes.groups)}
    if changes.no_new_privileges:
        document["noNewPrivileges"] = True
    if changes.capabilities:
        document["capabilities"] = _capabilities(document.get("capabilities") or {}, changes.capabilities)
    return document


def _user(user: dict[str, Any], text: str) -> dict[str, Any]:
    uid, colon, gid = text.partition(":")
    if not uid.isdecimal() or (colon and not gid.isdecimal()):
        raise UserError(f"--user is UID[:GID] in numbers, not {text!r}")
    return {"uid": int(uid), "gid": int(gid) if colon else user.get("gid", 0)}


def _capabilities(sets: dict[str, Any], more: tuple[str, ...]) -> dict[str, Any]:
    """Add capabilities to all sets but the inheritable one; to the ambient set only where they were inheritable."""
    return sets | {
        name: [*(one for one in sets.get(name) or () if one not in more), *more]
        for name in ("bounding", "effective", "permitted")
    }


def execute(
    folder: Folder, process: Process, *, console_fd: int = -1, preserve_fds: int = 0, ignore_paused: bool = False
) -> int:
    """Start a process in a container and return its pid, once it has become its program."""
    saved = folder.load()
    status = status_of(folder, saved)
    if saved is None or status not in ("created", "running", "paused"):
        raise UserError(f"cannot exec in container {folder.name!r}: it is {status}", hint="start it first")
    if status == "paused" and not ignore_paused:
        raise UserError(f"cannot exec in a paused container: {folder.name!r}", hint="resume it, or use --ignore-paused")
    if process.terminal != (console_fd >= 0):
        raise UserError("a terminal and a console socket go together", hint="--tty with --console-socket")
    spec = load_spec(folder)
    answer = waiting_for(spec.linux.seccomp, lambda: state(folder))
    return _enter(saved, spec, process, console_fd, preserve_fds, answer)


def _enter(
    saved: Saved,
    spec: Spec,
    process: Process,
    console_fd: int,
    preserve_fds: int,
    answer: Callable[[int, int], None] | None,
) -> int:

    def set_up(pid: int, sync_fd: int) -> None:
        if answer:
            answer(pid, sync_fd)
        guard.watch(pid)
        os.write(sync_fd, b"+")

    flags = sum(linux.NAMESPACE_FLAGS[kind] for kind in spec.linux.kinds)
    extra = [console_fd] if console_fd >= 0 else []
    stdio = tuple(range(3 + preserve_fds))
    launch = enter_child(
        flags,
        saved.init.pid,
        _steps(spec, process),
        stdio,
        groups.find(saved.cgroup),
        extra,
        process,
        set_up,
        alive=lambda: saved.init.alive,
    )
    guard.judge(launch.pid)
    data = b""
    while chunk := os.read(launch.report_fd, 65536):
        data += chunk
    os.close(launch.report_fd)
    if error := find_failure(data.decode()):
        os.waitpid(launch.pid, 0)
        raise error
    log.pass_on(data.decode())
    return launch.pid


def _steps(spec: Spec, process: Process) -> list[Step]:
    from vmcontainer_kernel.container.oci.console import terminal_step

    shown = [terminal_step(process, 0, console=False)] if process.terminal else []
    judged, last = ordered(spec.replace(process=process), [recorded_step()])
    identity = identity_steps(
        process,
        user_namespace="user" in spec.linux.kinds,
        tty=process.terminal,
        mortal=False,
        last=last,
        seccomp=judged,
        personality=spec.linux.personality,
    )
    return [*shown, *identity]
