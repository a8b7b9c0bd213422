"""The image view: layers, and what the containers of an image write above them, as it appears."""

from __future__ import annotations

import json
from typing import Any, Final

from ..errors import NotFound
from ..fetching import fetch_bytes
from ..node import Node
from ..session import Session
from .base import Json, Source, join, repeated

__all__ = ["image_document", "image_source", "image_view"]

# What is written is read by a child of the agent, so that a folder of many files holds up nobody: 5 ms at least.
PERIOD_S: Final = 1.0
CHANGES: Final = "changes"
_MOST: Final = 200
_MOST_BYTES: Final = 4 << 20  # each row has one path, of at most 4 KiB


async def image_document(
    session: Session, node_name: str, name: str, parts: frozenset[str] = frozenset([CHANGES])
) -> Json:
    """Return the image view; without the part `CHANGES` nobody looks into upper folders."""
    node = await session.node(node_name)
    document = await node.call("image.view", node=node_name, name=name)
    if CHANGES in parts:
        document["containers"] = [await _with_changes(node, one) for one in document["containers"]]
    return document


async def _with_changes(node: Node, container: Json) -> Json:
    arguments = {"name": container["name"], "most": _MOST}
    try:
        written = await fetch_bytes(node, "container.changes", arguments, _MOST_BYTES, what="container.changes")
        return {**container, "changes": json.loads(written)}
    except (NotFound, ValueError, RecursionError):  # it was removed meanwhile; or it is none, and a guest's
        return container


def image_source(session: Session, node_name: str, name: str) -> Source:
    """Return where an image's views come from."""

    async def fetch(wanted: frozenset[str]) -> Json:
        return await image_document(session, node_name, name, wanted)

    return Source(repeated(fetch, PERIOD_S))


def image_view(session: Session, node_name: str, name: str, language: str) -> Any:
    """Return a live ImageView of an image of a node; raises NotFound."""
    from vmcontainer_widgets.views import ImageView

    document = session.wait(image_document(session, node_name, name))
    view = ImageView(document=document, language=language)
    join(session, view, image_source(session, node_name, name))
    return view
