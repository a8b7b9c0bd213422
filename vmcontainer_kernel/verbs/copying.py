"""``%container cp``: archives between a container and this computer's files.

What comes out of a container is no more trusted than the container: it is written by the same rules on both sides.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import IO

from ..agent.protocol import Kind
from ..container import transfer
from ..errors import NotFound, UserError
from ..session import Session
from .nodes import FindNode

__all__ = ["copy_in", "copy_out"]

_CHUNK_BYTES = 1 << 20


def copy_out(session: Session, find: FindNode, name: str, path: str, target: str) -> None:
    """Copy a file or folder of a container to `target` here, a folder or the copy's new name."""
    here = Path(target).expanduser()
    into = here if here.is_dir() else here.parent
    if not into.is_dir():
        raise NotFound(f"there is no folder {into} here", hint="make it first")
    with tempfile.TemporaryFile() as archive:
        session.wait(_fetch(find, name, path, archive))
        archive.seek(0)
        folder_fd = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            transfer.unpack(folder_fd, archive, "" if here.is_dir() else here.name)
        finally:
            os.close(folder_fd)


async def _fetch(find: FindNode, name: str, path: str, archive: IO[bytes]) -> None:
    left_out = b""

    def keep(stream: int, data: bytes) -> None:
        nonlocal left_out
        if stream == Kind.STDOUT:
            archive.write(data)
        else:
            left_out += data
        request.consumed(stream, len(data))

    request = (await find()).start("container.copy_out", {"name": name, "path": path or "/"}, on_data=keep)
    await request.done
    if left_out:
        print(left_out.decode(errors="replace"), end="", file=sys.stderr)


def copy_in(session: Session, find: FindNode, source: str, name: str, path: str) -> None:
    """Copy a file or folder from here to `path` in a container, a folder or the copy's new name."""
    here = Path(source).expanduser().resolve()
    if not here.exists():
        raise NotFound(f"there is no {source} here", hint="paths begin at the notebook's folder")
    if not (here.is_file() or here.is_dir()):
        raise UserError(f"{source} is no file or folder", hint="devices, pipes and sockets are not copied")

    async def send(archive: IO[bytes]) -> None:
        request = (await find()).start("container.copy_in", {"name": name, "path": path or "/", "stdin": True})
        while (chunk := archive.read(_CHUNK_BYTES)) and not request.done.done():
            await request.feed(chunk)
        if not request.done.done():
            request.end_input()
        await request.done

    with tempfile.TemporaryFile() as archive:
        folder_fd = os.open(here.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            transfer.pack(folder_fd, here.name or "/", archive)
        finally:
            os.close(folder_fd)
        archive.seek(0)
        session.wait(send(archive))
