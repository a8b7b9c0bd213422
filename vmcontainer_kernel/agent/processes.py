"""The processes of a kernel as rows: whose each is, by what numbers it is known, in which namespaces it lives.

    each look     stat of every process ──▶ state, parent, time, memory
    when new      status, cmdline, eight links ──▶ kept until the process runs another program, or for eight looks

A row costs one small file at rest. Of a crowd, `MAX_PROCESSES` have rows, and `RENEWED` of these are read again at each
look, in turns: 2 000 processes cost no more than these.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

from .proc import PROC, inode_of, names_in, read_fields, read_text

__all__ = ["MAX_PROCESSES", "NAMESPACES", "RENEWED", "Processes", "assign_roles", "descendants", "process"]

NAMESPACES: Final = ("pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time")
MAX_PROCESSES: Final = 300
RENEWED: Final = 64
_KEPT_LOOKS: Final = 8

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
# Fields of proc_pid_stat(5), counted from the third on: the second, the name, may hold anything.
_STATE, _PPID, _UTIME, _STIME, _THREADS, _START, _RSS, _ARGUMENTS = 0, 1, 11, 12, 17, 19, 21, 45

Row = dict[str, Any]
Key = tuple[str, str, str]


def _stat(pid: int, proc: str) -> tuple[str, list[str]]:
    """Return a process's name and its fields from the third on; none of a process that is gone."""
    text = read_text(f"{proc}/{pid}/stat")
    end = text.rfind(")")
    fields = text[end + 1 :].split()
    return text[text.find("(") + 1 : end], fields if len(fields) > _RSS else []


def _key(comm: str, stat: Sequence[str]) -> Key:
    """Return what changes when the number goes to another process, or the process runs another program: execve(2) puts
    the arguments elsewhere, at random.
    """
    return stat[_START], comm, stat[_ARGUMENTS] if len(stat) > _ARGUMENTS else ""


def _fixed(pid: int, comm: str, proc: str) -> Row:
    """Return what seldom changes of a row."""
    folder = f"{proc}/{pid}"
    status = read_fields(f"{folder}/status")
    command = read_text(f"{folder}/cmdline").replace("\0", " ").strip()
    return {
        "pid": pid,
        "pids": [int(one) for one in status.get("NSpid", str(pid)).split()],
        "ppid": 0,
        "comm": comm,
        "command": command[:300],
        "state": "",
        "uid": int(status.get("Uid", "0").split()[0]),
        "cpu_s": 0.0,
        "rss_bytes": 0,
        "threads": 1,
        "started_s": 0.0,
        "namespaces": {kind: inode_of(f"{folder}/ns/{kind}") for kind in NAMESPACES},
    }


def _renew(row: Row, stat: Sequence[str]) -> None:
    row["state"], row["ppid"] = stat[_STATE], int(stat[_PPID])
    row["cpu_s"] = round((int(stat[_UTIME]) + int(stat[_STIME])) / _TICKS, 2)
    row["rss_bytes"], row["threads"] = int(stat[_RSS]) * _PAGE, int(stat[_THREADS])
    row["started_s"] = round(int(stat[_START]) / _TICKS, 2)


def process(pid: int, proc: str = PROC) -> Row | None:
    """Return one row of `processes`, or None if the process is gone."""
    comm, stat = _stat(pid, proc)
    if not stat:
        return None
    row = _fixed(pid, comm, proc)
    _renew(row, stat)
    return row


class _Kept:
    """A row as last read."""

    __slots__ = ("key", "look", "row")

    def __init__(self, key: Key, row: Row, look: int) -> None:
        self.key, self.row, self.look = key, row, look


class Processes:
    """Rows that are kept from look to look."""

    def __init__(self, proc: str = PROC) -> None:
        self._proc = proc
        self._kept: dict[int, _Kept] = {}
        self._look = 0
        self._next = 0

    def rows(self, pids: Iterable[int], *, fresh: bool = False) -> list[Row]:
        """Return the rows of the processes that are still there, of at most `MAX_PROCESSES`, each to be changed freely.

        `fresh`: read all of each again, as who looks once has nothing to wait for.
        """
        chosen = list(dict.fromkeys(pids))[:MAX_PROCESSES]
        self._look += 1
        self._kept = {pid: self._kept[pid] for pid in chosen if pid in self._kept}
        for pid in chosen if fresh else self._due(chosen):
            self._read(pid, fresh=fresh)
        return [dict(self._kept[pid].row) for pid in chosen if pid in self._kept]

    def _due(self, chosen: list[int]) -> list[int]:
        """Return whom to read at this look: all, or of a crowd the new ones and the next in turn."""
        if len(chosen) <= RENEWED:
            return chosen
        new = [pid for pid in chosen if pid not in self._kept][:RENEWED]
        start, count = self._next % len(chosen), RENEWED - len(new)
        self._next = start + count
        return [*new, *[pid for pid in (chosen[start:] + chosen[:start])[:count] if pid not in new]]

    def _read(self, pid: int, *, fresh: bool) -> None:
        comm, stat = _stat(pid, self._proc)
        if not stat:
            self._kept.pop(pid, None)
            return
        key, kept = _key(comm, stat), self._kept.get(pid)
        # Ids and namespaces can change without another program (setuid(2), unshare(2)): seen after a while.
        if fresh or kept is None or kept.key != key or self._look - kept.look >= _KEPT_LOOKS + pid % _KEPT_LOOKS:
            kept = self._kept[pid] = _Kept(key, _fixed(pid, comm, self._proc), self._look)
        _renew(kept.row, stat)


def descendants(pid: int, proc: str = PROC, *, most: int | None = None, leaves: Iterable[int] = ()) -> list[int]:
    """Return `pid` and every process below it, nearest first (proc_pid_task_children(5)).

    `most`: stop when so many are found; `leaves`: processes below which nobody looks.
    """
    found, closed = [pid], frozenset(leaves)
    for one in found:
        if most is not None and len(found) >= most:
            break
        for task in names_in(f"{proc}/{one}/task") if one not in closed else ():
            found += [int(child) for child in read_text(f"{proc}/{one}/task/{task}/children").split()]
    return found


def assign_roles(rows: list[Row], firsts: dict[int, str], agent_pid: int, machines: set[int]) -> None:
    """Say of each process what it is to us: a container's descendants belong to the container.

    A process that was started by exec is the agent's child, so it is known by the pid namespace it shares.
    """
    spaces = {row["namespaces"]["pid"]: firsts[row["pid"]] for row in rows if row["pid"] in firsts}
    agent_space = next((row["namespaces"]["pid"] for row in rows if row["pid"] == agent_pid), None)
    for shared in (agent_space, None):  # with the node; or not to be read by this user
        spaces.pop(shared, None)
    parents = {row["pid"]: row["ppid"] for row in rows}
    for row in rows:
        owner = spaces.get(row["namespaces"]["pid"]) or _first_above(row["pid"], parents, firsts)
        row["container"] = owner
        if row["pid"] == agent_pid:
            row["role"] = "agent"
        elif owner:
            row["role"] = "container"
        elif row["pid"] in machines:
            row["role"] = "machine"
        else:
            row["role"] = "init" if row["pid"] == 1 else "process"


def _first_above(pid: int, parents: dict[int, int], firsts: dict[int, str]) -> str | None:
    for _ in range(len(parents)):
        if pid in firsts:
            return firsts[pid]
        if pid not in parents:
            return None
        pid = parents[pid]
    return None
