"""Views on bad days: what they show is hostile, odd, huge or late, or what they watch is gone.

Most of it on a plain page (`stage`), for every view there is; what needs a kernel, in JupyterLab.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
from vmcontainer_widgets.views import VIEWS

from tests.browser.conftest import SAMPLES, Notebooks, sample
from tests.browser.stage import Stage

pytestmark = pytest.mark.needs("chromium")

ALL = pytest.mark.parametrize("kind", sorted(VIEWS))
HOSTILE = "<script>window.broken=1</script><img src=x onerror='window.broken=1'>\"'`${window.broken=1}\u202egnp\x1b[2J"
RIGHT_TO_LEFT = "\u05e9\u05dc\u05d5\u05dd 1 (\u0645\u0631\u062d\u0628\u0627) 2"  # shalom 1 (marhaba) 2
# Words by which a document says how the rest is to be read; they come from us, not from a guest.
OURS = ("kind", "id", "tabs")


def shown(stage: Stage, kind: str, document: dict[str, Any]) -> Any:
    view = VIEWS[kind](document=document)
    stage.show(view)
    return view


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """The same document with every text changed but those of ours."""
    if isinstance(value, dict):
        return {name: part if name in OURS else each_text(part, change) for name, part in value.items()}
    if isinstance(value, list):
        return [each_text(part, change) for part in value]
    return change(value) if isinstance(value, str) else value


def moved(document: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The same document at another time."""
    return {**document, "time_s": document.get("time_s", 0.0) + seconds}


@ALL
def test_foreign_text_is_shown_as_text(stage: Stage, kind: str) -> None:
    shown(stage, kind, each_text(sample(kind), lambda text: text + HOSTILE))
    assert stage.page.evaluate("() => window.broken") is None
    assert stage.page.locator(".vmc script, .vmc img").count() == 0
    assert not set(stage.text()) & {"\u202e", "\x1b"}


# Texts of the page that hold right-to-left letters and are not kept apart from the line around them.
NOT_ISOLATED = """() => {
  const found = [], walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!/[\\u0590-\\u06ff]/.test(node.textContent) || !node.parentElement.checkVisibility()) continue;
    let isolated = false;
    for (let up = node.parentElement; up.tagName !== "MAIN"; up = up.parentElement) {
      const style = getComputedStyle(up);
      const alone = style.display !== "inline" && up.textContent === node.textContent;
      isolated ||= alone || style.unicodeBidi.includes("isolate") || style.unicodeBidi === "plaintext";
    }
    if (!isolated) found.push(node.parentElement.outerHTML.slice(0, 300));
  }
  return found;
}"""


@ALL
def test_right_to_left_names_do_not_turn_the_line_around_them(stage: Stage, kind: str) -> None:
    shown(stage, kind, each_text(sample(kind), lambda text: f"{text} {RIGHT_TO_LEFT}"))
    assert stage.page.evaluate(NOT_ISOLATED) == []


ODD = [None, [], {}, "text", 5, -1e300, [None], [5], [{}], [[]], {"name": None}, {"": {"": []}}]


@ALL
def test_documents_of_another_shape_break_nothing(stage: Stage, kind: str) -> None:
    """Any part may be missing or be something else: an older agent, a newer one, a guest that lies."""
    document, dice = sample(kind), random.Random(7)
    parts = [name for name in document if name not in ("kind", "time_s")]
    odd_ones = [dict.fromkeys(parts, odd) for odd in ODD]
    odd_ones += [{name: odd} for name in parts for odd in dice.sample(ODD, 2)]
    view = shown(stage, kind, document)
    for odd_one in odd_ones:
        view.document = moved({**document, **odd_one}, dice.random())
        stage.pump()
    view.document = {"kind": kind}
    stage.pump()
    view.document = moved(document, 5)
    stage.pump()
    assert stage.errors == []
    assert "undefined" not in stage.text()


@ALL
def test_a_clock_that_jumps(stage: Stage, kind: str) -> None:
    document = sample(kind)
    view = shown(stage, kind, document)
    for jump_s in (0.5, -3600, 1e9, 0, -1e12, 0.5):
        document = moved(document, jump_s)
        view.document = document
        stage.pump()
        words = stage.text()
        assert not [word for word in ("NaN", "Infinity", "undefined", "e+") if word in words], jump_s


