"""The whole product in a browser: cells make a machine and a container, views show them, a button stops the guest."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tests.browser.conftest import Notebook, Notebooks, violations
from tests.patience import now_s

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("qemu")]

BUSY = "sh -c 'while :; do :; done' </dev/null >/dev/null 2>&1 &"
# The guest's own clock: it stands still while its virtual CPUs do.
UPTIME = "%%vm --out uptime\ncut -d' ' -f1 /proc/uptime"


def cpu_time_s(page: Notebook) -> float:
    """What the view says of the first vCPU's CPU time."""
    text = page.page.locator(".vmc tr", has_text="vCPU 0").locator("td").last.inner_text()
    parts = [float(part) for part in text.removesuffix(" s").split(":")]
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))


def wait_for_status(page: Notebook, status: str) -> None:
    page.page.locator(".vmc-status", has_text=re.compile(f"^{status}$")).wait_for()


def seen_by_qemu(page: Notebook) -> tuple[str, float]:
    """Status and CPU time of the first vCPU, asked of QEMU past the widget."""
    asked = "from vmcontainer_kernel import lab; view = lab.machine('vm').view()"
    status, cpu_s = page.ask(f"{asked}; print(view['status'], view['vcpus'][0]['cpu_s'])").split()
    return status, float(cpu_s)


def guest_uptime_s(page: Notebook, cell: int) -> float:
    page.run(cell)
    return float(page.ask("print(uptime)"))


@pytest.mark.needs("guest-image")
def test_pause_stops_the_guest(notebook: Notebooks) -> None:
    page = notebook("%load_ext vmcontainer_kernel", f"%%vm\n{BUSY}\nuname -s", "%vm view vm", UPTIME, "%vm rm vm")
    assert page.text(0) == ""
    assert page.text(1) == "Linux\n"
    page.run(2)
    wait_for_status(page, "running")

    first = cpu_time_s(page)
    deadline = now_s() + 15
    while cpu_time_s(page) <= first + 0.2:
        assert now_s() < deadline, "the CPU time in the view does not change"
        time.sleep(0.2)

    uptime_s, clock = guest_uptime_s(page, 3), time.monotonic()
    page.page.get_by_role("button", name="Pause").click()
    wait_for_status(page, "paused")
    status, cpu_s = seen_by_qemu(page)
    time.sleep(3)
    assert seen_by_qemu(page) == ("paused", pytest.approx(cpu_s, abs=0.05))
    assert status == "paused"

    page.page.get_by_role("button", name="Resume").press("Enter")
    wait_for_status(page, "running")
    guest_s, host_s = guest_uptime_s(page, 3) - uptime_s, time.monotonic() - clock
    assert guest_s < host_s - 2, f"{guest_s} s passed in the guest, {host_s} s outside"
    assert seen_by_qemu(page)[1] > cpu_s
    page.run(4)


@pytest.mark.needs("containers-on-host")
def test_a_container_seen_from_both_sides(notebook: Notebooks) -> None:
    inside = "%%container web --memory 64m --pids-limit 32\nsleep 987 &\necho $$; hostname"
    page = notebook("%load_ext vmcontainer_kernel", inside, "%container view web", "%container rm web", height=1400)
    page.run(0)
    assert page.text(1).endswith("web\n")
    page.run(2)
    page.page.locator(".vmc-card:has(.vmc-gauge)", has_text="web").wait_for()
    card = page.page.locator(".vmc-card:has(.vmc-gauge)", has_text="web").inner_text()
    assert "of 64.0 MiB" in card
    assert "of 32" in card

    first = page.ask(FIRST_PROCESS)
    outer = int(first)
    row = page.page.locator(".vmc tbody tr", has=page.page.get_by_text(first, exact=True)).first
    shown = row.locator("td").all_inner_texts()
    assert int(shown[0]) == outer != 1
    assert shown[1].split()[-1] == "1"
    check_namespaces(page)

    page.run(3)
    page.page.locator(".vmc-card:has(.vmc-gauge)", has_text="web").wait_for(state="detached")
    assert page.page.get_by_text("Container web is gone.").count() == 1


