"""A terminal in a real page: what is typed there happens in a container, at its size, at once, and ends with it."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from vmcontainer_widgets import TerminalView

from tests.browser.conftest import Notebook, Notebooks, sample
from tests.browser.stage import Stage
from tests.patience import now_s

pytestmark = pytest.mark.needs("chromium")

LOAD = "%load_ext vmcontainer_kernel"
MAKE = "%%container box\necho made"
RUN_LAST = """(name) => {
  const panel = window.panelOf(name), notebook = panel.content;
  notebook.activeCellIndex = notebook.widgets.length - 1;
  window.running = window.jupyterapp.commands.execute("notebook:run-cell");
}"""
SHOWN = """() => [...document.querySelectorAll(".xterm-rows > div")].map((row) => row.innerText).join("\\n")"""


class Typist:
    """A page with a terminal: types as a person does, and reads what the rows show."""

    def __init__(self, page: Notebook) -> None:
        self.page, self.view = page, page.page.locator(".vmc", has=page.page.locator(".vmc-terminal"))
        self.view.locator(".xterm-rows").wait_for()
        self.rows = self.view.locator(".xterm-rows")

    def type(self, text: str) -> None:
        self.view.locator(".vmc-terminal-box").click()
        self.page.page.keyboard.type(text)

    def press(self, keys: str) -> None:
        self.page.page.keyboard.press(keys)

    def shown(self) -> str:
        text: str = self.page.page.evaluate(SHOWN)
        return text.replace("\xa0", " ")

    def wait_for(self, wanted: str, *, timeout_s: float = 20) -> str:
        deadline = now_s() + timeout_s
        while wanted not in (shown := self.shown()):
            assert now_s() < deadline, f"{wanted!r} is not in the terminal:\n{shown}"
            self.page.page.wait_for_timeout(50)
        return shown

    def state(self, wanted: str) -> None:
        self.view.locator(".vmc-pill", has_text=wanted).wait_for()


def opened(notebook: Notebooks, *more: str, **options: Any) -> Typist:
    page = notebook(LOAD, MAKE, "%container terminal box", *more, **options)
    page.run(0)
    assert page.text(1).endswith("made\n")
    page.run(2)
    typist = Typist(page)
    typist.state("open")
    typist.wait_for("# ")
    return typist


# How many processes there are in the container, and which shells.
INSIDE = """
from vmcontainer_kernel.session import current
async def inside():
    return (await (await current().host()).call("container.top", name="box"))["processes"]
