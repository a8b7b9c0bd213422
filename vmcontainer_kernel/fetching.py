"""What a node sends, kept up to a limit: a guest may send anything, and as much of it as it likes.

verb ── STDOUT ──▶ counted ──▶ write      one byte more than `most_bytes`: the request is given up, and an error
     └─ STDERR ──▶ the first 4 KiB
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from .agent.protocol import Kind
from .errors import NodeError
from .node import Node

__all__ = ["fetch", "fetch_bytes", "fetch_file"]

_REMARK_BYTES: Final = 4096
Told = Callable[[int], None]


def _nobody(count: int) -> None:
    """Tell nobody."""


async def fetch(
    node: Node,
    verb: str,
    arguments: Mapping[str, Any],
    write: Callable[[bytes], object],
    most_bytes: int,
    *,
    what: str,
    hint: str = "",
    told: Told = _nobody,
) -> str:
    """Give what a verb sends to `write`, `told` how much it is; return the beginning of what it says besides.

    Raises NodeError for more than `most_bytes`, no more of which is written; `what` it is, for that error.
    """
    remarks, size = bytearray(), 0

    def keep(stream: int, data: bytes) -> None:
        nonlocal size
        if request.done.done():  # given up
            return
        if stream != Kind.STDOUT:
            remarks.extend(data[: max(0, _REMARK_BYTES - len(remarks))])
        elif size + len(data) > most_bytes:
            request.lose(NodeError(f"{what}: {node.name} sends more than {most_bytes} bytes", hint=hint))
            node.kill(request)
            return
        else:
            size += len(data)
            write(data)
            told(size)
        request.consumed(stream, len(data))

    request = node.start(verb, arguments, on_data=keep)
    try:
        await request.done
    except asyncio.CancelledError:
        node.kill(request)
        raise
    return remarks.decode(errors="replace")


async def fetch_bytes(node: Node, verb: str, arguments: Mapping[str, Any], most_bytes: int, *, what: str) -> bytes:
    """Return what a verb sends; raises NodeError for more than `most_bytes`."""
    kept = bytearray()
    await fetch(node, verb, arguments, kept.extend, most_bytes, what=what)
    return bytes(kept)


async def fetch_file(node: Node, path: str, write: Callable[[bytes], object], most_bytes: int) -> None:
    """Give a file of the node to `write`; raises NodeError for one of more than `most_bytes`."""
    await fetch(node, "get", {"path": path}, write, most_bytes, what=path)