@pytest.mark.needs("containers-on-host")
def test_notebook_7_shows_the_same(notebook: Notebooks) -> None:
    """A view is drawn, follows what happens, is free of violations, and knows when nobody looks."""
    cells = ("%load_ext vmcontainer_kernel", "%%container web --memory 64m\nhostname", "%container view web")
    page = notebook(*cells, "%container rm web", front="notebook", height=1400)
    page.run(0)
    assert page.text(1) == "web\n"
    page.run(2)
    card = page.page.locator(".vmc-card:has(.vmc-gauge)", has_text="web")
    card.wait_for()
    assert "of 64.0 MiB" in card.inner_text()
    assert violations(page.page, ".vmc") == []
    page.run(3)
    card.wait_for(state="detached")


FIRST_PROCESS = """
from vmcontainer_kernel import lab
print(next(one["pid"] for one in lab.host.view()["containers"] if one["name"] == "web"))
"""


def check_namespaces(page: Any) -> None:
    """The container's row of the matrix: own pid and uts namespaces, the node's time namespace."""
    matrix = page.page.get_by_role("table", name="Namespaces")
    rows = [row.locator("th, td").all_text_contents() for row in matrix.locator("tbody tr").all()]
    (web,) = [cells for cells in rows if "web" in cells[0]]
    assert "its own" in web[1]
    assert "its own" in web[3]
    assert "shared with" in web[8]


def test_everything_in_tabs_recorded_and_replayed(notebook: Notebooks) -> None:
    page = notebook("%load_ext vmcontainer_kernel", "%%vm\nuname -s", "%lab view", "", "%vm rm vm", height=1400)
    page.run(0)
    page.run(1)
    page.run(2)
    view = page.page.locator(".vmc").first
    view.get_by_role("tab", name="kernel host").wait_for()
    view.get_by_text("Linux", exact=False).first.wait_for()
    view.get_by_role("tab", name="kernel host").press("ArrowRight")
    assert view.get_by_role("tab", name="machine vm").get_attribute("aria-selected") == "true"
    wait_for_status(page, "running")
    page.page.get_by_role("button", name="Record").click()
    page.page.get_by_role("button", name="Stop and save").wait_for()
    view.get_by_role("button", name="Pause").click()
    wait_for_status(page, "paused")
    assert seen_by_qemu(page)[0] == "paused"
    page.page.get_by_role("button", name="Stop and save").click()
    said = page.page.locator(".vmc-footer [role=status]", has_text="%lab replay")
    said.wait_for()
    command = said.inner_text().split(": ")[1]

    page.run(4)
    page.page.evaluate(SET_CELL, [page.name, 3, command])
    page.run(3)
    replay = page.page.locator(".jp-OutputArea", has=page.page.locator(".vmc-replay-face"))
    assert "A recording, taken 20" in replay.locator(".vmc-replay-face").inner_text()
    replay.get_by_role("slider").press("End")
    replay.locator(".vmc-status", has_text="paused").wait_for()
    replay.get_by_role("slider").press("Home")
    replay.locator(".vmc-tabs").wait_for()
    assert page.errors == []


SET_CELL = """([name, index, text]) => {
  window.panelOf(name).content.widgets[index].model.sharedModel.setSource(text);
}"""


@pytest.mark.needs("containers-on-host")
def test_a_view_says_that_its_kernel_is_gone(notebook: Notebooks) -> None:
    page = notebook("%load_ext vmcontainer_kernel", "%container view")
    page.run(0)
    page.run(1)
    page.page.locator(".vmc-title").wait_for()
    assert page.page.get_by_role("alert").inner_text() == ""
    page.page.evaluate("(name) => window.panelOf(name).sessionContext.restartKernel()", page.name)
    page.page.get_by_role("alert").get_by_text("Nothing is heard of the notebook's kernel").wait_for()
    assert "Linux" in page.page.locator(".vmc").inner_text()
