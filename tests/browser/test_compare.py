"""The compare view in a browser: four places measured, and what the page says of them is what the kernel says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.browser.conftest import Notebook, Notebooks

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.needs("qemu"),
    pytest.mark.needs("guest-image"),
    pytest.mark.needs("containers-on-host"),
]

CELL = "%%lab compare --rounds 1 --only process,container,machine\necho here; uname -r"


def table(page: Notebook, name: str) -> dict[str, list[str]]:
    """A table of the view: the head of each row, and its cells without what is said only to those who hear it."""
    rows = page.page.get_by_role("table", name=name).locator("tbody tr").all()
    found = {}
    for row in rows:
        cells = [cell.locator("bdi").inner_text() for cell in row.locator("td").all()]
        found[row.locator("th").inner_text()] = cells
    return found


def test_one_cell_in_three_places(notebook: Notebooks) -> None:
    page = notebook("%load_ext vmcontainer_kernel", CELL, height=2400)
    page.run(0)
    page.run(1)
    page.page.get_by_text("The same cell in 3 places").wait_for()

    sees, own = table(page, "What it sees"), os.uname()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert sees["kernel"][:2] == [own.release] * 2
    assert sees["kernel"][2] != own.release
    assert sees["this boot of it"][:2] == [boot] * 2
    assert sees["this boot of it"][2] != boot
    assert sees["host name"][0] == own.nodename
    assert sees["its own PID"][1] == "1"
    different = page.page.get_by_role("table", name="What it sees").locator("tr", has_text="this boot of it")
    assert [cell.inner_text()[0] for cell in different.locator("td").all()][2] == "≠"

    reaches = table(page, "What it could reach")
    assert reaches["read a file of this notebook"] == ["yes · ok", "no · ENOENT", "no · ENOENT"]
    assert reaches["set the clock it sees"][1:] == ["no · EPERM", "yes · ok"]

    costs = table(page, "What it costs")
    assert all(text.endswith(("ms", "s")) for text in costs["first byte"])
    outputs = page.page.locator(".vmc-card .vmc-output").all_text_contents()
    assert [text.split("\n")[:2] for text in outputs] == [
        *(["here", own.release],) * 2,
        ["here", sees["kernel"][2]],
    ]
    scales_and_measures_again(page)
    page.eventually("from vmcontainer_kernel.session import current; print(current().machines.guests)", "{}")
    assert page.errors == []


def scales_and_measures_again(page: Notebook) -> None:
    """The smallest bar grows on a logarithmic scale; the button makes all of it once more."""
    bar = page.page.locator(".vmc-multiple").nth(1).locator("rect.vmc-bar-private").first
    linear = float((bar.get_attribute("width") or "0").rstrip("%"))
    scale = page.page.get_by_role("button", name="Logarithmic scale")
    scale.press("Enter")
    assert scale.get_attribute("aria-pressed") == "true"
    assert float((bar.get_attribute("width") or "0").rstrip("%")) > linear

    first = table(page, "What it sees")["this boot of it"][2]
    page.page.get_by_role("button", name="Measure again").click()
    page.page.get_by_text("Measured again.").wait_for(state="attached", timeout=90_000)
    assert table(page, "What it sees")["this boot of it"][2] != first
