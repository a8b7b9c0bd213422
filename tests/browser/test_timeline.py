"""The timeline in a browser: real starts, opened by keys; what they tell is found in /proc and in our files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from vmcontainer_widgets import TimelineView

from tests.browser.conftest import Notebook, Notebooks, sample
from tests.browser.stage import Stage

pytestmark = pytest.mark.needs("chromium")
REAL = pytest.mark.needs("containers-on-host")

ROOT = Path(__file__).parents[2]
FLAGS = {"pid": "PID", "mnt": "NS", "uts": "UTS", "ipc": "IPC", "net": "NET", "user": "USER"}
OWN_NAMESPACES = """
import os
from vmcontainer_kernel import lab
view = lab.host.view()
first = next(one["pid"] for one in view["containers"] if one["name"] == "web")
agent = next(one["pid"] for one in view["processes"] if one["role"] == "agent")
of = lambda pid, kind: os.readlink(f"/proc/{pid}/ns/{kind}")
print(*(kind for kind in os.listdir(f"/proc/{first}/ns") if of(first, kind) != of(agent, kind)))
"""


def card(page: Notebook, name: str) -> Any:
    return page.page.locator(".vmc-time-start", has=page.page.get_by_text(name, exact=True)).last


def go_to(page: Notebook, steps: Any, name: str) -> None:
    """Press the arrow key until the step of that name is the active one."""
    steps.focus()
    steps.press("Home")
    for _ in range(80):
        active = page.page.locator(f"#{steps.get_attribute('aria-activedescendant')}")
        if str(active.get_attribute("aria-label")).startswith(f"{name}:"):
            return
        steps.press("ArrowRight")
    raise AssertionError(f"there is no step {name}")


def opened(page: Notebook, start: Any, name: str) -> Any:
    steps = start.get_by_role("listbox").first
    go_to(page, steps, name)
    steps.press("Enter")
    detail = start.locator(".vmc-time-detail")
    detail.locator(".vmc-time-place").wait_for()
    assert detail.inner_text().startswith(f"{name}:")
    return detail


@REAL
def test_a_step_opens_to_its_call_and_our_line(notebook: Notebooks) -> None:
    cells = ("%load_ext vmcontainer_kernel", "%%container web\necho hi", "%lab timeline", "%container rm web")
    page = notebook(*cells, height=1400)
    page.run(0)
    assert page.text(1) == "hi\n"
    page.run(2)
    start = page.page.locator(".vmc-time-start", has=page.page.get_by_text("container", exact=True)).last
    start.wait_for()

    detail = opened(page, start, "overlay")
    call = detail.locator(".vmc-time-calls").inner_text()
    assert call.startswith('mount("overlay"')
    assert "containers/web/upper" in call
    file, line = re.match(
        r"(vmcontainer_kernel/\S+\.py):(\d+)", detail.locator(".vmc-time-place").inner_text()
    ).groups()  # type: ignore[union-attr]
    assert (ROOT / file).read_text().splitlines()[int(line) - 1].strip() == detail.locator(".vmc-code").inner_text()

    # What clone(2) was told against what the kernel says of the process that came of it.
    detail = opened(page, start, "clone with namespaces")
    flags = set(re.findall(r"CLONE_NEW(\w+)", detail.locator(".vmc-time-calls").inner_text()))
    own = set(page.ask(OWN_NAMESPACES).split()) & set(FLAGS)
    assert flags == {FLAGS[kind] for kind in own}
    assert {"PID", "NS"} <= flags

    bar = start.locator(".vmc-time-bar[data-who='agent']").last
    before = bar.get_attribute("style")
    axis = page.page.get_by_role("combobox", name="Axis")
    assert axis.input_value() == "linear"
    axis.select_option("logarithmic")
    assert bar.get_attribute("style") != before
    axis.select_option("each its own")
    assert page.page.locator(".vmc-time-axis:visible").count() == page.page.locator(".vmc-time-start").count()

    start.get_by_text("As a table", exact=True).click()
    rows = start.get_by_role("row").all_inner_texts()
    assert len(rows) > 20
    assert any(row.startswith("pivot_root") for row in rows)
    assert page.page.get_by_role("article").count() == page.page.locator(".vmc-time-start").count() == 2
    page.run(3)


@REAL
def test_a_new_start_comes_on_top_and_is_told(notebook: Notebooks) -> None:
    cells = ("%load_ext vmcontainer_kernel", "%lab timeline", "%%container\necho one")
    page = notebook(*cells, height=1200)
    page.run(0)
    page.run(1)
    page.page.get_by_text("Nothing was started yet.", exact=True).wait_for()
    assert page.text(2) == "one\n"
    first = page.page.locator(".vmc-time-start").first
    first.wait_for()
    said = page.page.locator(".vmc-spoken", has_text="container:")
    said.wait_for(state="attached")
    assert "in all" in said.inner_text()
    total = page.ask(
        "from vmcontainer_kernel.session import current as c; s = c(); "
        "print(s.wait(s.timeline())['starts'][-1]['total_ms'])"
    )
    assert f"{float(total):.2f} ms" in first.inner_text() or f"{float(total):.1f} ms" in first.inner_text()


# -- with the sample, on a page without Jupyter


def staged(stage: Stage, **changes: Any) -> tuple[Any, Any]:
    """A view of the sample, and its oldest start: a machine's."""
    view = TimelineView(document=sample("timeline") | changes)
    stage.show(view)
    return view, stage.page.locator(".vmc-time-start").last


