"""Who the process is, and the last steps before it becomes the user's program: session, ids, capabilities, descriptors,
exec.

The order matters: the bounding set can be cut only while CAP_SETPCAP is held, ids can change only while CAP_SETUID is
held, and a change of ids clears the parent-death signal and may clear capabilities (prctl(2), capabilities(7)).
"""

# Plain system calls: a path object costs a forked child copied pages, and hides which call it is.
# ruff: noqa: PTH109, PTH110, PTH113

from __future__ import annotations

import errno
import os
import select

from vmcontainer_kernel.container import linux, rights, scheduling
from vmcontainer_kernel.container.csignal import signal
from vmcontainer_kernel.container.light import partial
from vmcontainer_kernel.container.spec import Personality, Process, User
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "CANNOT_RUN",
    "NOT_FOUND",
    "SETUP_FAILED",
    "check_program",
    "identity_steps",
    "placed",
    "program_steps",
    "reset_signals",
    "rights_steps",
    "signals_to_reset",
    "take_descriptors",
]

SETUP_FAILED, CANNOT_RUN, NOT_FOUND = 125, 126, 127
"""Exit statuses as docker-run(1) has them: set-up failed; the program cannot be run; there is no such program."""

_FIRST_FREE_FD = 10


def take_descriptors(stdio: tuple[int, ...], *others: int) -> list[int]:
    """Put stdio at 0 and up, and `others` above them, close-on-exec; close everything else; return the new numbers of
    `others`.

    Everything is copied out of the way first: any of them may sit at a number that another one has to take.
    """
    copies = [linux.duplicate(fd, _FIRST_FREE_FD) for fd in (*stdio, *others)]
    for number, copy in enumerate(copies):
        os.dup2(copy, number, inheritable=number < len(stdio))
    linux.close_range(len(copies))
    return list(range(len(stdio), len(copies)))


def signals_to_reset() -> list[int]:
    """Return the signals this process handles or ignores; asked in the parent, as each look would cost the child a
    copied page.
    """
    default = (signal.SIG_DFL, None)
    return [number for number in range(1, signal.SIGRTMIN) if signal.getsignal(number) not in default]


def reset_signals(numbers: Iterable[int]) -> None:
    """Give signals their default action and block none: ignored signals and the mask would survive exec (signal(7))."""
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def identity_steps(
    process: Process,
    *,
    user_namespace: bool,
    tty: bool,
    keyring: bool = True,
    mortal: bool = True,
    last: Sequence[Step] = (),
    seccomp: Sequence[Step] = (),
    personality: Personality | None = None,
) -> list[Step]:
    """Return the steps from set-up process to user's program; the last one does not return.

    `tty`: descriptor 0 is a terminal to be controlled by; `keyring`: a new session keyring; `mortal`: it ends with its
    parent; `last`: done with all rights already given up, just before the program. `seccomp`: the filter judges the
    steps after it, too, so it comes as late as can be; but without no_new_privs only CAP_SYS_ADMIN may load one, so
    then it comes before the ids and capabilities change (seccomp(2)).
    """
    early, late = placed(process, seccomp)
    given_up = rights_steps(
        process,
        user_namespace=user_namespace,
        tty=tty,
        keyring=keyring,
        mortal=mortal,
        seccomp=early,
        personality=personality,
    )
    return [*given_up, *program_steps(process, last, late)]


def placed(process: Process, seccomp: Sequence[Step]) -> tuple[Sequence[Step], Sequence[Step]]:
    """Return the filter's steps by their place: (among the rights, just before the program)."""
    return ((), seccomp) if process.no_new_privileges else (seccomp, ())


