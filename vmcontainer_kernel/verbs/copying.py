"""``%container cp`` and ``%vm cp``: archives between a container or a machine and this computer's files.

What comes out is no more trusted than the container: it is written by the same rules on both sides.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..cells import FindNode
from ..container import transfer
from ..container.files import room_bytes
from ..display import Progress, size_text
from ..errors import HostError, NotFound, UserError
from ..fetching import fetch
from ..messages import say
from ..session import Session
from ..sharing import pack, send
from .words import Words

__all__ = ["Far", "between", "copy_in", "copy_out"]


@dataclass(frozen=True)
class Far:
    """The other side: its node, and the container in it, unless the node itself is meant."""

    find: FindNode
    container: str = ""

    def verb(self, word: str) -> str:
        """Return the agent's verb."""
        return f"container.{word}" if self.container else word

    def arguments(self, path: str) -> dict[str, Any]:
        """Return the verb's arguments."""
        return {"path": path or "/"} | ({"name": self.container} if self.container else {})


def between(given: Words, magic: str, kind: str, far: Callable[[str], Far], session: Session) -> None:
    """Carry out ``cp SOURCE TARGET``; one of them is ``NAME:/PATH``."""
    from_name, from_colon, from_path = given.source.partition(":")
    to_name, to_colon, to_path = given.target.partition(":")
    if bool(from_colon) == bool(to_colon):
        raise UserError(
            f"{magic} cp copies between a {kind} and this computer",
            hint=f"as in: {magic} cp web:/etc/hosts . (or: {magic} cp notes.txt web:/tmp)",
        )
    if from_colon:
        copy_out(session, far(from_name), from_path, given.target)
    else:
        copy_in(session, given.source, far(to_name), to_path)


def copy_out(session: Session, far: Far, path: str, target: str) -> None:
    """Copy a file or folder of the other side to `target` here, a folder or the copy's new name."""
    here = Path(target).expanduser()
    into = here if here.is_dir() else here.parent
    if not into.is_dir():
        raise NotFound(f"there is no folder {into} here", hint="make it first")

    async def come(archive: IO[bytes], told: Callable[[int], None]) -> None:
        node, verb, most_bytes = await far.find(), far.verb("copy_out"), room_bytes(Path(tempfile.gettempdir()))
        hint = "more would fill the disk of this computer; copy less at once, or free some space"
        arguments, what = far.arguments(path), f"{far.container or node.name}:{path}"
        left_out = await fetch(node, verb, arguments, archive.write, most_bytes, what=what, hint=hint, told=told)
        if left_out:
            print(say(left_out), end="", file=sys.stderr)

    with tempfile.TemporaryFile() as archive:
        _shown(session, lambda told: come(archive, told))
        _check_room(into, os.fstat(archive.fileno()).st_size)
        archive.seek(0)
        folder_fd = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            transfer.unpack(folder_fd, archive, "" if here.is_dir() else here.name)
        finally:
            os.close(folder_fd)


def _check_room(folder: Path, size_bytes: int) -> None:
    """Raise `HostError` before the first of so many bytes is written to a folder that has no room for them."""
    if size_bytes > room_bytes(folder):
        raise HostError(
            f"the disk of {folder} has no room for {size_text(size_bytes)}", hint="copy to another, or free some space"
        )


def copy_in(session: Session, source: str, far: Far, path: str) -> None:
    """Copy a file or folder from here to `path` on the other side, a folder or the copy's new name."""
    here = Path(source).expanduser().resolve()
    if not here.exists():
        raise NotFound(f"there is no {source} here", hint="paths begin at the notebook's folder")
    if not (here.is_file() or here.is_dir()):
        raise UserError(f"{source} is no file or folder", hint="devices, pipes and sockets are not copied")

    async def go(archive: IO[bytes], told: Callable[[int], None]) -> None:
        await send(await far.find(), far.verb("copy_in"), far.arguments(path), archive, told)

    with tempfile.TemporaryFile() as archive:
        pack(here, archive)
        size = os.fstat(archive.fileno()).st_size
        _shown(session, lambda told: go(archive, told), size)


def _shown(session: Session, copy: Callable[[Callable[[int], None]], Coroutine[Any, Any, None]], size: int = 0) -> None:
    """Wait for a copy, and show how far it is if that takes its time; `size` 0 is unknown."""
    progress = Progress()

    def told(count: int) -> None:
        tenth = count * 10 // size / 10 if size else 0.0
        of = f"{size_text(tenth * size)} of {size_text(size)}" if size else size_text(count >> 24 << 24)
        progress.report(f"copied {of}", tenth)

    session.wait_showing(copy(told), progress.show)