print(sorted(one["comm"] for one in current().wait(inside())))
"""


def size(terminal: Typist) -> tuple[int, int]:
    """What the program in the terminal is told, and its number of rows in the page."""
    mark = f"size{time.monotonic_ns()}"
    terminal.type(f"echo {mark} $(stty size) .\n")
    deadline = now_s() + 20
    while not (found := re.search(rf"^{mark} (\d+) (\d+) \.", terminal.shown(), re.MULTILINE)):
        assert now_s() < deadline, terminal.shown()
        terminal.page.page.wait_for_timeout(50)
    return int(found[1]), int(found[2])


def rows_drawn(terminal: Typist) -> int:
    return terminal.rows.locator("> div").count()


@pytest.mark.needs("containers-on-host")
def test_what_is_typed_happens_in_the_container_also_while_a_cell_runs(notebook: Notebooks) -> None:
    waiting = "%%container box\nwhile [ ! -e /go ]; do sleep 0.1; done; cat /go"
    terminal = opened(notebook, waiting)
    page = terminal.page.page
    rows, columns = size(terminal)
    assert rows == rows_drawn(terminal) > 10

    # A window that is made smaller is another size for the program.
    page.evaluate("() => (document.querySelector('.vmc-terminal').style.height = '200px')")
    page.wait_for_function(f"() => document.querySelectorAll('.xterm-rows > div').length < {rows}")
    deadline = now_s() + 20
    while (now := size(terminal)) != (rows_drawn(terminal), columns):
        assert now_s() < deadline, now
    assert now[0] < rows

    page.evaluate(RUN_LAST, terminal.page.name)
    page.locator(".jp-InputArea-prompt", has_text="[*]").wait_for()
    terminal.type("echo let go >/go\n")
    page.evaluate("() => window.running")
    page.locator("[data-mime-type$=stdout]", has_text="let go").wait_for()


@pytest.mark.needs("containers-on-host")
def test_a_flood_is_bounded_and_ctrl_c_ends_it_at_once(notebook: Notebooks) -> None:
    terminal = opened(notebook)
    page, frames = terminal.page.page, terminal.page.frames
    terminal.type("yes 0123456789012345678901234567890123456789\n")
    terminal.wait_for("0123456789\n012345")
    before, begun_s = sum(map(len, frames)), time.monotonic()
    page.wait_for_timeout(3000)
    speed = (sum(map(len, frames)) - before) / (time.monotonic() - begun_s)
    assert 10_000 < speed < 900_000
    terminal.press("Control+c")
    terminal.wait_for("^C", timeout_s=5)
    terminal.type("echo cal''m\n")
    terminal.wait_for("\ncalm", timeout_s=5)

    page.get_by_role("button", name="Hang up").click()
    terminal.state("ended")
    terminal.page.eventually(INSIDE, "['sh', 'sleep']")
    page.get_by_role("button", name="Open again").click()
    terminal.state("open")
    terminal.wait_for("# ")
    assert "calm" not in terminal.shown()
    terminal.type("exit 7\n")
    terminal.state("ended with status 7")


# To the clipboard, the title, a link, a question for the title, another size: in the words of xterm's ctlseqs.
HOSTILE = (
    r"printf '\033]52;c;c3RvbGVu\007\033]0;taken\007\033]8;;http://127.0.0.1/\007a link\033]8;;\007"
    r"\033[21t\033[8;3;3t'; echo done"
)


@pytest.mark.needs("containers-on-host")
def test_it_is_used_without_a_mouse_and_keeps_a_guests_escapes_to_itself(notebook: Notebooks) -> None:
    terminal = opened(notebook)
    page = terminal.page.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("() => navigator.clipboard.writeText('mine')")
    rows, title = rows_drawn(terminal), page.title()
    terminal.type(HOSTILE + "\n")
    terminal.wait_for("done\n")
    assert (rows_drawn(terminal), page.title()) == (rows, title)
    assert page.evaluate("() => navigator.clipboard.readText()") == "mine"
    assert terminal.view.locator("a").count() == 0

    # Paste arrives as if it were typed; Tab is the program's; the key that is told of leaves.
    page.evaluate("() => navigator.clipboard.writeText('echo pas$()ted')")
    terminal.press("Control+v")
    terminal.press("Enter")
    terminal.wait_for("\npasted")
    terminal.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "xterm-helper-textarea"
    terminal.press("Shift+F6")
    reader = page.get_by_role("button", name="Screen-reader mode")
    assert page.evaluate("() => document.activeElement.innerText") == "Screen-reader mode"
    terminal.press("Enter")
    assert reader.get_attribute("aria-pressed") == "true"
    page.locator(".xterm-accessibility-tree").get_by_text("pasted", exact=True).wait_for()

    page.get_by_role("button", name="Screen-reader mode").click()
    word = terminal.rows.locator("> div", has_text=re.compile("^pasted")).bounding_box()
    page.mouse.dblclick(word["x"] + 10, word["y"] + word["height"] / 2)
    page.get_by_role("button", name="Copy selection").click()
    page.get_by_text("Copied.").wait_for(state="attached")
    assert page.evaluate("() => navigator.clipboard.readText()") == "pasted"


@pytest.mark.needs("containers-on-host")
def test_it_goes_on_when_the_page_is_loaded_again_and_ends_with_its_view(notebook: Notebooks) -> None:
    terminal = opened(notebook)
    page = terminal.page.page
    terminal.type("x=kept; echo before\n")
    terminal.wait_for("\nbefore")
    page.evaluate("(name) => window.panelOf(name).context.save()", terminal.page.name)
    terminal.page.open()
    again = Typist(terminal.page)
    again.wait_for("\nbefore")
    again.type("echo still $x\n")
    again.wait_for("\nstill kept")
    terminal.page.eventually(INSIDE, "['sh', 'sh', 'sleep']")

    # The same cell again: what it showed is closed, and with it the shell.
    terminal.page.run(2)
    another = Typist(terminal.page)
    another.state("open")
    terminal.page.eventually(INSIDE, "['sh', 'sh', 'sleep']")
    another.type("echo $x.\n")
    another.wait_for("\n.\n")


def test_where_nobody_answers_it_says_that_keys_wait(stage: Stage) -> None:
    numbers: list[int] = []
    view = TerminalView(document={**sample("terminal"), "state": "running"})
    stage.show(view)
    view.on_stream(lambda content, data: numbers.append(content["number"]))
    stage.page.locator(".vmc-terminal-box").click()
    stage.page.keyboard.type("0123456789")
    stage.page.get_by_text("The notebook is busy; your keys wait.").wait_for()
    stage.pump()
    # No more than four messages are under way; what is typed after those is put together.
    assert [number for number in numbers if number] == [1, 2, 3, 4]
    assert stage.errors == []
