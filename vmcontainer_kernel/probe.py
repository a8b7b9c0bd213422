"""What this kernel lets this user do, found out by doing it, in children that are gone a moment later.

    explore() ──exec──▶ python -S -m vmcontainer_kernel.probe ──fork──▶ user-namespaces ─┐
                                                              ──fork──▶ mount            ├─▶ {name: "" or what failed}
                                                              ──fork──▶ …                ┘
    find_footing() ──exec──▶ … ladder ──▶ container.trial.climb

Nothing else tells the truth. Ubuntu 24.04 lets ``unshare`` succeed and then takes the capabilities away, a Kubernetes
pod allows all but a fresh /proc, Docker's seccomp profile forbids what every sysctl allows. The children come from a
program of their own, as a notebook's process has threads and may not enter a user namespace (unshare(2), EINVAL).
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .container import linux
from .container.cgroups import Cgroups
from .container.circumstances import remembered
from .container.ladder import Footing
from .container.spec import Cpu, Memory, Resources
from .container.trial import FOOTING_FILE, climb
from .errors import HostError
from .paths import cache_dir

__all__ = ["PROBES", "explore", "find_footing", "footing"]

# It takes 0.1 s; a busy computer must not look like one that forbids everything.
LIMIT_S = 3.0
# A mount point that every system has. What is mounted on it is seen only inside the child's mount namespace.
STAGE = "/tmp"


def explore() -> dict[str, str]:
    """Run all probes and return for each its failure in words, empty if it went well; takes at most `LIMIT_S`.

    Raises HostError if the probing program itself fails.
    """
    found: dict[str, str] = _ask()
    return found


def _ask(*arguments: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-S", "-m", __name__, *arguments]
    try:
        done = subprocess.run(
            command,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"the kernel could not be probed: {error}") from error
    if done.returncode:
        last = (done.stderr.splitlines() or ["it said nothing"])[-1]
        raise HostError(f"the kernel could not be probed: status {done.returncode}", where=last)
    return json.loads(done.stdout)


def footing() -> Footing:
    """Return the rung of the ladder this user stands on here, tried once since this computer started with the same
    rights (`circumstances.remembered`).
    """
    return Footing.from_json(remembered(cache_dir("probes") / FOOTING_FILE, lambda: find_footing().to_json()))


def find_footing() -> Footing:
    """Try the rungs of the ladder now. Raises HostError if the probing program itself fails."""
    return Footing.from_json(_ask("ladder"))


class _StepFailed(Exception):
    """A step of a probe failed; the text is what the user reads."""


def _do(step: str, call: Callable[..., Any], *arguments: Any) -> None:
    try:
        call(*arguments)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise _StepFailed(f"{step}: {reason} ({errno.errorcode.get(error.errno or 0, '?')})") from None


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _do("new user namespace", linux.unshare, linux.CLONE_NEWUSER)
    # user_namespaces(7): without privileges setgroups(2) must be given up before the group map is written.
    _do("give up setgroups", Path("/proc/self/setgroups").write_text, "deny")
    _do("map the user", Path("/proc/self/uid_map").write_text, f"0 {uid} 1")
    _do("map the group", Path("/proc/self/gid_map").write_text, f"0 {gid} 1")


def _user_namespaces() -> None:
    _enter_user_namespace()
    _do("new host name namespace inside it", linux.unshare, linux.CLONE_NEWUTS)
    # The proof: unshare(2) may succeed and leave no capability, as AppArmor does on Ubuntu 24.04.
    _do("use a capability inside it", linux.sethostname, "probe")


def _enter_mount_namespace() -> None:
    if os.geteuid() != 0:
        _enter_user_namespace()
    _do("new mount namespace", linux.unshare, linux.CLONE_NEWNS)
    _do("make / private", linux.mount, None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    _do("mount a tmpfs", linux.mount, "tmpfs", STAGE, "tmpfs")


def _overlay() -> None:
    _enter_mount_namespace()
    for name in ("lower", "upper", "work", "merged"):
        Path(STAGE, name).mkdir()
    data = f"lowerdir={STAGE}/lower,upperdir={STAGE}/upper,workdir={STAGE}/work"
    _do("mount an overlay", linux.mount, "overlay", f"{STAGE}/merged", "overlay", 0, data)
    _do("write to the overlay", Path(STAGE, "merged", "file").write_text, "probe")


def _cgroups() -> None:
    groups = Cgroups.detect(f"probe-{os.getpid()}")
    if groups is None:
        raise _StepFailed(Cgroups.missing_reason())
    try:
        groups.create("probe", Resources(Memory(32 << 20), Cpu(quota_us=50_000), pids_limit=16))
    except OSError as error:
        raise _StepFailed(f"make a group with limits: {error.strerror} ({error.filename})") from None
    except (HostError, KeyError) as error:
        raise _StepFailed(f"make a group with limits: {str(error).splitlines()[0]}") from None


def _remove_groups(pid: int) -> None:
    groups = Cgroups.detect(f"probe-{pid}")
    if groups:
        groups.close()


PROBES: dict[str, Callable[[], None]] = {
    "user-namespaces": _user_namespaces,
    "mount": _enter_mount_namespace,
    "overlay": _overlay,
    "cgroups": _cgroups,
}
"""Check name of ``doctor`` → what is done in the child."""


def _report(probe: Callable[[], None]) -> None:
    """Run a probe as the last thing of this process: the failure goes to standard output."""
    status = 1
    try:
        probe()
        status = 0
    except _StepFailed as failure:
        os.write(1, str(failure).encode())
    except BaseException as error:
        os.write(1, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(status)


def _run(name: str, probe: Callable[[], None]) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(1)
        os.dup2(writer, 1)
        os.close(reader)
        _report(probe)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        text = stream.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if name == "cgroups":
        _remove_groups(child)
    return text or ("" if status == 0 else f"the probe ended with wait status {status}")


def main() -> None:
    """Print what each probe found, or with ``ladder`` the rung that holds, as one JSON object."""
    if os.geteuid() != 0:
        # After a change of ids /proc/self/uid_map would belong to root (prctl(2), PR_SET_DUMPABLE).
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
    if sys.argv[1:] == ["ladder"]:
        print(json.dumps(climb().to_json()))
    else:
        print(json.dumps({name: _run(name, probe) for name, probe in PROBES.items()}))


if __name__ == "__main__":
    main()
