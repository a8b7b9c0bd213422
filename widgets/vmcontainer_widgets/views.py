"""The two widgets: what each sends to its page and hears from it; all drawing is in the ES module beside.

```
 Python                                                  page (shared.js + hypervisor.js, or isolation.js + kernel.js)
  document = {...}          ── state update, one a set ──▶  draws what differs, at most once a frame
  failure = "it has ended"  ── state update ─────────────▶  shows an alert, buttons off
                            ◀── watched = true | false ───  on screen and tab visible, or not
  on_action(callback)       ◀── {"action": "pause"} ──────  a button was pressed
```
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets

from .labels import catalogue
from .static import static_html, static_text

__all__ = ["ACTIONS", "HypervisorView", "KernelView"]

ACTIONS = ("pause", "resume", "reset")

_HERE = Path(__file__).parent


def _module(*names: str) -> str:
    """The ES module of a view: labels, helpers, view. One text, as a module loaded from a Blob can import nothing."""
    parts = [(_HERE / f"{name}.js").read_text(encoding="utf-8") for name in ("shared", *names)]
    return "\n".join([f"const LABELS = {json.dumps(catalogue(), ensure_ascii=False)};", *parts])


class _View(anywidget.AnyWidget):
    """What both views share."""

    _css: ClassVar[str] = (_HERE / "style.css").read_text(encoding="utf-8")

    document = traitlets.Dict().tag(sync=True)
    watched = traitlets.Bool(False).tag(sync=True)
    language = traitlets.Unicode("en").tag(sync=True)
    failure = traitlets.Unicode("").tag(sync=True)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The live view, and for pages that run no widgets (GitHub, nbconvert) HTML and text of what is seen now."""
        bundle: tuple[dict[str, Any], dict[str, Any]] | None = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        document = dict(self.document)
        still = {
            "text/plain": static_text(document, language=self.language),
            "text/html": static_html(document, language=self.language),
        }
        return {**bundle[0], **still}, bundle[1]


class HypervisorView(_View):
    """A virtual machine as its host sees it: set `document` to a hypervisor view (``docs/architecture.md``)."""

    _esm: ClassVar[str] = _module("hypervisor")

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._callbacks: list[Callable[[str], None]] = []
        self.on_msg(self._hear)

    def on_action(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with the name of each button pressed: ``pause``, ``resume`` or ``reset``.

        It runs where ipykernel handles widget messages: in the main thread, or another one while a cell runs.
        """
        self._callbacks.append(callback)

    def _hear(self, _widget: object, content: object, _buffers: object) -> None:
        action = content.get("action") if isinstance(content, dict) else None
        if action in ACTIONS:
            for callback in list(self._callbacks):
                callback(action)


class KernelView(_View):
    """A Linux kernel and how it is divided: set `document` to a kernel view (``docs/architecture.md``)."""

    _esm: ClassVar[str] = _module("isolation", "kernel")
