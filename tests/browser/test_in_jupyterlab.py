"""Lessons as a learner has them, in JupyterLab: for who cannot see well, has no mouse, or a narrow window.

`test_views` looks at each view on a plain page; here they stand in JupyterLab's page, with its style sheets, its keys
and real machines. What JupyterLab itself gets wrong around an output is not looked at.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from vmcontainer_widgets import replay_html
from vmcontainer_widgets.recording import read_recording
from vmcontainer_widgets.views import VIEWS

from tests.browser.conftest import Notebook, Notebooks, violations

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.needs("qemu"),
    pytest.mark.needs("guest-image"),
    pytest.mark.needs("containers-on-host"),
]

COURSE = Path(__file__).parents[2] / "course"
OUTPUT = ".jp-Notebook .jp-Cell.jp-mod-active .jp-Cell-outputArea"
VM, BOX = "%%vm\nuname -s", "%%container box --memory 64m\nhostname"
# A boot sector that writes each key to the screen.
ECHO = """%%asm echo --run qemu --timeout 2
again: mov ah, 0
int 0x16
mov ah, 0x0e
int 0x10
jmp again
"""
LIVE = ("%lab view", "%vm view vm", "%container view box", "%container terminal box", "%vm screen echo --live")
LESSON = ("%predict number", "%quiz", "%check pair", "%hint pair", "%lab progress", "%lab doctor disk")
TABLES = ("%%container --explain\ntrue",)


def begin(language: str, folder: Path) -> str:
    """The first cell of a lesson, in a language, by a learner who has done nothing yet."""
    told = {"LAB_LANGUAGE": language, "VMCONTAINER_COURSE": str(COURSE)}
    told["VMCONTAINER_PROGRESS"] = str(folder / f"{language}.json")
    return f"import os\nos.environ.update({told!r})\n%load_ext vmcontainer_kernel\n%lab lesson 01-welcome"


def drawn(page: Notebook) -> None:
    """Wait until the view below the active cell shows something."""
    page.page.locator(f"{OUTPUT} .vmc-body").first.wait_for()
    page.page.wait_for_timeout(500)


MOVING = """(selector) => [...document.querySelectorAll(`${selector} .vmc *`)].filter((one) => {
  const style = getComputedStyle(one);
  return style.transitionDuration !== "0s" || style.animationName !== "none";
}).map((one) => one.outerHTML.slice(0, 200))"""
# What sticks out of a view to the right, and is not in a box that scrolls.
OVER = """(selector) => [...document.querySelectorAll(`${selector} .vmc`)]
  .filter((one) => one.clientWidth && one.scrollWidth > one.clientWidth + 1)
  .map((one) => `${one.scrollWidth} of ${one.clientWidth} px: ${one.innerText.slice(0, 60)}`)"""


@pytest.mark.parametrize(("language", "theme"), [("en", "JupyterLab Light"), ("ko", "JupyterLab Dark")])
def test_nothing_is_in_the_way_of_a_learner(notebook: Notebooks, tmp_path: Path, language: str, theme: str) -> None:
    first, shown = (begin(language, tmp_path), VM, BOX, ECHO), (*LIVE, *LESSON, *TABLES)
    page = notebook(*first, *shown, reduced_motion="reduce")
    page.theme(theme)
    page.widen()
    for cell in range(len(first)):
        assert "Error" not in page.text(cell)
    found = dict[str, list[str]]()
    for cell, text in enumerate(shown, len(first)):
        page.run(cell)
        if text in LIVE:
            drawn(page)
        wrong = violations(page.page, OUTPUT)
        # The box is JupyterLab's; Chromium and Firefox let the keyboard scroll it.
        found[text] = [one for one in wrong if not one.startswith("scrollable-region-focusable")]
        found[text] += page.page.evaluate(MOVING, OUTPUT)
        # 200 % in a window of 1280 pixels, and an output that is 400 pixels wide.
        for width in (640, 510) if text in LIVE + LESSON else ():
            page.page.set_viewport_size({"width": width, "height": 1000})
            page.page.wait_for_timeout(300)
            found[text] += page.page.evaluate(OVER, OUTPUT)
        page.page.set_viewport_size({"width": 1280, "height": 1000})
    assert {text: wrong for text, wrong in found.items() if wrong} == {}
    assert page.errors == []


# The focused element, and how thick the line around it is.
FOCUS = """() => {
  const one = document.activeElement, style = getComputedStyle(one), said = one.innerText?.trim();
  return [said || one.value || one.className, style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth)];
}"""


def tab_to(page: Any, wanted: str, *, most: int = 25) -> None:
    """Press Tab until the wanted thing has the focus; on the way the focus is never lost or unseen in our views."""
    for _ in range(most):
        page.keyboard.press("Tab")
        said, width = page.evaluate(FOCUS)
        if page.evaluate("() => Boolean(document.activeElement.closest('.vmc'))"):
            assert width >= 2, f"{said} has the focus, and nobody sees it"
        if said == wanted:
            return
    pytest.fail(f"the Tab key does not reach {wanted}, but {page.evaluate(FOCUS)}")


def test_a_lesson_is_done_by_keyboard(notebook: Notebooks, tmp_path: Path) -> None:
    page = notebook(begin("en", tmp_path), VM, "%quiz kernel", "%hint pair", "%vm view vm")
    for cell in range(3):
        page.run(cell)
    browser = page.page
    browser.locator(".vmc-question").wait_for()
    tab_to(browser, "1")
    browser.keyboard.press("ArrowDown")
    tab_to(browser, "Answer")
    browser.keyboard.press("Enter")
    browser.get_by_role("status").get_by_text("right").wait_for()
    assert browser.evaluate(FOCUS)[0] == "Answer"
    assert json.loads((tmp_path / "en.json").read_text())["entries"]

    # From the button the arrow leads to the next cell, as from any button in an output; from a choice Escape does.
    browser.keyboard.press("Shift+Tab")
    browser.keyboard.press("Escape")
    assert browser.evaluate("() => document.activeElement.matches('.jp-Cell.jp-mod-active')")
    tab_to(browser, "Answer")
    browser.keyboard.press("ArrowDown")
    for number in (1, 2):
        browser.keyboard.press("Control+Enter")
        browser.locator(OUTPUT, has_text="%hint pair").get_by_text(f"{number}. ").wait_for()
    browser.keyboard.press("ArrowDown")
    browser.keyboard.press("Control+Enter")
    drawn(page)
    tab_to(browser, "Pause")
    browser.keyboard.press("Enter")
    browser.locator(".vmc-status", has_text=re.compile("^paused$")).wait_for()
    browser.wait_for_timeout(1500)  # several updates
    assert browser.evaluate(FOCUS)[0] == "Pause"
    tab_to(browser, "Resume")
    browser.keyboard.press("Space")
    browser.locator(".vmc-status", has_text=re.compile("^running$")).wait_for()
    assert browser.evaluate(FOCUS)[0] == "Resume"


SHOWN = """(text) => [...document.querySelectorAll(".xterm-rows, .vmc-screen-letters")]
  .some((one) => one.textContent.replaceAll("\\u00a0", " ").includes(text))"""


def record(page: Notebook, do: Any) -> Path:
    """Record the view below the active cell while `do` is done; the file."""
    view = page.page.locator(f"{OUTPUT} .vmc").first
    view.get_by_role("button", name="Record").click()
    stop = view.get_by_role("button", name="Stop and save")
    stop.wait_for()
    do(view)
    page.page.wait_for_timeout(1500)
    stop.click()
    said = view.locator(".vmc-footer [role=status]", has_text="%lab replay")
    said.wait_for()
    return page.lab.root / said.inner_text().rpartition(" ")[2]


def test_a_terminal_and_a_screen_are_recorded_and_shown_without_a_kernel(
    notebook: Notebooks, browser: Any, tmp_path: Path
) -> None:
    page = notebook("%load_ext vmcontainer_kernel", BOX, ECHO, "%container terminal box", "%vm screen echo --live")
    for cell in range(4):
        page.run(cell)
    page.page.locator(".vmc-pill", has_text="open").wait_for()

    def type_into(selector: str, keys: str, shown: str) -> Any:
        def do(view: Any) -> None:
            view.locator(selector).click()
            page.page.keyboard.type(keys)
            page.page.wait_for_function(SHOWN, arg=shown)

        return do

    terminal = record(page, type_into(".vmc-terminal-box", "echo $((6*7))-fold\n", "42-fold"))
    page.run(4)
    page.page.wait_for_function("() => document.querySelector('.vmc-screen canvas')?.width === 720")
    screen = record(page, type_into(".vmc-screen canvas", "hello", "hello"))

    for file, at_end in ((terminal, "42-fold"), (screen, "hello")):
        recording = read_recording(file, frozenset(VIEWS))
        saved = tmp_path / f"{recording['view']}.html"
        saved.write_text(f"<!doctype html><meta charset=utf-8><title>x</title>{replay_html(recording)}", "utf-8")
        replay(browser, saved, at_end)


def replay(browser: Any, saved: Path, at_end: str) -> None:
    """A recording in a page that is a file: nothing of it at the beginning, all of it at the end."""
    context = browser.new_context(offline=True, viewport={"width": 900, "height": 900})
    page = context.new_page()
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(saved.as_uri())
    page.locator(".vmc-replay-face").wait_for()
    said = "() => document.querySelector('.vmc-terminal-shown, .vmc-screen-letters').textContent"
    assert at_end not in page.evaluate(said)
    page.get_by_role("slider").press("End")
    page.wait_for_function(f"(text) => ({said})().includes(text)", arg=at_end)
    if page.locator(".vmc-screen canvas").count():
        size = "() => [document.querySelector('canvas').width, document.querySelector('canvas').height]"
        assert page.evaluate(size) == [720, 400]
    assert violations(page, "body", "wcag2a", "wcag2aa") == []
    assert failed == []
    context.close()
