"""Writes that appear above an image's layers, and packets that are counted on their way, in a real notebook."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Notebook, Notebooks
from tests.browser.test_kernel_view import LOAD, eventually, pid_of

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("containers-on-host")]


def change(page: Notebook, path: str) -> Any:
    return page.page.locator("tr.vmc-change").filter(has=page.page.get_by_text(path, exact=True))


def test_a_write_appears_in_the_upper_layer(notebook: Notebooks) -> None:
    page = notebook(
        LOAD,
        "%%container web -d\nsleep 600",
        "%container layers busybox",
        "%%container web\necho 12345 > /new; rm /bin/vi; rm -r /etc; mkdir /etc",
        "%container rm -f web",
        height=1200,
    )
    for index in range(3):
        page.run(index)
    page.page.locator(".vmc-layer").first.wait_for()
    assert change(page, "/new").count() == 0
    upper = Path(page.page.locator(".vmc-card .vmc-mono").first.inner_text().removeprefix("kept in "))
    page.run(3)
    change(page, "/new").wait_for()
    assert "6 B" in change(page, "/new").inner_text()
    assert "added" in change(page, "/new").inner_text()
    assert "whiteout" in change(page, "/bin/vi").inner_text()
    assert "opaque" in change(page, "/etc").inner_text()
    # As they lie there: a character device 0:0, and the file.
    assert (upper / "new").read_text() == "12345\n"
    assert (upper / "bin/vi").is_char_device()
    Path(f"/proc/{pid_of(page, 'web')}/root/new").unlink()
    change(page, "/new").wait_for(state="detached")
    page.run(4)


@pytest.mark.needs("slirp4netns")
def test_packets_are_seen_on_their_way(notebook: Notebooks) -> None:
    page = notebook(
        LOAD,
        "%%container web -d -p 0:80\nwhile :; do echo hello | nc -l -p 80; done",
        "%container network view",
        "%container rm -f web",
        height=1200,
    )
    for index in range(3):
        page.run(index)
    hops = page.page.locator(".vmc-hop")
    hops.nth(7).wait_for()
    kinds = [hops.nth(index).locator(".vmc-strong").first.inner_text() for index in range(8)]
    assert kinds[:5] == ["interface", "cable (veth)", "bridge", "rules", "NAT"]
    port = int(re.findall(r"127\.0\.0\.1:(\d+)/tcp", page.page.locator(".vmc").inner_text())[0])

    def packets(index: int) -> int:
        return int(hops.nth(index).get_by_role("group", name="in").inner_text().split()[1])

    before = packets(0)
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            assert sock.recv(100) in (b"hello\n", b"")
    eventually(lambda: packets(0) > before and packets(1) > before)
    pid = pid_of(page, "web")

    def received() -> int:
        """What the kernel counted; a packet of the neighbourhood's may still come at any time."""
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
        return int(next(one for one in lines if "eth0:" in one).split(":")[1].split()[1])

    eventually(lambda: packets(0) == received())
    row = page.page.locator("tr", has_text=f"127.0.0.1:{port}/tcp")
    eventually(lambda: int(row.locator("td").nth(1).inner_text()) >= 5)
    page.run(3)
