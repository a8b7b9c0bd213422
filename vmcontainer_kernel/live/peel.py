"""The peel view: its switches run the cell again, each time in a machine of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import UserError
from ..experiments.peel import Wish, peel
from ..session import Session
from .base import Json, Source, join
from .finished import Finished

__all__ = ["peel_view"]


def peel_view(session: Session, wish: Wish, document: Json, language: str) -> Any:
    """Return a PeelView of a cell that was run; `document`: what came of it."""
    from vmcontainer_widgets import PeelView

    finished = Finished(document)

    async def turn(turned: list[str]) -> None:
        if not isinstance(turned, list) or not all(isinstance(name, str) for name in turned):
            raise UserError("turn: a list of names is needed")
        asked = replace(wish, turned=tuple(dict.fromkeys(name[:40] for name in turned[:40])))
        await finished.replace(lambda report: peel(session, asked, report))

    view = PeelView(document=document, language=language)
    join(session, view, Source(finished.documents, {"turn": turn}))
    return view
