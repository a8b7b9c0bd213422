"""Whether this user can make containers here, found out by making one, in a child that is gone a moment later.

    this process                      child, first of its pid namespace
      clone(CLONE_NEWUSER|…) ──────────▶ waits
      write the maps (newuidmap) ──"+"──▶ root; setgroups; tmpfs, overlay, pivot_root, /proc, /sys, devices, owners
                          ◀── {"failed": "", "bound": []} ──

The order and the calls are the engine's own. The caller is a process without threads (unshare(2), EINVAL).
"""

# Plain system calls, as in the engine itself.

from __future__ import annotations

import errno
import gc
import json
import os
import select
import signal

from vmcontainer_kernel.container import linux, mappings
from vmcontainer_kernel.container.circumstances import remembered
from vmcontainer_kernel.container.ids import Ids, own_ids, subordinate_ids
from vmcontainer_kernel.container.ladder import BOUND, GUEST, ID_RANGES, ONE_ID, ROOT, Footing
from vmcontainer_kernel.container.overlay import overlay_data
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.spec import Linux
from vmcontainer_kernel.errors import LabError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any, NoReturn

__all__ = ["FOOTING_FILE", "Outcome", "climb", "find_footing", "try_out"]

FOOTING_FILE = "ladder.json"
"""Where the answer is kept, in the cache's folder for probes."""

_LIMIT_S = 2.0
_STAGE = "/tmp"  # every system has it; what is mounted there is seen only in the child's mount namespace
_NO_RIGHTS = "no_new_privs is set, so newuidmap(1) has no rights to give"
_KINDS = ("user", "mount", "pid", "network", "ipc", "uts")


class Outcome(Record):
    """What became of a trial: the first step that failed ("" if none), and what is the node's own: /proc, /sys."""

    failed: str = ""
    bound: tuple[str, ...] = ()


def find_footing(probes: Path) -> Footing:
    """Return where this process stands, tried once since this computer started with the same rights; `probes`: the
    folder that keeps it. Root is not tried: what he cannot do he is told by the step that fails.
    """
    if os.geteuid() == 0:
        return Footing()
    return Footing.from_json(remembered(probes / FOOTING_FILE, lambda: climb().to_json()))