def rights_steps(
    process: Process,
    *,
    user_namespace: bool,
    tty: bool,
    keyring: bool = True,
    mortal: bool = True,
    seccomp: Sequence[Step] = (),
    personality: Personality | None = None,
) -> list[Step]:
    """Return the steps that give up rights: what they do does not depend on the program."""
    asked, given = process.capabilities, process.capabilities
    if asked is not None:
        given = rights.granted(asked, 2**64 - 1 if user_namespace else linux.capabilities_permitted())
    steps = [_session_step(process, tty=tty, keyring=keyring), *_scheduling_steps(process, personality)]
    if not user_namespace:
        steps.append(_hidden_step())
    if asked is not None and given is not None:
        steps += [rights.lacking_step(asked, given)] if given != asked else []
        steps.append(rights.bounding_step(given))
    steps += seccomp
    steps.append(_ids_step(process, user_namespace=user_namespace))
    if given is not None:
        steps.append(rights.capability_step(given))
    if process.no_new_privileges:
        steps.append(rights.no_new_privs_step())
    if mortal:
        steps.append(_death_step())
    return steps


def program_steps(process: Process, last: Sequence[Step] = (), seccomp: Sequence[Step] = ()) -> list[Step]:
    """Return the steps that make the process the user's program."""
    return [_cwd_step(process.cwd), *last, _descriptor_step(), *seccomp, _exec_step(process)]


def _hidden_step() -> Step:
    return Step(
        "hidden",
        "prctl(PR_SET_DUMPABLE, 0)",
        "with fewer rights it could be traced by whom it shares its pid namespace with, and is still the runtime:"
        " its memory and /proc/PID/exe are not for containers (CVE-2019-5736); execve undoes it",
        "ptrace(2), prctl(2)",
        lambda _: linux.prctl(linux.PR_SET_DUMPABLE, 0),
    )


def _scheduling_steps(process: Process, personality: Personality | None) -> list[Step]:
    """Return what needs rights that are given up soon after."""
    steps = []
    if personality:
        steps.append(scheduling.personality_step(personality))
    if process.scheduler:
        steps.append(scheduling.scheduler_step(process.scheduler))
    if process.io_priority:
        steps.append(scheduling.io_priority_step(process.io_priority))
    if process.rlimits:
        steps.append(rights.rlimit_step(process.rlimits))
    return steps


def _session_step(process: Process, *, tty: bool, keyring: bool) -> Step:
    size = process.console_size if tty else None
    return Step(
        "session",
        "setsid()"
        + ("; keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)" if keyring else "")
        + ("; ioctl(0, TIOCSCTTY)" if tty else "")
        + (f"; ioctl(0, TIOCSWINSZ, {size[0]}, {size[1]})" if size else ""),
        "its own session: no terminal of the node to type into (CVE-2017-5226), no keys, one group for interrupts",
        "setsid(2), keyctl(2)",
        partial(_session, tty=tty, keyring=keyring, size=size),
    )


def _session(_: Scene, *, tty: bool, keyring: bool, size: tuple[int, int] | None) -> None:
    os.setsid()
    if keyring:
        linux.join_session_keyring()
    if tty:
        linux.set_controlling_tty(0)
    if size:
        linux.set_window_size(0, *size)


def _ids_step(process: Process, *, user_namespace: bool) -> Step:
    user, keep = process.user, process.capabilities is not None and process.capabilities.permitted != 0
    return Step(
        "ids",
        f"setgroups({list(user.additional_gids)}); setresgid({user.gid}); setresuid({user.uid}); "
        f"umask({_umask(user):#o})",
        "who the program is",
        "credentials(7)",
        partial(_become, user, user_namespace=user_namespace, keep=keep),
    )


def _umask(user: User) -> int:
    return 0o022 if user.umask is None else user.umask


def _become(user: User, _: Scene, *, user_namespace: bool, keep: bool) -> None:
    try:
        _set_ids(user, user_namespace=user_namespace, keep=keep)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        ids = ":".join(map(str, (user.uid, user.gid, *user.additional_gids)))
        raise ContainerError(
            f"process.user: not all of {ids} exist in the container's user namespace",
            hint="see linux.uidMappings and gidMappings",
            where="process.user",
        ) from None
    os.umask(_umask(user))


def _set_ids(user: User, *, user_namespace: bool, keep: bool) -> None:
    try:
        os.setgroups(user.additional_gids)
    except PermissionError:
        # One user's own namespace: he may not drop his groups (CVE-2014-8989), so it has them still.
        if not user_namespace or user.additional_gids:
            raise
    if keep and user.uid:
        linux.prctl(linux.PR_SET_KEEPCAPS, 1)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def _death_step() -> Step:
    return Step(
        "parent death",
        "prctl(PR_SET_PDEATHSIG, SIGKILL)",
        "if the agent dies, so does this process; set after the ids, whose change clears it",
        "prctl(2)",
        _die_with_parent,
    )


