"""The kernel view of a node: all who look at one share its looks."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final
from weakref import WeakKeyDictionary

from ..node import Node
from ..session import Session
from .base import PERIOD_S, Json, Source, join, repeated

__all__ = ["Looks", "kernel_source", "kernel_view"]

PARTS: Final = ("mounts", "network", "sockets")
# The dear parts take the node ten times as long as all the rest.
PART_S: Final = 2.0


class Looks:
    """What was last seen of a node; who asks twice within a period is told the same."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = asyncio.Lock()
        self._document: Json = {}
        self._parts: dict[str, tuple[float, Json]] = {}
        self._at_s = float("-inf")

    async def view(self, parts: frozenset[str]) -> Json:
        """Return the kernel view with these parts: it is at most a period old, its parts two seconds."""
        async with self._lock:
            now_s = time.monotonic()
            due = [part for part in PARTS if part in parts and now_s - self._part_s(part) >= PART_S]
            if due or now_s - self._at_s >= 0.8 * PERIOD_S:
                document = await self._node.view(due, live=bool(self._document))
                for part, value in document.pop("parts", {}).items():
                    self._parts[part] = (now_s, value)
                self._document, self._at_s = document, now_s
            shown = {part: self._parts[part][1] for part in PARTS if part in parts}
            return {**self._document, "parts": shown} if shown else self._document

    def _part_s(self, part: str) -> float:
        return self._parts[part][0] if part in self._parts else float("-inf")


_looks: WeakKeyDictionary[Node, Looks] = WeakKeyDictionary()


async def _view(session: Session, node_name: str, parts: frozenset[str]) -> Json:
    node = await session.node(node_name)
    if node not in _looks:
        _looks[node] = Looks(node)
    return await _looks[node].view(parts)


def kernel_source(session: Session, node_name: str) -> Source:
    """Return where a node's kernel views come from."""

    async def fetch(wanted: frozenset[str]) -> Json:
        return await _view(session, node_name, wanted)

    return Source(repeated(fetch))


def kernel_view(session: Session, node_name: str, language: str) -> Any:
    """Return a live KernelView of a node; it begins with all parts, for pages that stay as they are."""
    from vmcontainer_widgets import KernelView

    view = KernelView(document=session.wait(_view(session, node_name, frozenset(PARTS))), language=language)
    join(session, view, kernel_source(session, node_name))
    return view