def active(stage: Stage, steps: Any) -> Any:
    return stage.page.locator(f"#{steps.get_attribute('aria-activedescendant')}")


def test_arrow_keys_go_along_a_lane_and_between_lanes(stage: Stage) -> None:
    _, machine = staged(stage)
    steps = machine.get_by_role("listbox").first
    steps.focus()
    seen = [active(stage, steps).get_attribute("data-who")]
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "End", "Home"):
        steps.press(key)
        seen.append(active(stage, steps).get_attribute("data-who"))
    assert seen == ["notebook", "machine", "guest", "guest", "machine", "notebook", "notebook"]
    steps.press("ArrowRight")
    assert active(stage, steps).get_attribute("aria-label").startswith("QEMU's process begun: notebook")


def test_what_is_open_is_asked_for_and_nothing_else(stage: Stage) -> None:
    view, machine = staged(stage)
    number = sample("timeline")["starts"][0]["number"]
    assert view.wanted == []
    machine.get_by_text("Made before anybody asked", exact=False).click()
    stage.pump()
    assert view.wanted == [f"start-{number}"]
    machine.get_by_text("Made before anybody asked", exact=False).click()
    stage.pump()
    assert view.wanted == []
    steps = machine.get_by_role("listbox").first
    steps.press("Enter")
    stage.pump()
    assert view.wanted == [f"start-{number}"]
    assert machine.get_by_text("Asking what it called…").count() == 1
    view.document = view.document | {"starts": view.document["starts"][1:]}
    stage.pump()
    assert stage.page.locator(".vmc-time-start").count() == 7
    steps = stage.page.get_by_role("listbox").last
    steps.press("Enter")
    stage.pump()
    assert f"start-{number}" not in view.wanted


def test_a_step_without_a_length_or_of_nobody_is_no_bar(stage: Stage) -> None:
    phases = [
        {"name": "a", "by": "process", "begin_ms": 0, "ms": 1},
        {"name": "b", "by": "nobody", "begin_ms": 0, "ms": 1},
        {"name": "c", "by": "process", "begin_ms": None, "ms": 1},
    ]
    start = {"number": 1, "what": "exec", "name": "", "node": "host", "way": "?", "total_ms": 1, "phases": phases}
    staged(stage, starts=[start])
    bars = stage.page.locator(".vmc-time-bar").all()
    assert [bar.get_attribute("aria-label") for bar in bars] == ["a: new process, begins at 0.00 ms, takes 1.00 ms"]
