"""Networks in a guest: its own kernel's modules, its own firewall, and ports that QEMU delivers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.machines import Bench
from vmcontainer_kernel.errors import UserError
from vmcontainer_kernel.fetching import fetch_bytes
from vmcontainer_kernel.guests import rehearse_network
from vmcontainer_kernel.node import Node
from vmcontainer_kernel.vm.guest import ensure_guest

pytestmark = pytest.mark.needs("qemu")

ROOT = Path(__file__).parents[2]
SCRIPT = '''
import json, os, subprocess, sys, time
sys.path.insert(0, "/usr/lib/vmcontainer")
from pathlib import Path
from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.network.networks import Networks
from vmcontainer_kernel.container.publish import read_publish

def container(program):
    """Fork a process with a network namespace of its own, which runs `program` when told."""
    ready, told, go, tell = *os.pipe(), *os.pipe()
    pid = os.fork()
    if pid == 0:
        linux.unshare(linux.CLONE_NEWNET)
        linux.link_up("lo")
        os.write(told, b"x")
        os.close(tell)
        os.read(go, 1)
        os.execvp(program[0], program)
    os.read(ready, 1)
    return pid, tell

def rules():
    links = sorted(path.name for path in Path("/sys/class/net").iterdir())
    return links, Path("/proc/sys/net/ipv4/ip_forward").read_text()

before = rules()
networks = Networks(Path("/run/vmcontainer"), session="guest", guest=True)
start = time.monotonic()
networks.create("web")
first_s = time.monotonic() - start
server, begin = container(["busybox", "nc", "-ll", "-p", "80", "-e", "echo", "hello from the guest"])
start = time.monotonic()
made = networks.attach("server", server, "web", publish=[read_publish("8080:80")])
attach_s = time.monotonic() - start
os.write(begin, b"x")
seen = ""
for _ in range(50):
    client, begin = container(["sh", "-c", f"busybox nc {made['ip']} 80 > /tmp/seen"])
    networks.attach("client", client, "web")
    os.write(begin, b"x")
    os.waitpid(client, 0)
    networks.detach("client")
    seen = Path("/tmp/seen").read_text()
    if seen:
        break
print(json.dumps({"first_s": first_s, "attach_s": attach_s, "seen": seen, "made": made}), flush=True)
sys.stdin.readline()
networks.close()
print(json.dumps({"left": rules() == before, "now": rules()}), flush=True)
'''


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    yield Bench(ensure_guest(), tmp_path_factory.mktemp("run"))


class Conversation:
    """A script in a guest: one line of JSON for each line it is sent."""

    def __init__(self, node: Node, script: str) -> None:
        self._lines: asyncio.Queue[Any] = asyncio.Queue()
        self._rest = b""
        self.errors = b""
        argv = ["/usr/bin/python3", "-S", "-c", script]
        self.request = node.start("exec", {"argv": argv, "stdin": True}, on_data=self._take)

    def _take(self, stream: int, data: bytes) -> None:
        self.request.consumed(stream, len(data))
        if stream == 5:
            self.errors += data
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._lines.put_nowait(json.loads(line))

    async def line(self, limit_s: float = 120.0) -> Any:
        return await asyncio.wait_for(self._lines.get(), limit_s)


async def said(port: int) -> bytes:
    """Return all that a server on this computer's loopback says."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()


def test_containers_in_a_guest_find_each_other_and_nothing_is_left(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.booted() as machine:
            node = Node("vm", machine.stream)
            await node.connect(30)
            talk = Conversation(node, SCRIPT)
            made = await talk.line()
            assert made["seen"] == "hello from the guest\n"
            # From this computer, through QEMU, the guest's own address, its helper and the bridge.
            port = await machine.publish("tcp", "127.0.0.1", 0, made["made"]["published"][0]["host_port"])
            assert await said(port) == b"hello from the guest\n"
            with pytest.raises(UserError, match="taken"):
                await machine.publish("tcp", "127.0.0.1", port, 80)
            await machine.unpublish("tcp", "127.0.0.1", port)
            with pytest.raises(ConnectionRefusedError):
                await said(port)
            await talk.request.feed(b"\n")
            end = await talk.line()
            assert end["left"], end
            node.detach()

    asyncio.run(scenario())


def test_a_rehearsal_loads_what_a_network_needs_and_leaves_none(bench: Bench) -> None:
    """What a template has done once costs each clone half as much; no clone has a program more for it."""

    async def shown(node: Node, script: str) -> str:
        out = await fetch_bytes(node, "exec", {"argv": ["/bin/sh", "-c", script]}, 1 << 16, what="exec")
        return out.decode()

    async def scenario() -> None:
        async with bench.booted() as machine:
            node = Node("vm", machine.stream)
            await node.connect(30)
            state = (
                "ls /sys/class/net; cat /proc/sys/net/ipv4/ip_forward; cat /proc/[0-9]*/comm | grep -c -e vmc -e pyth"
            )
            before, modules = await shown(node, state), await shown(node, "cut -d' ' -f1 /proc/modules")
            assert not {"bridge", "nf_tables"} & {*modules.split()}
            await rehearse_network(node)
            assert (await node.call("network.list"))["networks"] == []
            assert await shown(node, state) == before
            modules = await shown(node, "cut -d' ' -f1 /proc/modules")
            assert {"bridge", "nf_tables", "nft_masq", "nft_ct"} <= {*modules.split()}
            node.detach()

    asyncio.run(scenario())


@pytest.mark.needs("containers-on-host", "slirp4netns")
def test_a_container_and_a_machine_meet_on_one_bridge(tmp_path: Path) -> None:
    root = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
    command = [*root, sys.executable, "-m", "tests.vm.network_machine", str(tmp_path)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
