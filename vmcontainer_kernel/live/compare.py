"""The compare view: a comparison that is finished, and can be made again."""

from __future__ import annotations

from typing import Any

from ..experiments.compare import Wish, compare
from ..session import Session
from .base import Json, Source, join
from .finished import Finished

__all__ = ["compare_view"]


def compare_view(session: Session, wish: Wish, document: Json, language: str) -> Any:
    """Return a CompareView of a comparison that was made; its button makes it again."""
    from vmcontainer_widgets import CompareView

    finished = Finished(document)

    async def again() -> None:
        await finished.replace(lambda report: compare(session, wish, report))

    view = CompareView(document=document, language=language)
    join(session, view, Source(finished.documents, {"again": again}))
    return view
