"""The peel view in a browser: a switch is pressed, the cell runs again in a machine, and what differs is shown."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.browser.conftest import Notebook, Notebooks

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("qemu"), pytest.mark.needs("guest-image")]

# Its own PID, its host name, and which namespaces the kernel says it is in.
CELL = "%%lab peel --timeout 90\necho $$; hostname\nfor kind in pid uts; do readlink /proc/self/ns/$kind; done"
INITIAL = {"pid": "pid:[4026531836]", "uts": "uts:[4026531838]"}  # include/linux/proc_ns.h
FIND = """
def _keep():
    import ipywidgets
    from ipywidgets.widgets.widget import _instances
    return next(one for one in _instances.values() if type(one).__name__ == "PeelView")
import json
print(json.dumps(_keep().document))
"""


def document(page: Notebook) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.ask(FIND))
    return found


def press(page: Notebook, wall: str) -> None:
    """Press a switch and wait until its cell has run."""
    page.page.get_by_role("switch", name=wall).click()
    page.page.locator(".vmc[aria-busy=false]").wait_for(timeout=90_000)


def output_sides(page: Notebook) -> tuple[list[str], list[str]]:
    """The two columns of the table of outputs, as the page shows them."""
    rows = page.page.get_by_role("table", name="Output").locator("tbody tr").all()
    cells = [row.locator(".vmc-side").all_text_contents() for row in rows]
    return [left for left, _ in cells], [right for _, right in cells]


def one_is_locked(page: Notebook) -> None:
    """The mount namespace holds the rest: its switch says why it stays as it is, and does."""
    locked = page.page.get_by_role("switch", name="mounts")
    assert locked.get_attribute("aria-disabled") == "true"
    assert "not available because it holds the container's root" in page.page.locator(".vmc-walls").first.inner_text()
    locked.focus()
    page.page.keyboard.press("Enter")
    assert locked.get_attribute("aria-checked") == "true"
    assert document(page)["turned"] == []


def test_a_wall_is_left_out_and_put_back(notebook: Notebooks) -> None:
    page = notebook("%load_ext vmcontainer_kernel", CELL, "%vm ls", height=1800)
    page.run(0)
    page.run(1)
    page.page.get_by_role("switch", name="host name").wait_for()
    assert output_sides(page)[0][:2] == ["1", "peel"]
    one_is_locked(page)

    press(page, "process ids")
    kept, bare = output_sides(page)
    assert kept[:2] == ["1", "peel"]
    assert int(bare[0]) > 1
    assert bare[2] == INITIAL["pid"] != kept[2]
    assert bare[3] == kept[3] or bare[3] != INITIAL["uts"]  # this wall still stands

    press(page, "host name")
    kept, bare = output_sides(page)
    assert re.fullmatch("peel-[0-9a-f]{6}", bare[1])  # the machine's own name
    assert bare[3] == INITIAL["uts"] != kept[3]
    told = document(page)
    assert told["turned"] == ["pid", "uts"]
    # What the page shows is what was run, and the kernel's own words.
    assert told["without"]["out"].split() == bare
    fields = page.page.get_by_role("table", name="OCI configuration").locator("tbody tr")
    shown = {row.locator("th").inner_text(): row.get_attribute("data-mark") for row in fields.all()}
    assert shown == {"hostname": "changed", "linux.namespaces[pid]": "with", "linux.namespaces[uts]": "with"}
    assert "4 lines of output, 3 fields and" in page.page.locator(".vmc-spoken[aria-live]").inner_text()

    page.page.get_by_role("button", name="Put all walls back").press("Enter")
    page.page.get_by_text("Turn a switch").wait_for(timeout=90_000)
    assert document(page)["turned"] == []
    assert page.page.get_by_role("table", name="OCI configuration").locator("tbody tr").count() == 0
    page.eventually("from vmcontainer_kernel.session import current; print(current().machines.guests)", "{}")
    assert page.errors == []
