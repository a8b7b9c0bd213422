"""A plain page with views on it and no Jupyter: for layout, accessibility, cost and bad days, in fractions of a second.

    view = KernelView(document=...)           the real class; what it sends is kept by a `Wire`
    stage.show(view)                          the real module, in a page that has JupyterLab's colours and no kernel
    view.document = ...; stage.pump()         one comm message, to the page
    stage.page.get_by_role("button").click()
    stage.pump()                              what the page says, to the view's callbacks

Messages travel when `pump` is called and not before, so a test decides how slow the link is.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comm
import ipywidgets

from tests.patience import now_s
from vmcontainer_kernel.delta import apply

ADDRESS = "http://views.test/"
SCRIPT = Path(__file__).with_name("stage.js")
THEMES = ("light", "dark")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--force-color-profile=srgb",
)
# JupyterLab's page is as high as the window, and so is this.
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Views</title><style id="theme"></style>
<style>
body { margin: 0; background: var(--jp-layout-color0, Canvas); color: var(--jp-ui-font-color1, CanvasText); }
main { padding: 12px; } .output { margin-bottom: 12px; }
</style></head><body><main></main></body></html>"""
# A view is drawn when two frames have passed: the first may begin it, see `mount` in the modules.
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def chromium() -> str | None:
    """Where Chromium is; None where it is not."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


@contextlib.contextmanager
def staged(width: int = 1280, height: int = 1000) -> Iterator[Stage]:
    """A stage in a browser of its own, for programs that are no tests."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=CHROMIUM_ARGUMENTS)
        yield Stage(browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce"))
        browser.close()


def theme_css(name: str) -> str:
    """The variables of JupyterLab's own theme, ``light`` or ``dark``."""
    themes = Path(sys.prefix) / "share/jupyter/lab/themes/@jupyterlab"
    return (themes / f"theme-{name}-extension" / "index.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Sent:
    """A message of a view to its page."""

    message: dict[str, Any]
    size_bytes: int


def size_bytes(value: object) -> int:
    """What it takes as Jupyter sends it."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


class Wire:
    """A comm that ends here (`ipywidgets.Widget.comm`): it keeps what is sent, and hears what it is told."""

    kernel = "none"

    def __init__(self, comm_id: str) -> None:
        self.comm_id = comm_id
        self.sent: list[Sent] = []
        self.waiting: deque[dict[str, Any]] = deque()
        self.carried: list[dict[str, Any]] = []
        self.document: dict[str, Any] = {}
        self.opened_bytes = 0
        self._hear: Callable[[dict[str, Any]], None] = lambda message: None

    def on_msg(self, callback: Callable[[dict[str, Any]], None]) -> None:
        self._hear = callback

    def send(self, data: dict[str, Any], metadata: object = None, buffers: Sequence[bytes] | None = None) -> None:
        if data["method"] == "echo_update":  # for other pages of the same kernel
            return
        self.sent.append(Sent(data, size_bytes(data) + sum(map(len, buffers or ()))))
        self.waiting.append(data)

    def hear(self, message: dict[str, Any]) -> None:
        self._hear({"content": {"data": message}, "buffers": []})

    def close(self) -> None:
        """Called by the widget's own `close`."""


def wired(view: ipywidgets.Widget, kind: type[Wire] = Wire) -> Wire:
    """Give a view a wire in place of the comm it was made with; the name stays, as ipywidgets keeps widgets by it."""
    comm.get_comm_manager().unregister_comm(view.comm)
    wire = kind(view.model_id)
    view.set_trait("comm", wire)
    return wire


class Stage:
    """The page, and the views on it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.wires: dict[str, Wire] = {}
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.route(f"{ADDRESS}**", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
        page.goto(ADDRESS)
        page.add_script_tag(content=SCRIPT.read_text(encoding="utf-8"))
        self.theme("light")

    def show(self, view: ipywidgets.Widget) -> str:
        """Put a view on the page, or once more; the name it has there."""
        name = self.name_of(view) or self._open(view)
        self.page.evaluate("(name) => stage.render(name)", name)
        self.pump()
        return name

    def name_of(self, view: ipywidgets.Widget) -> str:
        return next((name for name, wire in self.wires.items() if view.comm is wire), "")

    def _open(self, view: ipywidgets.Widget) -> str:
        wire = wired(view)
        self.wires[wire.comm_id] = wire
        whole = view.get_state()
        state = {name: value for name, value in whole.items() if not name.startswith("_") and name != "layout"}
        wire.document = copy.deepcopy(state.get("document", {}))
        module = {"esm": whole["_esm"], "css": whole["_css"], "state": state}
        wire.opened_bytes = size_bytes(module)
        self.page.evaluate("([name, module]) => stage.open(name, module)", [wire.comm_id, module])
        return wire.comm_id

    def wire(self, view: ipywidgets.Widget) -> Wire:
        return self.wires[self.name_of(view)]

    def pump(self) -> None:
        """Carry messages both ways until none is under way, and let the page draw."""
        while self._carry():
            pass

    def _carry(self) -> bool:
        out: list[tuple[str, dict[str, Any]]] = []
        for name, wire in self.wires.items():
            out += [(name, wire.waiting.popleft()) for _ in range(len(wire.waiting))]
        if out:
            for name, message in out:
                self.wires[name].carried.append(message)
            self.page.evaluate("(messages) => stage.deliver(messages)", [list(one) for one in out])
        self.page.evaluate(FRAMES)
        back = self.page.evaluate("() => stage.take()")
        for name, message in back:
            self.wires[name].hear(message)
        return bool(back) or any(wire.waiting for wire in self.wires.values())

    def until(self, seen: Callable[[], object], timeout_s: float = 10) -> None:
        """Carry messages until `seen` says yes: for views that a session feeds from its own thread."""
        deadline_s = now_s() + timeout_s
        while not seen():
            assert now_s() < deadline_s, self.text()
            self.pump()

    def document(self, view: ipywidgets.Widget) -> dict[str, Any]:
        """The document that the page has of a view, by all that it was given."""
        wire = self.wire(view)
        for message in wire.carried:
            content = message.get("content", {})
            if "change" in content:
                wire.document = apply(wire.document, content["change"])
            wire.document = content.get("whole", wire.document)
        wire.carried.clear()
        return wire.document

    def text(self) -> str:
        """All that is on the page, with each space once."""
        return " ".join(str(self.page.locator("main").inner_text()).split())

    def close(self, view: ipywidgets.Widget) -> None:
        """Take a view off the page as Jupyter does when its cell's output is cleared and its widget closed."""
        name = self.name_of(view)
        self.page.evaluate("(name) => stage.close(name)", name)
        self.pump()
        del self.wires[name]

    def theme(self, name: str) -> None:
        """``light`` or ``dark`` as in JupyterLab, or "" for a page that has no themes."""
        css = theme_css(name) if name else ""
        self.page.evaluate(
            """([css, name]) => {
                document.querySelector("#theme").textContent = css;
                document.body.dataset.jpThemeLight = name !== "dark";
                document.body.dataset.jpThemeName = name;
            }""",
            [css, name],
        )
        self.page.evaluate(FRAMES)
