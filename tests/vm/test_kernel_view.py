"""A guest's kernel, looked at from the notebook: control groups of version 2, processes without the kernel's own
threads, and the way of a packet that goes on through QEMU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.patience import now_s
from tests.vm.sessions import Lab
from vmcontainer_kernel.live.images import image_source
from vmcontainer_kernel.live.kernel import Looks
from vmcontainer_kernel.live.network import network_source

pytestmark = [pytest.mark.needs("qemu"), pytest.mark.needs("guest-image")]


class Guest:
    """A machine with containers in it."""

    def __init__(self) -> None:
        self.lab = Lab()
        self.session = self.lab.session
        self.lab.sh("vm", "true")
        self.node = self.lab.wait(self.session.node("vm"))
        self.looks = Looks(self.node)

    def run(self, name: str, script: str, **options: Any) -> None:
        options = {"argv": ["sh", "-c", script], **options}
        self.lab.wait(self.node.call("container.run", name=name, options=options, detach=True))

    def view(self, *parts: str) -> Any:
        return self.lab.wait(self.looks.view(frozenset(parts)))

    def first(self, source: Any, *parts: str) -> Any:
        async def one() -> Any:
            documents = source.documents(lambda: frozenset(parts))
            try:
                return await anext(documents)
            finally:
                await documents.aclose()

        return self.lab.wait(one())

    def until(self, found: Callable[[], Any]) -> Any:
        deadline_s = now_s() + 60
        while not (seen := found()):
            assert now_s() < deadline_s
            time.sleep(0.3)
        return seen


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.session.close()


def test_version_2_counts_waiting_and_what_a_limit_killed(guest: Guest) -> None:
    guest.run("busy", "while :; do :; done", cpus=0.2, memory_bytes=16 << 20)
    guest.run("greedy", "sleep 1; head -c 60m /dev/zero | tail > /dev/null; sleep 600", memory_bytes=16 << 20)
    try:
        view = guest.view()
        assert (view["kernel"]["cgroup"], view["node"]) == ("v2", "vm")
        assert "containers[].pressure" not in view["missing"]

        def meters() -> dict[str, Any]:
            return {one["name"]: one for one in guest.view()["containers"]}

        guest.until(lambda: meters()["greedy"]["memory"]["oom_kills"] == 1)
        guest.until(lambda: meters()["busy"]["cpu"]["throttled_periods"] > 3)
        pressure = guest.until(lambda: meters()["busy"]["pressure"])
        assert pressure["cpu"]["some_s"] >= 0
        assert "io" in pressure
        # Its own kernel counts the same.
        assert "oom_kill 1" in guest.lab.sh("vm", "cat $(find /sys/fs/cgroup -path '*/greedy/memory.events')")
    finally:
        for name in ("busy", "greedy"):
            guest.lab.wait(guest.node.call("container.remove", name=name, force=True))


def test_processes_are_all_but_the_kernels_own(guest: Guest) -> None:
    rows = guest.view()["processes"]
    assert rows[0]["pid"] == 1
    assert rows[0]["role"] == "agent"
    assert not [row for row in rows if row["comm"] == "kthreadd"]
    spaces = guest.view("mounts", "network")["parts"]
    assert any(mount["point"] == "/" for mount in spaces["mounts"]["spaces"][0]["mounts"])
    names = [link["name"] for link in spaces["network"]["spaces"][0]["links"]]
    assert sorted(names) == sorted(guest.lab.sh("vm", "ls /sys/class/net").split())


def test_a_packets_way_goes_on_through_qemu(guest: Guest) -> None:
    guest.run("web", "sleep 600", network="bridge")
    try:
        path = guest.first(network_source(guest.session, "vm"))["paths"][0]
        kinds = [hop["kind"] for hop in path["hops"]]
        assert kinds == ["interface", "veth", "bridge", "rules", "nat", "interface", "card", "usernet"]
        assert set(path["missing"]) >= {"hops[6].out", "hops[7].out"}
        assert path["hops"][6]["address"] in guest.lab.sh("vm", "cat /sys/class/net/*/address")
    finally:
        guest.lab.wait(guest.node.call("container.remove", name="web", force=True))


def test_what_is_written_in_a_guests_container(guest: Guest) -> None:
    guest.run("writer", "echo 12345 > /new; rm /bin/vi; sleep 600")
    try:
        source = image_source(guest.session, "vm", "busybox")

        def rows() -> Any:
            found = guest.first(source, "changes")["containers"][0]["changes"]["rows"]
            return found if any(row["path"] == "/bin/vi" for row in found) else None

        marks = {row["path"]: row["mark"] for row in guest.until(rows)}
        assert (marks["/bin/vi"], marks["/new"]) == ("whiteout", "")
        assert "changes" not in guest.first(source)["containers"][0]
    finally:
        guest.lab.wait(guest.node.call("container.remove", name="writer", force=True))
