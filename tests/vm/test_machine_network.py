"""Networks of machines: private ones, published ports, a way out, and none at all."""

import asyncio
import dataclasses
import socket
import threading

import pytest

from tests.vm.machines import Bench
from vmcontainer_kernel import cells, drives, magics
from vmcontainer_kernel.errors import UserError
from vmcontainer_kernel.guests import identity
from vmcontainer_kernel.node import Node
from vmcontainer_kernel.options import parse
from vmcontainer_kernel.session import Session
from vmcontainer_kernel.verbs import VERBS
from vmcontainer_kernel.verbs.words import choose
from vmcontainer_kernel.vm.guest import ensure_guest

pytestmark = pytest.mark.needs("qemu")
SERVER = "busybox nc -ll -p 80 -e echo hello from $(hostname) > /dev/null 2>&1 &"


class Notebook:
    def __init__(self):
        self.session = Session()

    def cell(self, line, text):
        """Run a cell that must succeed; return what it writes."""
        options = parse(magics.vm_cell, line)
        start = cells.vm_start(self.session, options, text, lambda phase, fraction: None)
        output = bytearray()
        run = self.session.run("test", start, lambda stream, data: output.extend(data))
        assert run.answer.result(40)["status"] == 0, output
        return output.decode().strip()

    def verb(self, line):
        verb, words = choose(VERBS["vm"], "%vm", line, "ls")
        return verb.action(self.session, words, "en")


@pytest.fixture(scope="module")
def notebook():
    notebook = Notebook()
    yield notebook
    notebook.session.close()


def hear(port):
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        return sock.makefile("rb").read()


def test_machines_of_one_network_find_each_other_by_name(notebook):
    notebook.cell("one --network lab", SERVER)
    notebook.cell("two --network lab", "true")
    assert notebook.cell("two --network lab", "nc one 80 < /dev/null") == "hello from one"
    assert notebook.cell("one", "ping -c 1 -w 20 two > /dev/null && echo there") == "there"
    rows = {row[2]: row for row in notebook.verb("network").rows}
    assert set(rows) == {"one", "two"}
    assert (rows["one"][0], rows["one"][3], rows["two"][3]) == ("lab", "172.29.0.1", "172.29.0.2")
    # Many frames in a row: none may be torn.
    serve = "busybox nc -ll -p 81 -e cat /tmp/x > /dev/null 2>&1 &"
    there = notebook.cell("one", f"head -c 3000000 /dev/urandom > /tmp/x; md5sum < /tmp/x; {serve}")
    fetch = "until nc one 81 < /dev/null > /tmp/y; do sleep 0.1; done; md5sum < /tmp/y"
    assert notebook.cell("two", fetch) == there


def test_another_network_is_another_one(notebook):
    with pytest.raises(UserError, match="one slot"):
        notebook.verb("network connect other two")
    notebook.cell("three", "true")
    with pytest.raises(UserError, match="cannot be a network"):
        notebook.verb("network connect o/t three")
    assert "172.29.1.1" in repr(notebook.verb("network connect other three"))
    stranger = "ip address add 172.29.0.9/24 dev eth1; ping -c 1 -w 2 172.29.0.1 > /dev/null; echo $?"
    assert notebook.cell("three", stranger) == "1"


def test_a_machine_that_was_reset_is_in_its_network_again(notebook):
    notebook.session.wait(notebook.session.machines.reset("two"))
    assert notebook.cell("two", "nc one 80 < /dev/null") == "hello from one"


def test_a_published_port(notebook):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):  # a second cell with the same words changes nothing
        notebook.cell(f"one --publish {port}:80", "true")
    assert hear(port) == b"hello from one\n"
    with pytest.raises(UserError, match="taken"):
        notebook.cell(f"two -p {port}:80", "true")


def test_a_machine_without_a_network_and_one_with_a_way_out(tmp_path):
    bench = Bench(ensure_guest(), tmp_path)

    async def asked(config, script):
        bench.config = config
        async with bench.booted() as machine:
            node = Node("vm", machine.stream)
            await node.connect(60)
            await node.call("renew", **identity(machine))
            found = await drives.in_guest(node, script)
            node.detach()
            return found

    without = dataclasses.replace(bench.config, network=False)
    assert asyncio.run(asked(without, "ls /sys/class/net")) == (0, "lo\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"from outside\n")

        threading.Thread(target=serve, daemon=True).start()
        outward = dataclasses.replace(bench.config, network=True, restricted=False)
        assert asyncio.run(asked(outward, f"nc 10.0.2.2 {port} < /dev/null")) == (0, "from outside\n")
