"""Both views in a real JupyterLab: what they draw, what they send, how they are used without a mouse or eyes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import SAMPLES, Notebook, sample
from tests.patience import now_s

pytestmark = pytest.mark.needs("chromium")

Open = Callable[..., Notebook]
BOTH = pytest.mark.parametrize("kind", ["hypervisor", "kernel"])
CLASSES = {"hypervisor": "HypervisorView", "kernel": "KernelView"}
SHOW = """
import copy, json
from vmcontainer_widgets import {name}
document = json.load(open({path!r}))
view = {name}(document=document)
pressed = []
def pressing(name, arguments, answer):
    pressed.append(name)
    answer(True, "")
view.on_act(pressing)
view
"""
# `change(path, value)` sends a new document with one field changed and its time half a second later.
CHANGE = """
def change(*path_and_value):
    global document
    *path, last, value = path_and_value
    document = copy.deepcopy(document)
    document["time_s"] += 0.5
    part = document
    for step in path:
        part = part[step]
    part[last] = value
    view.document = document
"""


def show(kind: str) -> str:
    return SHOW.format(path=str(SAMPLES / f"{kind}.json"), name=CLASSES[kind])


def opened(notebook: Open, kind: str, *more: str, **options: Any) -> Notebook:
    """A notebook whose first cell shows a new view of a sample document, drawn."""
    page = notebook(show(kind), *more, **options)
    page.run(0)
    page.page.locator(".vmc-title").wait_for()
    page.ask(CHANGE)
    return page


def updates_of_document(page: Notebook) -> int:
    """Messages that arrived in the page and carry a change of the document."""
    return sum(b'"method": "custom"' in frame and b'"change"' in frame for frame in page.frames)


def says(page: Notebook, text: str) -> None:
    page.page.locator(".vmc").get_by_text(text, exact=True).first.wait_for()


def row(page: Notebook, name: str) -> list[str]:
    """The cells of the table row whose header or first cell is `name`."""
    found = page.page.locator(".vmc tr", has=page.page.get_by_text(name, exact=True)).first
    return [cell.strip() for cell in found.locator("th, td").all_inner_texts()]


# Its updates come from a thread, as those of a live view do.
BUSY = """
import threading, time
threading.Thread(target=change, args=("time_s", 1.0)).start()
time.sleep(1)
end_s = time.monotonic() + 20
while not pressed and time.monotonic() < end_s:
    time.sleep(0.05)
