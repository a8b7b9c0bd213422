"""Users of an image: who ``--user`` means, by the image's own /etc/passwd and /etc/group."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vmcontainer_kernel.container.spec import User
from vmcontainer_kernel.errors import NotFound, UserError

__all__ = ["find_user"]

_FILE_BYTES = 1 << 20
_MAX_ID = 2**32 - 2


def find_user(layers: Sequence[Path], text: str) -> tuple[User, str]:
    """Return the ids and the home folder of ``user[:group]``, each a number or a name of passwd(5) or group(5)."""
    name, colon, group = text.partition(":")
    if not name or (colon and not group) or any(letter in "/\0\n:" for letter in name + group):
        raise UserError(f"user must be uid[:gid] or a name, not {text!r}", where="user")
    people = _table(layers, "passwd", 7)
    person = next((row for row in people if name in (row[0], row[2])), None)
    if person is None and not name.isdecimal():
        raise NotFound(
            f"there is no user {name} in the image",
            hint=f"there are: {' '.join(row[0] for row in people)}",
            where="user",
        )
    groups = _table(layers, "group", 4)
    uid = int(person[2] if person else name)
    gid = _group(groups, group) if group else int(person[3] if person else 0)
    if max(uid, gid) > _MAX_ID:
        raise UserError(f"ids go up to {_MAX_ID}, not {max(uid, gid)}", where="user")
    more = [] if group or not person else [int(row[2]) for row in groups if person[0] in row[3].split(",")]
    return User(uid, gid, additional_gids=tuple(more)), (person[5] if person else "") or "/"


def _group(groups: list[list[str]], name: str) -> int:
    row = next((row for row in groups if name in (row[0], row[2])), None)
    if row is None and not name.isdecimal():
        raise NotFound(
            f"there is no group {name} in the image",
            hint=f"there are: {' '.join(row[0] for row in groups)}",
            where="user",
        )
    return int(row[2] if row else name)


def _table(layers: Sequence[Path], name: str, columns: int) -> list[list[str]]:
    """Read the topmost layer's file; a link is not followed, as it might lead out of the image."""
    for layer in reversed(layers):
        try:
            folder = os.open(layer / "etc", os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            continue
        finally:
            os.close(folder)
        try:
            text = os.read(fd, _FILE_BYTES).decode(errors="surrogateescape")
        finally:
            os.close(fd)
        rows = [line.split(":") for line in text.splitlines()]
        return [
            row for row in rows if len(row) == columns and row[2].isdecimal() and (columns < 7 or row[3].isdecimal())
        ]
    return []
