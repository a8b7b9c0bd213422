"""Who has a port that somebody else wants: found in proc(5), by the socket's number.

/proc/net/tcp   local address:port, state, user, inode   ─▶   /proc/PID/fd/N ─▶ socket:[inode]   ─▶   /proc/PID/comm
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["holder_of"]

_LISTENS = "0A"  # TCP_LISTEN (include/net/tcp_states.h)


def holder_of(protocol: str, port: int, proc: Path = Path("/proc")) -> str:
    """Return the program that has a port of this network namespace; where its descriptors may not be seen, as another
    user's, that user; nothing if neither can be told.
    """
    users = dict(_sockets(protocol, port, proc))
    wanted = {f"socket:[{inode}]" for inode in users}
    for folder in proc.iterdir() if wanted else ():
        if folder.name.isdecimal() and wanted & _links(folder / "fd"):
            name = "".join(letter for letter in _text(folder / "comm") if letter.isprintable())
            return f"{name} (process {folder.name})"
    return next((f"a program of user {_name(uid)}" for uid in users.values()), "")


def _sockets(protocol: str, port: int, proc: Path) -> Iterator[tuple[str, int]]:
    for name in (protocol, f"{protocol}6"):
        for line in _text(proc / "net" / name).splitlines()[1:]:
            words = line.split()
            listens = protocol != "tcp" or words[3] == _LISTENS
            if listens and int(words[1].rpartition(":")[2], 16) == port:
                yield words[9], int(words[7])


def _links(folder: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # not ours to see, or gone
        for name in os.listdir(folder):  # noqa: PTH208 - names are all that is wanted
            with contextlib.suppress(OSError):
                found.add(os.readlink(folder / name))  # noqa: PTH115 - this text is no path
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