@ALL
def test_a_slow_link_is_given_the_newest_and_no_queue(stage: Stage, kind: str) -> None:
    document = sample(kind)
    view = shown(stage, kind, document)
    wire = stage.wire(view)
    wire.sent.clear()
    for step in range(1, 201):
        view.document = moved(document, step)
        assert len(wire.waiting) <= 1, "the page has not said that it drew what it was sent"
    stage.pump()
    assert len(wire.sent) <= 2
    assert stage.document(view) == view.document


def crowd(count: int) -> dict[str, Any]:
    """A kernel with many processes in one container."""
    document = sample("kernel")
    first = next(process for process in document["processes"] if process.get("container"))
    more = [
        {**first, "pid": 10_000 + number, "ppid": first["pid"], "pids": [10_000 + number, 10 + number]}
        for number in range(count)
    ]
    return {**document, "processes": [*document["processes"], *more]}


def test_two_thousand_processes(stage: Stage) -> None:
    document = crowd(2000)
    view = shown(stage, "kernel", document)
    wire = stage.wire(view)
    wire.sent.clear()
    document = copy.deepcopy(document)
    document["processes"][-1]["cpu_s"] = 77.25
    document["processes"][0]["cpu_s"] = 88.25
    view.document = moved(document, 0.5)
    stage.pump()
    assert "88.25 s" in stage.text()
    assert sum(sent.size_bytes for sent in wire.sent) < 2048
    view.document = moved(sample("kernel"), 1)
    stage.pump()
    assert stage.page.locator(".vmc tr").count() < 100


def test_ten_views_on_one_page(stage: Stage) -> None:
    kinds = sorted(VIEWS)
    views = [shown(stage, kind, sample(kind)) for kind in (kinds * 10)[:10]]
    for step in range(1, 5):
        for view in views:
            view.document = moved(sample(view.kind), step)
        stage.pump()
    assert all(stage.document(view) == view.document for view in views)
    for view in views[::2]:
        stage.close(view)
    assert stage.page.locator(".output").count() == 5


# -- with a kernel


@pytest.mark.needs("qemu", "guest-image")
def test_a_machine_dies_while_it_is_looked_at(notebook: Notebooks) -> None:
    """Its view says so and how, keeps what it last knew, and the same name can be had again."""
    page = notebook("%load_ext vmcontainer_kernel", "%%vm\ntrue", "%vm view vm", "%vm rm vm\n", "%%vm\necho again")
    for cell in range(3):
        page.run(cell)
    page.page.locator(".vmc-status", has_text="running").wait_for()
    page.ask("from vmcontainer_kernel import lab; import os, signal")
    page.ask("os.kill(lab.machine('vm').view()['qemu']['pid'], signal.SIGKILL)")
    page.page.get_by_text("signal 9").first.wait_for()
    for name in ("Pause", "Resume", "Reset"):
        assert page.page.get_by_role("button", name=name).get_attribute("aria-disabled") == "true"
    page.run(3)
    assert page.text(4) == "again\n"


@pytest.mark.needs("containers-on-host")
def test_the_kernel_is_restarted_under_a_view(notebook: Notebooks) -> None:
    """What was on the page fails in silence; the same cells make a view that lives."""
    page = notebook("%load_ext vmcontainer_kernel", "%%container web\nhostname", "%container view web")
    failed: list[str] = []
    page.page.on("pageerror", lambda error: failed.append(str(error)))
    for _ in range(2):
        for cell in range(3):
            page.run(cell)
        page.page.locator(".vmc-card:has(.vmc-gauge)", has_text="web").wait_for()
        page.restart()
    assert [error for error in failed if "vmc" in error] == []


def test_two_pages_of_one_kernel(notebook: Notebooks) -> None:
    """Both show what is new; when one is closed the other goes on, and Python knows that it is looked at."""
    code = "from vmcontainer_widgets import KernelView\nimport json, time\n"
    code += f"document = json.load(open({str(SAMPLES / 'kernel.json')!r}))\nview = KernelView(document=document)\nview"
    first = notebook(code)
    first.run(0)
    first.page.locator(".vmc-title").wait_for()
    first.save()
    second = notebook.again(first)
    second.page.locator(".vmc-title").wait_for()
    first.ask("view.document = {**document, 'time_s': 2, 'node': 'moon'}")
    for page in (first, second):
        page.page.locator(".vmc-title", has_text="moon").wait_for()
    second.page.context.close()
    first.ask("view.document = {**document, 'time_s': 3, 'node': 'sun'}")
    first.page.locator(".vmc-title", has_text="sun").wait_for()
    first.eventually("print(view.watched)", "True")
