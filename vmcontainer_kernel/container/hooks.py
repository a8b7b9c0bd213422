"""Hooks: programs that the specification lets run at six points of a container's life (config.md, "POSIX-platform
Hooks").

    create ── prestart, createRuntime ──── in the node's namespaces, run by the parent ┐  before pivot_root, when all
           └─ createContainer ──────────── in the container's, run by its first process┘  else is set up
    start ─── startContainer ───────────── in the container's, of its own root, just before the program
           └─ poststart ────────────────── in the node's, once the program runs
    delete ── poststop ─────────────────── in the node's

Each gets the container's state as JSON on its standard input. One that fails ends the container; a poststop hook, which
comes after its end, is told about (runtime.md, "Lifecycle"; up to 1.2.0 it wanted a warning only for poststart, too).
"""

from __future__ import annotations

import os
import select

from vmcontainer_kernel.container import jsontext, linux, rootfs
from vmcontainer_kernel.container.csignal import signal
from vmcontainer_kernel.container.light import partial
from vmcontainer_kernel.container.spec import Hook, Hooks
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError, LabError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmcontainer_kernel.container.launch import Gate

__all__ = ["answer", "create_steps", "run", "run_all", "start_steps"]

_SAID_BYTES = 2000
_CANNOT_RUN = 127


def answer(hooks: Hooks, gate: Gate, state: Callable[[], dict[str, Any]], bundle: str) -> None:
    """Do the parent's part of a container's set-up: wait for the child, run the node's hooks, tell it the state.

    Nothing if there is nothing to run. `state` is asked when it is needed (runtime.md, "State"; status "creating").
    """
    if not _asks(hooks) or not gate.wait():
        return
    text = jsontext.dumps(state()).encode()
    for where, group in (("prestart", hooks.prestart), ("createRuntime", hooks.create_runtime)):
        run(group, where, text, bundle)
    gate(len(text).to_bytes(4, "big") + text)


def _asks(hooks: Hooks) -> bool:
    return bool(hooks.prestart or hooks.create_runtime or hooks.create_container or hooks.start_container)


def create_steps(hooks: Hooks, bundle: str) -> list[Step]:
    """Return the child's steps at the point where a container is made and its root not yet changed."""
    if not _asks(hooks):
        return []
    ask = Step(
        "runtime hooks",
        "; ".join(f'execve("{one.path}")' for one in (*hooks.prestart, *hooks.create_runtime)) or "read(sync)",
        "the parent runs these in the node's namespaces; it knows our pid there, and tells us the state",
        "config.md, createRuntime Hooks",
        lambda scene: scene.ask_parent(),
    )
    if not (hooks.prestart or hooks.create_runtime or hooks.create_container):
        return [ask]
    steps = [rootfs.return_step(), ask]
    if hooks.create_container:
        steps.append(_hook_step("createContainer", hooks.create_container, bundle))
    return [*steps, rootfs.pivot_step()]


def start_steps(hooks: Hooks) -> list[Step]:
    """Return the step that runs the hooks of the container's own root, just before the program."""
    return [_hook_step("startContainer", hooks.start_container, "/")] if hooks.start_container else []


def _hook_step(where: str, hooks: tuple[Hook, ...], cwd: str) -> Step:
    return Step(
        f"{where} hooks",
        "; ".join(f'fork(), execve("{one.path}")' for one in hooks),
        "asked for: programs that finish the set-up from within the container's namespaces",
        f"config.md, {where} Hooks",
        partial(_run_inside, where, hooks, cwd),
    )


def _run_inside(where: str, hooks: tuple[Hook, ...], cwd: str, scene: Scene) -> None:
    state = scene.state
    if where == "startContainer":
        state = jsontext.dumps({**jsontext.loads(state.decode()), "status": "created"}).encode()
    run(hooks, where, state, cwd)


def run(hooks: tuple[Hook, ...], where: str, state: bytes, cwd: str) -> None:
    """Run hooks one after the other; raise `ContainerError` if one fails, and run no more."""
    for index, one in enumerate(hooks):
        _run(one, f"hooks.{where}[{index}]", state, cwd)


def run_all(hooks: tuple[Hook, ...], where: str, state: bytes, cwd: str) -> list[LabError]:
    """Run hooks one after the other, whether they fail or not; return the errors (poststop)."""
    errors: list[LabError] = []
    for index, one in enumerate(hooks):
        try:
            _run(one, f"hooks.{where}[{index}]", state, cwd)
        except LabError as error:
            errors.append(error)
    return errors


def _run(hook: Hook, where: str, state: bytes, cwd: str) -> None:
    """Run one and wait. Files in memory are its standard input and output: no pipe to fill up or to break."""
    given, said = os.memfd_create("state"), os.memfd_create("said")
    try:
        os.write(given, state)
        os.lseek(given, 0, os.SEEK_SET)
        pid = os.fork()
        if pid == 0:
            _become(hook, (given, said, said), cwd)
        status = _wait(pid, hook.timeout_s)
        if status != 0:
            text = os.pread(said, _SAID_BYTES, max(os.fstat(said).st_size - _SAID_BYTES, 0)).decode(errors="replace")
            raise _failure(hook, where, status, text.strip())
    finally:
        os.close(given)
        os.close(said)


def _become(hook: Hook, stdio: tuple[int, ...], cwd: str) -> None:
    try:
        os.setsid()
        for target, fd in enumerate(stdio):
            os.dup2(fd, target)
        linux.close_range(len(stdio))
        os.chdir(cwd)
        environment = dict(one.split("=", 1) for one in hook.env)
        os.execve(hook.path, hook.args or (hook.path,), environment)
    except OSError as error:
        os.write(2, f"{hook.path}: {error.strerror}\n".encode())
    finally:
        os._exit(_CANNOT_RUN)


def _wait(pid: int, timeout_s: int | None) -> int | None:
    """Return the exit status, or None if the time was over first and the hook's session was killed."""
    pidfd = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    ended = bool(poller.poll(None if timeout_s is None else timeout_s * 1000))
    os.close(pidfd)
    if not ended:
        os.killpg(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if ended else None


def _failure(hook: Hook, where: str, status: int | None, said: str) -> ContainerError:
    how = f"took longer than {hook.timeout_s} s" if status is None else f"ended with status {status}"
    return ContainerError(f"{where}: {hook.path} {how}" + (f": {said}" if said else ""), where=where)
