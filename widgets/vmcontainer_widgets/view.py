"""What every view is: a document that Python changes and a page that draws it; all drawing is in ES modules (``js/``).

```
 Python                                                       page (js/mount.js)
  view.document = {...}  ── {"change", "number"}: what differs ──▶  draws what differs, at most once a frame
                         ◀── {"seen": number} ──────────────────   drawn; only then is the next change sent
  view.failure = "…"     ── state update ───────────────────────▶  an alert, buttons off
                         ◀── watched, wanted ────────────────────  on screen or not; which optional parts are open
  on_act(callback)       ◀── {"act": "pause", "id", "arguments"} ─ a button was pressed
  answer(True, "…")      ── {"answer": id, "ok", "text"} ────────▶  what came of it
  stream({…}, b"…")      ── {"stream": {…}}, bytes ──────────────▶  a terminal's bytes, a picture
  on_stream(take)        ◀── {"stream": {…}}, bytes ─────────────  keys
```

Callbacks run where ipykernel handles widget messages: in the main thread, or in another one while a cell runs. A view
may be changed from any thread.
"""

from __future__ import annotations

import base64
import gzip
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final

import anywidget
import traitlets

from vmcontainer_kernel.delta import difference

from .recording import Recording
from .still import static_html, static_text
from .words import told_in, words

__all__ = ["Answer", "View", "module", "scope", "stylesheet"]

# A page that does not say it has drawn a change is sent the next one after this time all the same.
PATIENCE_S: Final = 2.0
# One that has not been heard of for so long, while others were, is gone.
FORGET_S: Final = 10.0

Answer = Callable[[bool, str], None]
_HERE = Path(__file__).parent
COMMON: Final = ("shared", "watch", "mount")


def module(scripts: tuple[str, ...], ending: str, *more: str) -> str:
    """The ES module of a view: what all views share (and `more`), then its own files in a scope of theirs."""
    return f"{_read(*COMMON, *more)}\nconst draw = {scope(scripts)};\n{ending}\n"


def scope(scripts: tuple[str, ...]) -> str:
    """The files of one view as an expression that gives its `draw`; their other names stay inside."""
    return f"(() => {{\n{_read(*scripts)}\nreturn draw;\n}})()"


def _read(*names: str) -> str:
    """The files without what only their readers need, comments of whole lines and indents: an eighth of what is sent.

    So no string in them may go over a line (`test_scripts_may_be_sent_without_indents`).
    """
    lines = [line.strip() for name in names for line in (_HERE / "js" / f"{name}.js").read_text("utf-8").splitlines()]
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def packed(source: str) -> str:
    """A module that unpacks another one and is that: a third of the bytes, for modules of 100 KB."""
    data = base64.b64encode(gzip.compress(source.encode(), 9, mtime=0)).decode()
    return f"""const bytes = Uint8Array.from(atob("{data}"), (one) => one.charCodeAt(0));
const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
const address = URL.createObjectURL(new Blob([await new Response(unpacked).text()], {{ type: "text/javascript" }}));
const {{ default: widget }} = await import(address);
URL.revokeObjectURL(address);
export default widget;
"""


def stylesheet(*names: str) -> str:
    """The style sheets of ``css/``: what all share, then those named."""
    return "\n".join((_HERE / "css" / f"{name}.css").read_text(encoding="utf-8") for name in ("shared", *names))


