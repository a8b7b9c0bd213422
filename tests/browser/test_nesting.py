"""Boxes in boxes in a browser: the PIDs shown are those of /proc on both sides of the machine."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.conftest import Notebook, Notebooks

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("qemu"), pytest.mark.needs("guest-image")]

CELLS = (
    "%load_ext vmcontainer_kernel",
    "%%vm\nuname -s",
    "%%container inner --on vm\nsleep 987 </dev/null >/dev/null 2>&1 &\nhostname",
    "%%container outer --on host\nsleep 986 </dev/null >/dev/null 2>&1 &\nhostname",
    "%lab nesting",
    "%container rm outer --on host",
    "%vm rm vm",
)


def choose(page: Notebook, box: str, command: str) -> list[tuple[str, str, str]]:
    """Choose a process by keyboard in the box of that name; return the table of its levels."""
    place = page.page.get_by_role("group", name=box, exact=True)
    button = place.get_by_title(command, exact=True)
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    rows = page.page.get_by_role("table", name=f"PIDs of {command.split(maxsplit=1)[0]}").locator("tbody tr").all()
    return [tuple(row.locator("th, td").all_inner_texts()) for row in rows]  # type: ignore[misc]


def pids_in_guest(page: Notebook, pid: str) -> list[str]:
    script = f"grep NSpid /proc/{pid}/status; cat /proc/{pid}/cmdline"
    told = page.ask(f'from vmcontainer_kernel import lab; print(lab.run({script!r}, on="vm").out)')
    first, command = told.splitlines()[:2]
    assert command.split("\0")[:2] == ["sleep", "987"]
    return first.split()[1:]


def on_host(page: Notebook, code: str) -> str:
    return page.ask(f"import os, glob, pathlib; print({code})")


def test_a_process_has_a_pid_at_each_level_but_none_outside_its_machine(notebook: Notebooks) -> None:
    page = notebook(*CELLS, height=1400)
    page.run(0)
    assert page.text(1) == "Linux\n"
    assert page.text(2) == "inner\n"
    assert page.text(3) == "outer\n"
    page.run(4)
    page.page.locator(".vmc-nest").first.wait_for()

    check_keys(page)
    inside = choose(page, "container inner", "sleep 987")
    assert [level[0] for level in inside] == ["host kernel host", "guest kernel vm", "container inner"]
    assert inside[0][1] == "none"
    assert [level[1] for level in inside[1:]] == pids_in_guest(page, inside[1][1])
    qemu = re.search(r"PID (\d+)", inside[0][2])[1]  # type: ignore[index]
    assert "qemu-system" in on_host(page, f"pathlib.Path('/proc/{qemu}/cmdline').read_text()")
    chips = page.page.locator(".vmc-nest-pid:visible").all_inner_texts()
    assert chips == ["no PID", f"PID {inside[1][1]}", f"PID {inside[2][1]}"]

    machine = (
        page.page.get_by_role("group", name="machine vm", exact=True).locator(".vmc-nest-facts").first.inner_text()
    )
    threads = re.search(r"vCPU threads ([\d, ]+)", machine)[1].split(", ")  # type: ignore[index]
    tasks = on_host(page, f"*os.listdir('/proc/{qemu}/task')").split()
    assert set(map(str.strip, threads)) <= set(tasks)

    outside = choose(page, "container outer", "sleep 986")
    assert [level[0] for level in outside] == ["host kernel host", "container outer"]
    status = on_host(page, f"pathlib.Path('/proc/{outside[0][1]}/status').read_text()")
    assert re.search(r"NSpid:\s+(.*)", status)[1].split()[-2:] == [level[1] for level in outside]  # type: ignore[index]
    check_namespaces(page, outside[0][1])

    page.run(5)
    page.page.get_by_text("The chosen process has ended.", exact=True).wait_for()
    page.run(6)
    page.page.get_by_role("group", name="machine vm", exact=True).wait_for(state="detached")


def check_namespaces(page: Notebook, pid: str) -> None:
    """The inode numbers in the container's box are those of its processes."""
    box: Any = page.page.get_by_role("group", name="container outer", exact=True).locator(".vmc-nest-facts").first
    shown = dict(re.findall(r"(\w+) (\d{9,})", box.inner_text()))
    for kind in ("pid", "mnt", "uts", "ipc", "net"):
        assert on_host(page, f"os.readlink('/proc/{pid}/ns/{kind}')") == f"{kind}:[{shown[kind]}]"


def check_keys(page: Notebook) -> None:
    """An arrow key goes to the next process; what is chosen is said."""
    buttons = page.page.locator(".vmc-nest-process")
    buttons.first.focus()
    buttons.first.press("ArrowRight")
    assert page.page.evaluate("document.activeElement === document.querySelectorAll('.vmc-nest-process')[1]")
    buttons.nth(1).press("Enter")
    said = page.page.locator(".vmc-spoken", has_text=f"PIDs of {buttons.nth(1).locator('bdi').inner_text()}")
    said.wait_for(state="attached")
    assert "host kernel host" in said.inner_text()
    buttons.nth(1).press("Enter")