def _die_with_parent(scene: Scene) -> None:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before: then nobody holds the other end of the report pipe.
    poller = select.poll()
    poller.register(scene.report_fd, 0)
    if any(event & select.POLLERR for _, event in poller.poll(0)):
        os._exit(SETUP_FAILED)


def _cwd_step(path: str) -> Step:
    return Step(
        "cwd",
        f'chdir("{path}")',
        "as the user it runs as, and checked to be inside: a folder of the node has no path here (CVE-2024-21626)",
        "getcwd(3)",
        partial(_enter, path),
    )


def _enter(path: str, _: Scene) -> None:
    try:
        os.chdir(path)
        os.getcwd()
    except FileNotFoundError as error:
        raise ContainerError(
            f"there is no folder {path} in the container", hint="see --workdir", where="cwd"
        ) from error


def _descriptor_step() -> Step:
    return Step(
        "descriptors",
        "close_range(…, ~0)",
        "the program gets stdin, stdout, stderr and nothing of the agent's (CVE-2024-21626)",
        "close_range(2)",
        _close_descriptors,
    )


def _close_descriptors(scene: Scene) -> None:
    # The last one before is close-on-exec: the parent sees it close when the program begins.
    linux.close_range(max(scene.report_fd, scene.sync_fd, *scene.extra) + 1)


def _exec_step(process: Process) -> Step:
    return Step(
        "exec",
        f"execve({process.args[0]!r}, {list(process.args)!r})",
        "the set-up process becomes the program; its pid stays",
        "execve(2)",
        partial(_exec, process),
    )


def _exec(process: Process, scene: Scene) -> None:
    """Run the program; the report must be out before, as its pipe closes with a successful execve."""
    scene.ready()
    environment = dict(one.split("=", 1) for one in process.env)
    name, denied = process.args[0], False
    for path in _candidates(process):
        try:
            os.execve(path, process.args, environment)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.isfile(path):
                raise _no_interpreter(path) from None
        except PermissionError:
            denied = True
        except OSError as error:
            raise _cannot_run(path, error) from None
    raise _no_program(name, denied=denied)


def _candidates(process: Process) -> list[str]:
    """Return the paths at which the program may be, in the order of its own PATH."""
    name = process.args[0]
    path = next((one[5:] for one in process.env if one.startswith("PATH=")), "")
    return [name] if "/" in name else [f"{folder}/{name}" if folder else name for folder in path.split(":")]


def check_program(process: Process) -> None:
    """Raise what `_exec` would if there is no such program or it may not be run, without running it."""
    found = [path for path in _candidates(process) if os.path.exists(path)]
    if not any(os.path.isfile(path) and os.access(path, os.X_OK) for path in found):
        raise _no_program(process.args[0], denied=bool(found))


def _no_program(name: str, *, denied: bool) -> ContainerError:
    if denied:
        return _cannot_run(name, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return ContainerError(
        f"no such program {name} in the image", hint="ls /bin shows what there is", where="exec: ENOENT"
    )


def _no_interpreter(path: str) -> ContainerError:
    return ContainerError(
        f"{path} is in the image, but the program that has to run it is not",
        hint="its first line (#!) or its dynamic loader names a file the image lacks",
        where="exec: ENOENT",
    )


def _cannot_run(path: str, error: OSError) -> ContainerError:
    hints = {
        errno.EACCES: f"it must be a file that is executable: chmod +x {path}",
        errno.ENOEXEC: "it is no program for this kind of machine, and has no #! line",
        errno.E2BIG: "arguments and environment are longer than execve(2) takes",
    }
    name = errno.errorcode.get(error.errno or 0, "?")
    return ContainerError(
        f"{path} cannot be run: {error.strerror}", hint=hints.get(error.errno or 0, ""), where=f"exec: {name}"
    )