class View(anywidget.AnyWidget):
    """Base of all views. A subclass names its scripts (``js/``), style sheets (``css/``) and words (``labels/``).

    `document` is a JSON document with a ``kind`` (docs/architecture.md, "Views"); set it to a new one, never change the
    one that is there. `watched` is true while somebody can see the view; `wanted` names the optional parts it shows.
    """

    kind: ClassVar[str]
    labels: ClassVar[tuple[str, ...]] = ()
    scripts: ClassVar[tuple[str, ...]] = ()
    styles: ClassVar[tuple[str, ...]] = ()
    large: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Not for the class that traitlets makes of each instance whose traits are added late.
        if "kind" in cls.__dict__:
            source = cls.source("export default view(draw);")
            cls._esm = packed(source) if cls.large else source
            cls._css = cls.looks()
        super().__init_subclass__(**kwargs)

    @classmethod
    def source(cls, ending: str, *more: str) -> str:
        """The ES module of this view; `ending` says what becomes of its `draw`."""
        return module(cls.scripts, ending, *more)

    @classmethod
    def looks(cls) -> str:
        """Its style sheet."""
        return stylesheet(*cls.styles)

    document = traitlets.Dict()
    language = traitlets.Unicode("en").tag(sync=True)
    words = traitlets.Dict().tag(sync=True)
    watched = traitlets.Bool(False).tag(sync=True)
    wanted = traitlets.List(traitlets.Unicode()).tag(sync=True)
    failure = traitlets.Unicode("").tag(sync=True)
    records = traitlets.Bool(False).tag(sync=True)
    recording = traitlets.Bool(False).tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        self._lock = threading.RLock()
        if "document" in traits:
            traits["document"] = told_in(traits.get("language", "en"), traits["document"])
        self._told: dict[str, Any] = dict(traits.get("document", {}))
        self._identity = secrets.token_hex(8)
        self._number = 0
        self._sent_s = 0.0
        self._unheard = 0
        self._pages: dict[str, tuple[int, float]] = {}
        self._callbacks: list[Callable[[str, dict[str, Any], Answer], None]] = []
        self._streams: list[Callable[[dict[str, Any], bytes], None]] = []
        self._ends: list[Callable[[], None]] = []
        self._recording: Recording | None = None
        super().__init__(words=self.words_in(traits.get("language", "en")), **traits)
        self.on_msg(self._hear)
        # A page's message says which subshell is to take it, and JupyterLab has one for widgets. ipykernel 7.4 sends it
        # elsewhere: to where the last message of this widget came from. For a thread of ours that is the main thread,
        # and the page would wait for the running cell.
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = lambda data, default: default

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> Any:
        """The state for a new page; it holds the document, which is no trait, as those are sent as a whole."""
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        if key is None:
            with self._lock:
                state |= {"document": self._told, "number": self._number, "identity": self._identity}
        return state

    def close(self) -> None:
        """Close the view and its layout, a widget too, which ipywidgets would keep for as long as Python runs."""
        ends, self._ends = self._ends, []
        for end in ends:
            end()
        layout = self._trait_values.get("layout")
        super().close()
        if layout is not None:
            layout.close()

    def on_act(self, callback: Callable[[str, dict[str, Any], Answer], None]) -> None:
        """Call `callback(name, arguments, answer)` for each button pressed; `answer(ok, text)` follows once."""
        self._callbacks.append(callback)

    def on_stream(self, take: Callable[[dict[str, Any], bytes], None]) -> None:
        """Call `take(content, data)` for what is no button and no document: nothing in it is believed yet."""
        self._streams.append(take)

    def stream(self, content: dict[str, Any], data: bytes = b"") -> None:
        """Send bytes to the page (``stage.listen``)."""
        self.send({"stream": content}, [data] if data else [])

    def on_close(self, end: Callable[[], None]) -> None:
        """Call `end` when the view is closed for good."""
        self._ends.append(end)

    def begin_recording(self, place: str) -> None:
        """Keep what is shown from now on; `place` says on what machine that is."""
        with self._lock:
            self._recording = Recording(self.kind, place, time.time(), self.document)
        self.recording = True

    def end_recording(self) -> dict[str, Any]:
        """Return the recording: a JSON document (`recording.py`)."""
        with self._lock:
            kept, self._recording = self._recording, None
        self.recording = False
        return kept.finished() if kept else {}

    def pulse(self) -> None:
        """Let the page know that Python is there, though nothing changed."""
        if time.monotonic() - self._sent_s > 2:
            self.send({"alive": True})

    @traitlets.validate("document")
    def _translate(self, proposal: Any) -> dict[str, Any]:
        return told_in(self.language, proposal["value"])

    @traitlets.observe("document")
    def _show(self, _change: object) -> None:
        with self._lock:
            if self._recording:
                self._recording.add(self.document)
            self._tell()

    @traitlets.observe("language")
    def _speak(self, _change: object) -> None:
        self.words = self.words_in(self.language)

    @classmethod
    def words_in(cls, language: str) -> dict[str, Any]:
        """The words of this view in a language."""
        return words(language, *cls.labels)

    def _tell(self) -> None:
        """Send what changed since the last time, unless a page is still busy with that."""
        now_s = time.monotonic()
        behind = {page for page, (number, _) in self._pages.items() if number < self._number}
        if len(behind) < len(self._pages):
            for page in [page for page in behind if now_s - self._pages[page][1] > FORGET_S]:
                del self._pages[page]
                behind.discard(page)
        # Where no page answers at all, the pauses grow: what is sent to a link that stalls would pile up in it.
        patience_s = PATIENCE_S * 2 ** min(self._unheard, 5)
        if self.comm is None or (behind and now_s - self._sent_s < patience_s):
            return
        change = difference(self._told, dict(self.document))
        if change:
            self._told, self._sent_s = dict(self.document), now_s
            self._number += 1
            self._unheard += bool(behind)
            self.send({"change": change, "number": self._number})

    def _hear(self, _widget: object, content: object, buffers: object) -> None:
        """A message of the page: nothing in it is believed."""
        if not isinstance(content, dict):
            return
        if content.get("ask") == "whole":
            with self._lock:
                self.send({"whole": self._told, "number": self._number})
        elif isinstance(content.get("seen"), int) and isinstance(content.get("page"), str):
            self._seen(content["page"][:40], content["seen"])
        elif isinstance(content.get("stream"), dict):
            data = _bytes(buffers)
            for take in list(self._streams):
                take(content["stream"], data)
        elif isinstance(content.get("act"), str):
            self._act(content["act"], content.get("arguments"), content.get("id"))

    def _seen(self, page: str, number: int) -> None:
        with self._lock:
            fresh, self._unheard = page not in self._pages, 0
            self._pages[page] = (min(number, self._number), time.monotonic())
            if fresh and number < self._number:
                self.send({"whole": self._told, "number": self._number})
            self._tell()

    def _act(self, name: str, arguments: object, asked: object) -> None:
        def answer(ok: bool, text: str) -> None:
            self.send({"answer": asked, "ok": ok, "text": text})

        for callback in list(self._callbacks):
            callback(name, arguments if isinstance(arguments, dict) else {}, answer)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The live view, and for pages that run no widgets (GitHub, nbconvert) HTML and text of what is seen now."""
        bundle: tuple[dict[str, Any], dict[str, Any]] | None = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        return {**bundle[0], **self.still()}, bundle[1]

    def still(self) -> dict[str, str]:
        """What is seen now as text and as HTML, by media type."""
        document = dict(self.document)
        return {
            "text/plain": static_text(document, language=self.language),
            "text/html": static_html(document, language=self.language),
        }


def _bytes(buffers: object) -> bytes:
    """The first of a message's buffers, which arrive as bytes or as views of them."""
    first = buffers[0] if isinstance(buffers, list | tuple) and buffers else b""
    return bytes(first) if isinstance(first, bytes | bytearray | memoryview) else b""
