"""The kernel view of a node."""

from __future__ import annotations

from typing import Any

from ..session import Session
from .base import Json, Source, join, repeated

__all__ = ["kernel_source", "kernel_view"]


def kernel_source(session: Session, node_name: str) -> Source:
    """Return where a node's kernel views come from."""

    async def fetch(_wanted: frozenset[str]) -> Json:
        return await (await session.node(node_name)).view()

    return Source(repeated(fetch))


def kernel_view(session: Session, node_name: str, language: str) -> Any:
    """Return a live KernelView of a node."""
    from vmcontainer_widgets import KernelView

    async def fetch() -> Json:
        return await (await session.node(node_name)).view()

    view = KernelView(document=session.wait(fetch()), language=language)
    join(session, view, kernel_source(session, node_name))
    return view
