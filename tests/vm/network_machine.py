"""A container and a machine on one bridge, in a network namespace of this process's own: ``network_machine.py FOLDER``.

Exits with status 0 if they found each other by name, both ways.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.vm.machines import Bench
from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.network.networks import Networks
from vmcontainer_kernel.node import Node
from vmcontainer_kernel.vm.guest import ensure_guest

PEER = [sys.executable, "-S", "-I", str(Path(__file__).parents[1] / "node/network_peer.py")]


async def output(node: Node, script: str) -> str:
    """Return what a script says in the machine."""
    parts: list[bytes] = []

    def keep(stream: int, data: bytes) -> None:
        parts.append(data)
        request.consumed(stream, len(data))

    request = node.start("exec", {"argv": ["/bin/sh", "-c", script]}, on_data=keep)
    await request.done
    return b"".join(parts).decode()


async def meet(folder: Path, networks: Networks, container: int) -> None:
    """Connect both and let each ask the other."""
    networks.prepare("app", "app", "lan")
    app = networks.attach("app", container, "lan")
    async with Bench(ensure_guest(), folder).booted() as machine:
        node = Node("vm", machine.stream)
        await node.connect(60)
        card = networks.tap("vm", "lan")
        await machine.plug_card(card["fd"], card["mac"])
        os.close(card["fd"])
        joined = await node.call("join", mac=card["mac"], address=f"{card['ip']}/{card['prefix_length']}")
        assert joined == {"interface": "eth1"}, joined
        await node.put(networks.hosts_text("vm").encode(), "/etc/hosts")
        assert await output(node, "busybox nc app 80") == "from the container", app
        served = asyncio.create_task(output(node, "busybox nc -l -p 81 -e echo from the machine"))
        enter = ["nsenter", f"--target={container}", "--net"]
        for _ in range(100):
            asked = [*enter, *PEER, "ask", card["ip"], "81"]
            answer = await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True, check=False)
            if answer.stdout:
                break
            await asyncio.sleep(0.1)
        assert answer.stdout == "from the machine\n", answer
        await served
        node.detach()
    assert f"{card['ip']} vm" in (folder / "network/app/hosts").read_text()


def main(folder: Path) -> None:
    linux.unshare(linux.CLONE_NEWNET)
    server = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *PEER, "serve", "80"]
    with subprocess.Popen([*server, "from the container"]) as container:
        networks = Networks(folder, session="meet")
        try:
            while Path(f"/proc/{container.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
                time.sleep(0.01)
            networks.create("lan", internal=True)
            asyncio.run(meet(folder, networks, container.pid))
        finally:
            networks.close()
            container.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
