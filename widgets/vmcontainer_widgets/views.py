"""The views there are."""

from __future__ import annotations

from typing import Any, ClassVar

from . import third_party
from .view import View, module, scope
from .words import words

__all__ = [
    "VIEWS",
    "CompareView",
    "HypervisorView",
    "ImageView",
    "KernelView",
    "LabView",
    "NestingView",
    "NetworkView",
    "PeelView",
    "ScreenView",
    "TerminalView",
    "TimelineView",
]


class HypervisorView(View):
    """A virtual machine as its host sees it: set `document` to a hypervisor view (``docs/architecture.md``)."""

    kind, labels = "hypervisor", ("hypervisor",)
    scripts = ("hypervisor_parts", "hypervisor_inside", "hypervisor")
    styles = ("hypervisor",)


class KernelView(View):
    """A Linux kernel and how it is divided: set `document` to a kernel view (``docs/architecture.md``)."""

    kind, labels, styles = "kernel", ("kernel",), ("kernel",)
    scripts = ("sections", "namespaces", "processes", "meters", "isolation", "mounts", "links", "kernel")


class NetworkView(View):
    """The way of a packet from each container: set `document` to a network view (``docs/architecture.md``)."""

    kind, labels, styles = "network", ("network",), ("kernel",)
    scripts = ("sections", "network")


class ImageView(View):
    """An image's layers and what is written above them: set `document` to an image view (``docs/architecture.md``)."""

    kind, labels, styles = "image", ("image",), ("kernel",)
    scripts = ("sections", "images")


class TimelineView(View):
    """The last starts on one axis: set `document` to a timeline (``docs/architecture.md``)."""

    kind, labels, scripts = "timeline", ("timeline",), ("timeline",)
    styles = ("timeline",)


class NestingView(View):
    """What is inside of what: set `document` to a nesting view (``docs/architecture.md``)."""

    kind, labels, scripts = "nesting", ("nesting",), ("nesting",)
    styles = ("nesting",)


class CompareView(View):
    """One cell in four places: set `document` to a comparison (``docs/architecture.md``)."""

    kind, labels, scripts = "compare", ("compare",), ("compare",)
    styles = ("compare",)


class PeelView(View):
    """A cell in a container, and with walls left out: set `document` to what differs (``docs/architecture.md``)."""

    kind, labels, scripts = "peel", ("peel",), ("peel",)
    styles = ("peel",)


class LabView(View):
    """Several views, one tab each: `tabs` ({id, kind, title}) and, of those shown, `documents` (by id)."""

    kind, labels, scripts = "lab", ("lab",), ("lab",)
    large = True
    styles = ("lab", "hypervisor", "kernel", "timeline", "nesting")
    holds: ClassVar[tuple[type[View], ...]] = (HypervisorView, KernelView, NetworkView, NestingView, TimelineView)

    @classmethod
    def source(cls, ending: str, *more: str) -> str:
        """Its own module, and the drawing of every view it holds as ``draws[kind]``."""
        draws = ", ".join(f"{one.kind}: {scope(one.scripts)}" for one in cls.holds)
        return module(cls.scripts, f"const draws = {{ {draws} }};\n{ending}", *more)

    @classmethod
    def words_in(cls, language: str) -> dict[str, Any]:
        """Its own words, and by kind those that the views it holds have besides."""
        own, held = words(language, *cls.labels), {one.kind: one.words_in(language) for one in cls.holds}
        more = {kind: {key: text for key, text in one.items() if own.get(key) != text} for kind, one in held.items()}
        return own | {"views": more}


class TerminalView(View):
    """A terminal: what it is called and whether it is open is its document, its bytes are streamed (js/terminal.js)."""

    kind, labels, scripts, styles = "terminal", ("terminal",), ("terminal",), ("terminal",)
    large = True

    @classmethod
    def source(cls, ending: str, *more: str) -> str:
        """Its module with xterm.js before it; a replay shows text only, and needs none."""
        before = "" if "replay" in more else third_party.scripts()
        return f"{before}\n{super().source(ending, *more)}"

    @classmethod
    def looks(cls) -> str:
        """Its style sheet with that of xterm.js."""
        return f"{third_party.styles()}\n{super().looks()}"


class ScreenView(View):
    """A machine's screen: its size and its letters are its document, its pictures are streamed (js/screen.js)."""

    kind, labels, scripts, styles = "screen", ("screen",), ("screen",), ("screen",)


_ALL: tuple[type[View], ...] = (*LabView.holds, LabView, ImageView, CompareView, PeelView, TerminalView, ScreenView)
VIEWS: dict[str, type[View]] = {view.kind: view for view in _ALL}
