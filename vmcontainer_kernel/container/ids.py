"""Which ids the containers of an ordinary user have: his own as root, and the ranges that were set aside for him.

    inside   0        1 … 65536              /etc/subuid, /etc/subgid:  ann:100000:65536
    outside  ann      100000 … 165535        newuidmap(1), newgidmap(1) write the map, and nobody else may

A `Steward` does what only root among these ids may: unpack a layer with several owners, look at and remove what a
container's users have written. It is a process in a user namespace with the same ids, for as long as that takes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal

from vmcontainer_kernel.container import files, linux, mappings
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.spec import IdMapping, Linux
from vmcontainer_kernel.errors import HostError, from_json, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any, NoReturn

__all__ = ["DYNAMIC_IDS", "Ids", "Steward", "own_ids", "read_ranges", "subordinate_ids"]

DYNAMIC_IDS = range(61184, 65520)
"""For users and groups that exist only while a process or a file does (systemd.exec(5), DynamicUser=)."""
_MAX_RANGES = 339  # a map has 340 lines (user_namespaces(7)), and one is the user's own id


class Ids(Record):
    """The maps of a user namespace: ids inside to ids outside."""

    uids: tuple[IdMapping, ...]
    gids: tuple[IdMapping, ...]

    @property
    def several(self) -> bool:
        """Whether there is anybody but root."""
        return len(self.uids) > 1

    def lacks(self, uids: tuple[int, ...], gids: tuple[int, ...]) -> str:
        """Name the first id that is not mapped: ``uid 5``; "" if all are."""
        for kind, wanted, maps in (("uid", uids, self.uids), ("gid", gids, self.gids)):
            for number in wanted:
                if not any(one.container_id <= number < one.container_id + one.size for one in maps):
                    return f"{kind} {number}"
        return ""


def own_ids(uid: int, gid: int) -> Ids:
    """Return the map that every user may write: root inside is himself outside, and there is nobody else."""
    return Ids((IdMapping(0, uid, 1),), (IdMapping(0, gid, 1),))


def read_ranges(text: str, names: tuple[str, ...]) -> list[tuple[int, int]]:
    """Return the ranges (first id, count) that a text like /etc/subuid gives a user, known by `names`: login name or
    number (subuid(5)).
    """
    found = []
    for line in text.splitlines():
        who, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if who in names and first.isdecimal() and count.isdecimal() and int(count):
            found.append((int(first), int(count)))
    return found[:_MAX_RANGES]


def subordinate_ids(uid: int, gid: int, folder: str = "/etc") -> Ids:
    """Return root as the user himself and, from 1 on, the ranges set aside for him; `HostError` if there are none."""
    import pwd

    names: tuple[str, ...] = (str(uid),)
    with contextlib.suppress(KeyError):
        names += (pwd.getpwuid(uid).pw_name,)
    found = [_ranges(f"{folder}/{file}", names) for file in ("subuid", "subgid")]
    return Ids(*(_one_after_the_other(own, ranges) for own, ranges in zip((uid, gid), found, strict=True)))


def _ranges(path: str, names: tuple[str, ...]) -> list[tuple[int, int]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            ranges = read_ranges(stream.read(), names)
    except OSError:
        ranges = []
    if not ranges:
        program = f"usermod --add-{path[-6:]}s"
        raise HostError(
            f"{path} gives {names[-1]} no range", hint=f"root can: {program} 100000-165535 {names[-1]}", where=path
        )
    return ranges


def _one_after_the_other(own: int, ranges: list[tuple[int, int]]) -> tuple[IdMapping, ...]:
    maps, inside = [IdMapping(0, own, 1)], 1
    for first, count in ranges:
        maps.append(IdMapping(inside, first, count))
        inside += count
    return tuple(maps)


class Steward:
    """Does things as root among `ids`; with one id, or none, this process can do them itself."""

    def __init__(self, ids: Ids | None = None) -> None:
        self.ids = ids if ids and ids.several else None
        # The folder of the store for layers that are unpacked with these owners.
        self.layers = f"ids-{self.ids.uids[1].host_id}" if self.ids else "sha256"
        self._namespace_fd = -1

    def do(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, which JSON must be able to say; it runs in a child if it has to."""
        if self.ids is None:
            return work()
        if self._namespace_fd < 0:
            self._namespace_fd = mappings.open_user_namespace(self._config(self.ids))
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                os.close(read_end)
                self._work(work, write_end)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(write_end)
        with open(read_end, "rb") as stream:
            answer = stream.read()
        status = os.waitpid(pid, 0)[1]
        return _read_answer(answer, status)

    def remove_tree(self, path: Path | str) -> None:
        """Remove a folder as `files.remove_tree` does, also where other ids of ours have written to it."""
        try:
            files.remove_tree(path)
        except PermissionError:
            if self.ids is None:
                raise
            self.do(lambda: files.remove_tree(path))

    def enter(self) -> None:
        """Become root among these ids, for good: this process is a child, made for that."""
        if self.ids is not None:
            self._join(mappings.open_user_namespace(self._config(self.ids)))

    def _config(self, ids: Ids) -> Linux:
        return Linux(uid_mappings=ids.uids, gid_mappings=ids.gids)

    def _join(self, namespace_fd: int) -> None:
        linux.setns(namespace_fd, linux.CLONE_NEWUSER)
        os.close(namespace_fd)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of ids clears it (prctl(2))
        self.ids = None  # from here on this process can do it all itself

    def _work(self, work: Callable[[], Any], answer_fd: int) -> NoReturn:
        """Do the work as the last thing of this process, and tell what came of it."""
        try:
            signal.set_wakeup_fd(-1)
            self._join(self._namespace_fd)
            answer = {"found": work()}
        except OSError as error:
            answer = {"errno": error.errno, "text": error.strerror, "path": str(error.filename or "")}
        except BaseException as error:
            answer = {"error": to_json(error)}
        try:
            with open(answer_fd, "wb") as stream:
                stream.write(json.dumps(answer).encode())
        finally:
            os._exit(0)


def _read_answer(data: bytes, status: int) -> Any:
    if not data:
        raise HostError(
            f"the helper among a container's ids ended with wait status {status}",
            hint="is there memory left?",
            where="user_namespaces(7)",
        )
    answer = json.loads(data)
    if "error" in answer:
        raise from_json(answer["error"])
    if "errno" in answer:
        raise OSError(answer["errno"], answer["text"], answer["path"] or None)
    return answer["found"]