def climb() -> Footing:
    """Find the highest rung that holds; takes some 20 ms for each trial."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        outcome = try_out(None)
        return Footing(GUEST.name, why=((ROOT.name, outcome.failed),)) if outcome.failed else Footing()
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # after a change of ids /proc/PID/uid_map would belong to root
    why = [(ROOT.name, f"uid {uid} is not root")]
    try:
        ids = subordinate_ids(uid, gid)
        outcome = try_out(ids)
        reason = outcome.failed
    except LabError as error:
        reason = error.message
    if reason:
        why.append((ID_RANGES.name, reason))
        ids = own_ids(uid, gid)
        outcome = try_out(ids)
    return _footing(ids, outcome, why)


def _footing(ids: Ids, outcome: Outcome, why: list[tuple[str, str]]) -> Footing:
    if outcome.failed:
        rungs = [one.name for one in (ONE_ID, BOUND)]
        return Footing(GUEST.name, None, (), (*why, *((name, outcome.failed) for name in rungs)))
    if "/proc" not in outcome.bound:
        return Footing(ID_RANGES.name if ids.several else ONE_ID.name, ids, outcome.bound, tuple(why))
    covered = "no fresh /proc may be mounted where this node's own is covered in parts"
    tried = {name for name, _ in why}
    why += [(one.name, covered) for one in (ID_RANGES, ONE_ID) if one.name not in tried]
    return Footing(BOUND.name, ids, outcome.bound, tuple(why))


def try_out(ids: Ids | None) -> Outcome:
    """Make a container in a child, with these ids in a user namespace; None: without one, as root."""
    answer_r, answer_w = os.pipe2(os.O_CLOEXEC)
    wait_r, wait_w = os.pipe2(os.O_CLOEXEC)
    pid = 0
    try:
        pid = linux.clone(sum(linux.NAMESPACE_FLAGS[kind] for kind in _KINDS if ids or kind != "user"))
        if pid == 0:
            os.close(wait_w)
            _be_tried(ids, wait_r, answer_w)
        os.close(answer_w)
        answer_w = -1
        if ids:
            mappings.write_maps(pid, Linux(uid_mappings=ids.uids, gid_mappings=ids.gids))
        os.write(wait_w, b"+")
        return _hear(answer_r)
    except OSError as error:
        return Outcome(f"new namespaces: {_reason(error)}")
    except LabError as error:
        return Outcome(_NO_RIGHTS if _is_powerless() else f"map the ids: {error.message}")
    finally:
        for fd in (answer_r, wait_r, wait_w, *([answer_w] if answer_w >= 0 else [])):
            os.close(fd)
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _hear(fd: int) -> Outcome:
    data, poller = b"", select.poll()
    poller.register(fd, select.POLLIN)
    while poller.poll(_LIMIT_S * 1000):
        more = os.read(fd, 65536)
        if not more:
            break
        data += more
    if not data:
        return Outcome("the trial did not answer")
    told = json.loads(data)
    return Outcome(told["failed"], tuple(told["bound"]))


def _is_powerless() -> bool:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as stream:
        return "NoNewPrivs:\t1" in stream.read()


def _reason(error: OSError) -> str:
    return f"{os.strerror(error.errno or 0)} ({errno.errorcode.get(error.errno or 0, '?')})"


# -- in the child


class _StepFailed(Exception):
    """The text is what the user reads."""


def _do(step: str, call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except OSError as error:
        raise _StepFailed(f"{step}: {_reason(error)}") from None


def _be_tried(ids: Ids | None, wait_fd: int, answer_fd: int) -> NoReturn:
    told: dict[str, Any] = {"failed": "", "bound": []}
    try:
        gc.disable()
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.read(wait_fd, 1) != b"+":  # the maps could not be written
            os._exit(1)
        _set_up(ids, told["bound"])
    except _StepFailed as failure:
        told["failed"] = str(failure)
    except BaseException as error:
        told["failed"] = f"{type(error).__name__}: {error}"
    try:
        os.write(answer_fd, json.dumps(told).encode())
    finally:
        os._exit(0)


def _set_up(ids: Ids | None, bound: list[str]) -> None:
    if ids:
        _do("become root", _become_root)
    if ids is None or ids.several:
        _do("setgroups", os.setgroups, [1])
    _do("make / private", linux.mount, None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    flags = linux.OPEN_TREE_CLONE | linux.AT_RECURSIVE
    nodes = {path: _do(f"copy {path}", linux.open_tree, linux.AT_FDCWD, path, flags) for path in ("/proc", "/sys")}
    null = _do("copy /dev/null", linux.open_tree, linux.AT_FDCWD, "/dev/null")
    _do("new cgroup namespace", linux.unshare, linux.CLONE_NEWCGROUP)
    _make_root(in_user_namespace=ids is not None)
    for path, kind, options in (("/proc", "proc", 0), ("/sys", "sysfs", linux.MS_RDONLY)):
        _do(f"make {path}", os.mkdir, path)
        if not _mount_fresh(kind, path, options, nodes[path]):
            bound.append(path)
    _do("make /null", lambda: os.close(os.open("/null", os.O_CREAT)))
    _do("bind a device", lambda: linux.move_mount(null, os.open("/null", os.O_PATH)))
    _do("detach the old root", linux.umount, "/", linux.MNT_DETACH)
    _do("host name", linux.sethostname, "trial")  # Ubuntu 24.04 lets unshare(2) succeed and takes the capabilities
    if ids is None or ids.several:
        _do("give a file to another user", os.chown, "/file", 1, 1)


def _become_root() -> None:
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _make_root(*, in_user_namespace: bool) -> None:
    _do("mount a tmpfs", linux.mount, "tmpfs", _STAGE, "tmpfs")
    for name in ("lower", "upper", "work", "root"):
        _do(f"make {name}", os.mkdir, f"{_STAGE}/{name}")
    layers = (f"{_STAGE}/lower",)
    data = overlay_data(layers, f"{_STAGE}/upper", f"{_STAGE}/work", user_namespace=in_user_namespace)
    _do("mount an overlay", linux.mount, "overlay", f"{_STAGE}/root", "overlay", linux.MS_NODEV, data)
    _do("enter the overlay", os.chdir, f"{_STAGE}/root")
    _do("write to the overlay", lambda: os.close(os.open("file", os.O_CREAT)))
    _do("pivot_root", linux.pivot_root, ".", ".")


def _mount_fresh(kind: str, path: str, options: int, node: int) -> bool:
    """Mount a fresh procfs or sysfs, or bind the node's own: the kernel refuses what would show more than is shown
    already (fs/namespace.c, mount_too_revealing).
    """
    safe = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    try:
        linux.mount(kind, path, kind, safe | options)
    except PermissionError:
        _do(f"bind the node's {path}", lambda: linux.move_mount(node, os.open(path, os.O_PATH)))
        return False
    except OSError as error:
        raise _StepFailed(f"mount a fresh {path}: {_reason(error)}") from None
    return True
