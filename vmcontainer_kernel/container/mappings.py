"""Ids of a user namespace: who in it is whom on the node, written by its parent (user_namespaces(7)).

Root writes any mapping. An ordinary user may map only itself; for ranges there are set-user-ID programs, newuidmap(1)
and newgidmap(1), which look up in /etc/subuid and /etc/subgid which ids it was given.
"""

from __future__ import annotations

import os

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.spec import IdMapping, Linux
from vmcontainer_kernel.errors import ContainerError, HostError

__all__ = ["has_own_id_only", "map_text", "open_user_namespace", "write_maps"]


def map_text(mappings: tuple[IdMapping, ...]) -> str:
    """Return mappings as the kernel reads them: a line each of first id inside, first id outside, count."""
    return "".join(f"{one.container_id} {one.host_id} {one.size}\n" for one in mappings)


def has_own_id_only(mappings: tuple[IdMapping, ...], own: int) -> bool:
    """Tell whether a mapping is one that an ordinary user with the id `own` may write itself."""
    return len(mappings) == 1 and mappings[0].host_id == own and mappings[0].size == 1


def write_maps(pid: int, config: Linux) -> None:
    """Give the user namespace of a process its ids; the caller is the parent."""
    uids, gids = config.uid_mappings, config.gid_mappings
    if os.geteuid() == 0:
        _write(pid, "uid_map", map_text(uids))
        _write(pid, "gid_map", map_text(gids))
        return
    helpers: list[tuple[str, int, int]] = []
    failures: list[HostError] = []
    try:
        if has_own_id_only(gids, os.getegid()):
            # First: with setgroups a member of a group that is denied something could drop the group (CVE-2014-8989).
            _write(pid, "setgroups", "deny")
            _write(pid, "gid_map", map_text(gids))
        else:
            helpers.append(_begin("newgidmap", pid, gids))
        if has_own_id_only(uids, os.geteuid()):
            _write(pid, "uid_map", map_text(uids))
        else:
            helpers.append(_begin("newuidmap", pid, uids))
    finally:
        failures += [failed for helper in helpers if (failed := _end(*helper))]
    if failures:
        raise failures[0]


def _write(pid: int, name: str, text: str) -> None:
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise ContainerError(
            f"the kernel does not take {' '.join(text.split())} for {name}: {error.strerror}",
            hint="ranges must not overlap, and their ids must exist in this process's own user namespace",
            where=f"linux.{name[:3]}Mappings",
        ) from None
    finally:
        os.close(fd)


def _begin(program: str, pid: int, mappings: tuple[IdMapping, ...]) -> tuple[str, int, int]:
    """Let a set-user-ID program write a mapping; return its name, its pid, and where it says what is wrong."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    arguments = [program, str(pid), *map_text(mappings).split()]
    actions = [(os.POSIX_SPAWN_DUP2, write_end, 1), (os.POSIX_SPAWN_DUP2, write_end, 2)]
    try:
        child = os.posix_spawnp(program, arguments, {"PATH": os.environ.get("PATH", "/usr/bin")}, file_actions=actions)
    except FileNotFoundError:
        os.close(read_end)
        raise HostError(
            f"an ordinary user's ranges of ids need {program}, and it is not installed",
            hint="install the package uidmap, or use one id, or a guest: --on vm",
            where=program,
        ) from None
    finally:
        os.close(write_end)
    return program, child, read_end


def _end(program: str, child: int, read_end: int) -> HostError | None:
    """Wait for it, and return what it had to say as an error."""
    with open(read_end, "rb") as stream:
        said = stream.read(4096).decode(errors="replace").strip()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        return None
    hint = f"see /etc/sub{program[3:6]}: it says which ids a user may map"
    return HostError(f"{program} does not map these ids: {said}", hint=hint, where=program)


def open_user_namespace(config: Linux) -> int:
    """Return a user namespace with these mappings; it lives as long as the descriptor."""
    ready_r, ready_w = os.pipe2(os.O_CLOEXEC)
    wait_r, wait_w = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(wait_w)
            linux.unshare(linux.CLONE_NEWUSER)
            os.write(ready_w, b"+")
            os.read(wait_r, 1)
        finally:
            os._exit(0)
    try:
        os.close(ready_w)
        os.close(wait_r)
        if os.read(ready_r, 1) != b"+":
            raise HostError("this node allows no more user namespaces", hint="see /proc/sys/user/max_user_namespaces")
        write_maps(pid, config)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_r)
        os.close(wait_w)
        os.waitpid(pid, 0)
