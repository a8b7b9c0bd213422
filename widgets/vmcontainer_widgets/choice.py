"""A question with its choices: radio buttons in a form, and for pages that run no widgets one line of text."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from .view import stylesheet

__all__ = ["Choice"]

_JS = Path(__file__).parent / "js" / "choice.js"


class Choice(anywidget.AnyWidget):
    """One question. `chosen` is the number of the choice that was kept, from 1; 0 while there is none."""

    _esm = _JS.read_text(encoding="utf-8")
    _css = stylesheet("choice")

    language = traitlets.Unicode("en").tag(sync=True)
    asks = traitlets.Unicode().tag(sync=True)
    choices = traitlets.List(traitlets.Unicode()).tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)
    button = traitlets.Unicode().tag(sync=True)
    told = traitlets.Unicode().tag(sync=True)
    form = traitlets.Unicode()

    def __init__(self, **traits: Any) -> None:
        self._keep: Callable[[int], tuple[str, int]] | None = None
        super().__init__(**traits)
        self.on_msg(self._hear)

    def on_choice(self, keep: Callable[[int], tuple[str, int]]) -> None:
        """Call `keep(number)` when one is chosen; it returns what is told, and the number that is kept now."""
        self._keep = keep

    def _hear(self, _widget: object, content: object, _buffers: object) -> None:
        """A message of the page: nothing in it is believed."""
        number = content.get("choose") if isinstance(content, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= len(self.choices):
            return
        if self._keep is not None:
            self.told, self.chosen = self._keep(number)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle: tuple[dict[str, Any], dict[str, Any]] | None = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        still = {"text/plain": self.form, "text/html": f"<p>{html.escape(self.form)}</p>"}
        return {**bundle[0], **still}, bundle[1]
