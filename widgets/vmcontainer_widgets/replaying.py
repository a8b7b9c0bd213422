"""A recording shown again: by a widget in a notebook, by a piece of HTML in any page."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from html import escape
from typing import Any

import anywidget
import traitlets

from vmcontainer_kernel.delta import apply, difference

from .recording import last_document
from .still import static_html, static_text
from .view import stylesheet
from .views import VIEWS
from .words import told_in

__all__ = ["Replay", "replay_html"]


class Replay(anywidget.AnyWidget):
    """A recording (`recording.py`), with a slider, pause and speed; nothing is asked of Python."""

    document = traitlets.Dict().tag(sync=True)
    language = traitlets.Unicode("en").tag(sync=True)
    words = traitlets.Dict().tag(sync=True)

    def __init__(self, recording: Mapping[str, Any], language: str = "en") -> None:
        view = VIEWS[recording["view"]]
        self._esm, self._css = view.source("export default replay(draw);", "replay"), stylesheet(*view.styles)
        super().__init__(document=_told(recording, language), language=language, words=view.words_in(language))

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The widget, and for pages without widgets the same as HTML that moves where scripts may run."""
        bundle: tuple[dict[str, Any], dict[str, Any]] | None = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        text = static_text(last_document(self.document), language=self.language)
        return {**bundle[0], "text/plain": text, "text/html": replay_html(self.document, self.language)}, bundle[1]


def replay_html(recording: Mapping[str, Any], language: str = "en", *, name: str = "") -> str:
    """A piece of HTML that replays a recording by itself; where no script may run, it shows the recording's end.

    `name` is its element's id, of letters, digits and hyphens, once in a page; by default nobody else's.
    """
    view = VIEWS[recording["view"]]
    model = {"document": _told(recording, language), "language": language, "words": view.words_in(language)}
    name = name or f"vmc-{secrets.token_hex(6)}"
    still = static_html(last_document(recording), language=language)
    script = view.source("const replayed = replay(draw);", "replay").replace("</", "<\\/")
    return (
        f"<style>{stylesheet(*view.styles)}</style>"
        f'<div id="{name}" lang="{escape(language)}">{still}</div>'
        f'<script type="module">{script}'
        f"const state = {_inert(model)};"
        f'replayed.render({{ model: {{ get: (name) => state[name] }}, el: document.getElementById("{name}") }});'
        "</script>"
    )


def _told(recording: Mapping[str, Any], language: str) -> dict[str, Any]:
    """The recording with our own sentences in the reader's language, whatever it was taken in."""
    document: dict[str, Any] = {}
    said: dict[str, Any] = {}
    frames: list[list[Any]] = []
    for moment_s, change in recording["frames"]:
        document = apply(document, change)
        now = told_in(language, document)
        frames.append([moment_s, difference(said, now) if frames else {"set": {"": now}}])
        said = now
    return {**recording, "frames": frames}


def _inert(value: object) -> str:
    """JSON that is safe inside a script element: nothing in it can end the element or begin a comment."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")