print(pressed)
"""


def test_a_button_is_heard_while_a_cell_runs(notebook: Open) -> None:
    page = opened(notebook, "hypervisor", BUSY)
    page.page.evaluate(
        """(name) => {
          const panel = window.panelOf(name), notebook = panel.content;
          notebook.activeCellIndex = 1;
          window.running = window.jupyterapp.commands.execute("notebook:run-cell");
        }""",
        page.name,
    )
    page.page.wait_for_timeout(1500)
    page.page.get_by_role("button", name="Pause").click()
    page.page.evaluate("() => window.running")
    assert page.ask("print(pressed)") == "['pause']"
    shown = page.page.locator(".jp-OutputArea-output", has_text="['pause']")
    shown.wait_for()


def test_hypervisor_view_draws_the_machine(shared: Open) -> None:
    page = opened(shared, "hypervisor")
    view = page.page.locator(".vmc")
    text = view.inner_text()
    seen = " ".join(text.split())
    assert sample("hypervisor")["accelerator"]["reason"] in text
    assert "one process: QEMU 7.2.19, pid 4711" in text
    assert row(page, "vCPU 0") == ["vCPU 0", "4714", "running", "", "—", "2.41 s"]
    assert row(page, "vCPU 1")[1] == "4715"
    for figure in ("256 MiB", "61.0 MiB", "83.0 MiB", "private 52.0 MiB", "shared 31.0 MiB"):
        assert figure in seen
    assert row(page, "virtio-rng-pci")[:3] == ["00:04.0", "virtio-rng-pci", "rng"]
    assert row(page, "root") in (["root", "9.0 MiB", "0 B", "412 / 0"], row(page, "virtio-blk-pci"))
    events = view.get_by_role("table", name="Events").locator("tbody tr").all_inner_texts()
    assert ["VSERPORT_CHANGE" in events[0], "RESUME" in events[1]] == [True, True]


def test_kernel_view_draws_both_numbers_and_what_is_shared(shared: Open) -> None:
    page = opened(shared, "kernel")
    assert row(page, "httpd -f -p 8080")[:2] == ["4733", "C\n3"]
    matrix = page.page.get_by_role("table", name="Namespaces")
    rows = [one.locator("th, td").all_text_contents() for one in matrix.locator("tbody tr").all()]
    net, user = 5, 7
    (web,) = [cells for cells in rows if "web" in cells[0]]
    (db,) = [cells for cells in rows if "db" in cells[0]]
    assert "C, shared with db" in web[net]
    assert "C, shared with web" in db[net]
    assert "4026532214" in web[net]
    assert "4026532214" in db[net]
    assert "D, its own" in db[1]
    assert "shared with systemd" in db[user]
    shapes = matrix.locator("tbody tr").last.locator("td .vmc-badge")
    assert shapes.nth(0).locator("polygon").count() == 1
    assert shapes.nth(6).locator("circle").count() == 1


def test_cgroups_show_limits_and_trouble(shared: Open) -> None:
    page = opened(shared, "kernel")
    cards = page.page.get_by_role("listitem").filter(has=page.page.locator(".vmc-gauge"))
    assert "5.0 MiB of 64.0 MiB" in cards.nth(0).inner_text()
    assert "no limit" in cards.nth(0).inner_text()
    assert "OOM kills 1" in cards.nth(1).inner_text()
    assert "throttled for 5.40 s" in cards.nth(1).inner_text()
    assert "OOM" not in cards.nth(0).inner_text()


def test_what_divides_a_container_unfolds(shared: Open) -> None:
    page = opened(shared, "kernel")
    card = page.page.get_by_role("list", name="What else divides them").get_by_role("listitem").nth(1)
    assert "0 inside is 1000 outside (1), 1 inside is 100000 outside (65536)" in card.inner_text()
    assert "system calls are filtered · programs give no new rights" in card.inner_text()
    assert "313 of 373 system calls are open" in card.inner_text()
    assert "reboot" not in card.inner_text()
    for summary, shown in (
        ("capabilities it can ever get: 3", "KILL"),
        ("system calls that are refused: 3", "reboot"),
        ("system calls that depend on their arguments: 3", "personality"),
    ):
        card.get_by_text(summary, exact=True).click()
        card.get_by_text(shown).wait_for()


def test_other_processes_unfold(shared: Open) -> None:
    page = opened(shared, "kernel")
    assert page.page.get_by_text("dbus-daemon --system").count() == 0
    page.page.get_by_role("button", name="Show other processes (3)").press("Enter")
    page.page.get_by_text("dbus-daemon --system").wait_for()
    page.page.get_by_role("button", name="Hide other processes (3)").press("Space")
    page.page.get_by_text("dbus-daemon --system").wait_for(state="detached")


def test_numbers_follow_and_use_is_computed(shared: Open) -> None:
    page = opened(shared, "hypervisor")
    page.ask("change('vcpus', 0, 'cpu_s', 2.41 + 0.25)")
    says(page, "2.66 s")
    assert row(page, "vCPU 0")[4] == "50 %"
    page.ask("change('vcpus', 0, 'cpu_s', 2.66 + 0.5)")
    says(page, "3.16 s")
    assert row(page, "vCPU 0")[4] == "100 %"
    drawn = page.page.locator(".vmc-line").first.get_attribute("d")
    assert drawn is not None
    assert drawn.count("L") == 1


def test_one_message_an_update(shared: Open) -> None:
    page = opened(shared, "hypervisor")
    before = updates_of_document(page)
    for step in range(7):
        page.ask(f"change('vcpus', 0, 'cpu_s', 100.0 + {step})")
        says(page, f"01:4{step}")
    page.page.wait_for_timeout(300)
    assert updates_of_document(page) - before == 7


def test_watched_only_while_it_can_be_seen(notebook: Open) -> None:
    page = opened(notebook, "hypervisor", *["print('\\n' * 80)"] * 2)
    watched = "print(view.watched)"
    page.eventually(watched, "True")
    page.run(1)
    page.run(2)
    page.page.locator(".jp-WindowedPanel-outer").evaluate("(box) => box.scrollTo(0, 1e6)")
    page.eventually(watched, "False")
    page.page.locator(".jp-WindowedPanel-outer").evaluate("(box) => box.scrollTo(0, 0)")
    page.eventually(watched, "True")
    page.page.evaluate("() => window.jupyterapp.commands.execute('notebook:hide-all-cell-outputs')")
    page.eventually(watched, "False")
    page.page.evaluate("() => window.jupyterapp.commands.execute('notebook:show-all-cell-outputs')")
    page.eventually(watched, "True")
    page.page.evaluate("() => window.jupyterapp.commands.execute('launcher:create')")
    page.eventually(watched, "False")


def test_not_watched_once_its_output_is_cleared(notebook: Open) -> None:
    page = opened(notebook, "kernel")
    page.eventually("print(view.watched)", "True")
    page.page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.eventually("print(view.watched)", "False")


def test_not_watched_once_its_page_is_gone(notebook: Open, tmp_path: Path) -> None:
    page = opened(notebook, "hypervisor")
    page.eventually("print(view.watched)", "True")
    told = tmp_path / "told"
    page.ask(f"view.observe(lambda change: open({str(told)!r}, 'a').write(str(change['new'])), 'watched')")
    page.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.page.goto("about:blank")
    end_s = now_s() + 10
    while not told.exists() or told.read_text() != "False":
        assert now_s() < end_s
        time.sleep(0.05)
    page.open()


def test_hidden_views_catch_up(shared: Open) -> None:
    page = opened(shared, "hypervisor")
    hide = "() => window.jupyterapp.commands.execute('notebook:hide-all-cell-outputs')"
    page.page.evaluate(hide)
    page.eventually("print(view.watched)", "False")
    page.ask("change('vcpus', 0, 'cpu_s', 77.5)")
    page.page.evaluate(hide.replace("hide", "show"))
    says(page, "77.50 s")


def test_buttons_reach_python_by_mouse_and_by_key(shared: Open) -> None:
    page = opened(shared, "hypervisor")
    group = page.page.get_by_role("group", name="Control the machine")
    group.get_by_role("button", name="Pause").click()
    page.eventually("print(pressed)", "['pause']")
    group.get_by_role("button", name="Resume").click(force=True)
    page.ask("change('status', 'paused')")
    says(page, "paused")
    group.get_by_role("button", name="Resume").press("Enter")
    page.eventually("print(pressed)", "['pause', 'resume']")
    page.page.keyboard.press("Tab")
    assert page.page.evaluate("() => window.document.activeElement.innerText.trim()") == "Reset"
    page.page.keyboard.press("Space")
    page.eventually("print(pressed)", "['pause', 'resume', 'reset']")


def test_state_is_spoken_and_numbers_are_not(shared: Open) -> None:
    page = opened(shared, "hypervisor")
    spoken = page.page.locator(".vmc-spoken[role=status]")
    page.ask("change('vcpus', 0, 'cpu_s', 3.5)")
    says(page, "3.50 s")
    assert spoken.inner_text() == ""
    page.ask("change('status', 'paused')")
    says(page, "Machine vm is paused.")
    assert spoken.inner_text() == "Machine vm is paused."


def test_containers_that_come_and_go_are_spoken(shared: Open) -> None:
    page = opened(shared, "kernel")
    page.ask("change('containers', 1, 'status', 'stopped')")
    says(page, "Container db is stopped.")
    page.ask("change('containers', document['containers'][:1])")
    says(page, "Container db is gone.")
    assert page.page.locator(".vmc-card:has(.vmc-gauge)").count() == 1


def test_failure_is_an_alert_and_turns_the_buttons_off(shared: Open) -> None:
    page = opened(shared, "hypervisor")
    page.ask("view.failure = 'QEMU ended with status 1\\nlook at %vm logs vm'")
    page.page.get_by_role("alert").get_by_text("look at %vm logs vm").wait_for()
    for name in ("Pause", "Resume", "Reset"):
        button = page.page.get_by_role("button", name=name)
        assert button.get_attribute("aria-disabled") == "true"
    page.page.get_by_role("button", name="Pause").press("Enter")
    assert page.ask("print(pressed)") == "[]"


def test_a_machine_that_has_ended(shared: Open) -> None:
    page = opened(shared, "hypervisor")
    page.ask("change('missing', {'memory.resident_bytes': 'QEMU has ended: killed by signal 9'})")
    page.ask("change('vcpus', []); change('memory', {'given_bytes': 2**28}); change('status', 'gone')")
    says(page, "QEMU 7.2.19, pid 4711, has ended: the host has no such process any more")
    says(page, "QEMU has ended: killed by signal 9")
    for name in ("Pause", "Resume", "Reset"):
        assert page.page.get_by_role("button", name=name).get_attribute("aria-disabled") == "true"


@BOTH
def test_korean(shared: Open, kind: str) -> None:
    page = opened(shared, kind)
    page.ask("view.language = 'ko'")
    page.page.locator(".vmc[lang=ko]").wait_for()
    title = {"hypervisor": "가상 머신 vm", "kernel": "커널 Linux 6.18.5 노드 host"}[kind]
    assert re.sub(r"\s+", " ", page.page.locator(".vmc-title").inner_text()) == title


def test_two_views_of_one_model(notebook: Open) -> None:
    page = opened(notebook, "hypervisor", "view")
    page.run(1)
    page.page.locator(".vmc-title").nth(1).wait_for()
    page.page.evaluate("(name) => window.panelOf(name).content.widgets[0].model.outputs.clear()", page.name)
    page.page.locator(".vmc-title").nth(1).wait_for(state="detached")
    page.page.wait_for_timeout(200)
    assert page.ask("print(view.watched)") == "True"
