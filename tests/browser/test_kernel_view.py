"""The kernel view of real containers: what it shows is what the kernel says, what is folded is not asked for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Notebook, Notebooks
from tests.patience import now_s

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("containers-on-host")]

LOAD = "%load_ext vmcontainer_kernel"


def eventually(seen: Callable[[], Any], timeout_s: float = 20) -> Any:
    deadline_s = now_s() + timeout_s
    while not (found := seen()):
        assert now_s() < deadline_s
        time.sleep(0.1)
    return found


def section(page: Notebook, name: str) -> Any:
    return page.page.locator(f".vmc-section[data-section={name}]")


def pid_of(page: Notebook, name: str) -> int:
    """The container's first process, asked past the view."""
    asked = "from vmcontainer_kernel.session import current; s = current()"
    view = "s.wait(s.wait(s.host()).view())"
    code = f"{asked}; print(next(one['pid'] for one in {view}['containers'] if one['name'] == {name!r}))"
    return int(page.ask(code))


def test_a_memory_limit_that_kills_is_seen_and_marked(notebook: Notebooks) -> None:
    waits = "while [ ! -e /go ]; do sleep 0.1; done; head -c 60m /dev/zero | tail > /dev/null; sleep 600"
    greedy = f"%%container greedy -d --memory 16m\n{waits}"
    page = notebook(LOAD, greedy, "%container view", "%container rm -f greedy", height=1600)
    for index in range(3):
        page.run(index)
    card = page.page.locator(".vmc-card:has(.vmc-gauge)", has_text="greedy")
    card.get_by_text("of 16.0 MiB").wait_for()
    memory = card.locator(".vmc-gauge").first
    assert memory.get_attribute("data-events") == "0"
    Path(f"/proc/{pid_of(page, 'greedy')}/root/go").touch()
    card.locator(".vmc-alarm", has_text="OOM kills 1").wait_for()
    page.page.locator(".vmc-spoken", has_text="The memory limit of greedy killed 1.").wait_for(state="attached")
    # The mark on the history, and the kernel's own count.
    assert memory.get_attribute("data-events") == "1"
    assert "V40" in (memory.locator(".vmc-event").get_attribute("d") or "")
    found = Path("/sys/fs/cgroup").glob("**/vmcontainer/*/greedy/memory.*")
    groups = [path for path in found if path.name in ("memory.oom_control", "memory.events")]
    assert any("oom_kill 1" in path.read_text() for path in groups)
    page.run(3)
    page.page.get_by_text("No container on this node.").wait_for()


def test_what_is_folded_is_not_asked_for(notebook: Notebooks) -> None:
    show = "view = get_ipython().run_line_magic('container', 'view web')\nview"
    page = notebook(LOAD, "%%container web -d\nexec nc -l -p 4567", show, "%container rm -f web", height=1600)
    page.run(0)
    page.run(1)
    page.run(2)
    mounts = section(page, "mounts")
    page.eventually("print(sorted(view.document.get('parts', {})), view.wanted)", "[] []")
    mounts.locator("summary").click()
    page.eventually("print(sorted(view.document.get('parts', {})), view.wanted)", "['mounts'] ['mounts']")
    mounts.locator(".vmc-layer[data-kind=upper]").first.wait_for()
    upper = mounts.locator(".vmc-layer[data-kind=upper] code").first.get_attribute("title")
    assert upper
    # What the view calls the upper layer is where a write appears (the agent's mount namespace has the same folder).
    pid = pid_of(page, "web")
    Path(f"/proc/{pid}/root/from-outside").write_text("x")
    assert Path(upper, "from-outside").read_text() == "x"
    section(page, "mounts").locator("summary").first.click()
    page.eventually("print(sorted(view.document.get('parts', {})), view.wanted)", "[] []")
    sockets = section(page, "sockets")
    sockets.locator("summary").first.click()
    row = sockets.locator("tr", has_text=":4567").first
    row.wait_for()
    assert str(pid) in row.inner_text()
    assert "listening" in row.inner_text()
    page.run(3)


def test_the_matrix_and_numbers_are_the_kernels(notebook: Notebooks) -> None:
    page = notebook(
        LOAD,
        "%%container one -d --network none\nsleep 600",
        "%%container two -d --network container:one\nsleep 600",
        "%container view",
        "%container rm -f one two",
        height=1600,
    )
    for index in range(4):
        page.run(index)
    one, two = pid_of(page, "one"), pid_of(page, "two")
    inode = str(Path(f"/proc/{one}/ns/net").readlink()).strip("net:[]")
    assert str(Path(f"/proc/{two}/ns/net").readlink()).strip("net:[]") == inode
    matrix = page.page.get_by_role("table", name="Namespaces")

    def row_of_two() -> list[str]:
        rows = [row.locator("th, td").all_text_contents() for row in matrix.locator("tbody tr").all()]
        return next((cells for cells in rows if "two" in cells[0]), [])

    cells = eventually(row_of_two)
    assert inode in cells[5]
    assert "shared with one" in cells[5]
    page.page.get_by_role("button", name="A row for each process").press("Enter")
    matrix.get_by_text(re.compile(rf"^two \w+ {two}$")).wait_for()
    processes = section(page, "processes")
    assert processes.get_by_text(str(two), exact=True).count() == 1
    network = section(page, "network")
    network.locator("summary").first.press("Enter")
    network.get_by_text("127.0.0.1").first.wait_for()
    page.run(4)
