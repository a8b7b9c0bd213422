"""Start one process on this node: fork, wire its descriptors, become the user, exec.

`start` forks. The child reports over a close-on-exec pipe, in the same words as a container's
(`container.launch.read_report`): end of file means that exec succeeded, an error object says why it did not.
`start_plain` has the C library do it without copying page tables (posix_spawn(3)), for what needs nothing more: in an
emulated guest the copies are most of a command's time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import termios

from ..container import jsontext
from ..container.csignal import signal
from ..container.record import Record
from ..container.reports import Launch
from ..errors import NodeError, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["FIRST_FD", "Command", "start", "start_plain"]

FIRST_FD = 10  # the first passed descriptor's number in the child
_SAFE_FD = 500  # our own descriptors are moved out of the way of the numbers promised to the child
# Python and the agent ignore or handle some; exec(2) would pass on what is ignored.
_DEFAULTED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD)


class Command(Record):
    """What to exec: `argv`, environment, folder, `user` as ``uid[:gid]`` or a name, descriptors for FIRST_FD and up;
    `before` is done in the child, when its descriptors are in their places.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    user: str = ""
    fds: Sequence[int] = ()
    tty: bool = False
    before: Callable[[], None] | None = None

    @property
    def plain(self) -> bool:
        """True if it is a program's path with neither user, terminal nor descriptors of its own."""
        return "/" in self.argv[0] and not (self.user or self.tty or self.fds)


def start_plain(command: Command, stdio: tuple[int, int, int]) -> Launch:
    """Start a `plain` command; return when it has become the program, or raise NodeError.

    It outlives an agent that is killed, so it is for a guest, whose agent is PID 1. The folder is changed in this
    process, which has one thread, as posix_spawn(3) of the C library that Python 3.11 knows cannot.
    """
    own = os.getcwd()  # noqa: PTH109 - `pathlib` is imported late: see `guest`
    try:
        _enter(command.cwd)
        pid = os.posix_spawn(
            command.argv[0],
            list(command.argv),
            command.env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULTED,
        )
    except OSError as error:
        raise _start_error(error) from None
    finally:
        os.chdir(own)
    return Launch(pid, -1, "spawned")


def start(command: Command, stdio: tuple[int, int, int]) -> Launch:
    """Fork and exec; return at once. The caller keeps and closes `stdio` and reaps the pid."""
    from ..container import linux  # noqa: F401 - before the fork: a guest's agent has not needed it until now

    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _child(write_end, lambda: _exec(command, stdio))
    os.close(write_end)
    return Launch(pid, read_end)


def _child(report_fd: int, body: Callable[[], None]) -> None:
    """Run `body`, which execs; report why it could not. Never returns."""
    from ..container import linux

    try:
        signal.set_wakeup_fd(-1)  # its number is about to be another descriptor's
        report_fd = linux.duplicate(report_fd, _SAFE_FD)
        body()
    except BaseException as error:
        os.write(report_fd, jsontext.dumps({"error": to_json(_start_error(error))}).encode() + b"\n")
    finally:
        os._exit(126)


def _start_error(error: BaseException) -> NodeError:
    if isinstance(error, NodeError):
        return error
    if isinstance(error, FileNotFoundError):
        name = os.fsdecode(error.filename)
        return NodeError(f"there is no program '{name}' on this node", hint="check the name and PATH")
    return NodeError(f"the program did not start: {error}")


def _exec(command: Command, stdio: tuple[int, int, int]) -> None:
    from ..container import linux

    os.setsid()
    if command.tty:
        fcntl.ioctl(stdio[0], termios.TIOCSCTTY, 0)
    passed = [linux.duplicate(fd, _SAFE_FD) for fd in command.fds]
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)
    for target, fd in enumerate(passed, FIRST_FD):
        os.dup2(fd, target)
    linux.close_range(3, FIRST_FD - 1)
    linux.close_range(FIRST_FD + len(passed), _SAFE_FD - 1)  # those above are close-on-exec
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in _DEFAULTED:
        signal.signal(number, signal.SIG_DFL)
    if command.before:
        command.before()
    _become(command.user)
    _enter(command.cwd)
    # The second net, if the agent itself is killed. A change of ids clears it: prctl(2), PR_SET_PDEATHSIG.
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        os.execvpe(command.argv[0], list(command.argv), dict(command.env))
    except FileNotFoundError:  # its file name is the last place on PATH that was tried
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command.argv[0]) from None


def _enter(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise NodeError(f"the folder {folder} cannot be entered: {error.strerror}", hint="see --workdir") from error


def _become(user: str) -> None:
    if not user:
        return
    name, _, group = user.partition(":")
    try:
        uid, gid = _ids(name, group)
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    except (KeyError, ValueError):
        hint = "write a name of its /etc/passwd, or UID[:GID]"
        raise NodeError(f"there is no user '{user}' on this node", hint=hint) from None
    except OSError as error:
        message = f"the program cannot run as user '{user}': {error.strerror}"
        raise NodeError(message, hint="only root may change ids") from error


def _ids(name: str, group: str) -> tuple[int, int]:
    if name.isdigit():
        return int(name), int(group or name)
    import pwd

    entry = pwd.getpwnam(name)
    return entry.pw_uid, int(group) if group else entry.pw_gid
