"""The hypervisor view of a real machine, laid beside what the host's kernel and the guest say of the same things."""

import asyncio
import contextlib
import json
import os
import re
from pathlib import Path

import pytest

from tests.patience import now_s
from vmcontainer_kernel.delta import apply
from vmcontainer_kernel.errors import MachineError
from vmcontainer_kernel.inside import ask_inside
from vmcontainer_kernel.session import Session
from vmcontainer_kernel.verbs import inspecting
from vmcontainer_kernel.vm.observe.parts import PARTS

pytestmark = pytest.mark.needs("qemu")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Bench:
    """A session with one machine."""

    def __init__(self):
        self.session = Session()
        self.wait = self.session.wait
        self.guest = self.wait(self.session.machines.ensure("seen"))
        self.machine = self.guest.machine

    def run(self, script):
        """Run a shell script in the guest and return its output."""

        async def run():
            output = bytearray()

            def keep(stream, data):
                output.extend(data)
                request.consumed(stream, len(data))

            request = self.guest.node.start("exec", {"argv": ["/bin/sh", "-c", script]}, on_data=keep)
            await request.done
            return output.decode()

        return self.wait(run())

    def view(self, *parts):
        return self.wait(self.machine.observer.view(parts))

    def part(self, name):
        """Return a part with the guest's side of it."""
        return self.wait(inspecting._document(self.session, "seen", [name]))["parts"][name]


@pytest.fixture(scope="module")
def bench():
    bench = Bench()
    yield bench
    bench.session.close()


def thread_s(pid, thread):
    fields = Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def test_nothing_is_missing_but_what_this_accelerator_has_not(bench):
    shown = bench.view(*PARTS)
    engine = shown["accelerator"]["name"]
    shown["missing"].pop("memory.guest_used_bytes", None)
    assert list(shown["missing"]) == ["exits" if engine == "tcg" else "translation"]
    assert engine.upper() in next(iter(shown["missing"].values()))
    assert {name: list(part.get("missing", {})) for name, part in shown["parts"].items()} == {
        "registers": [],
        "memory": [],
        "devices": ["pci[].guest"],
        "queues": [],
        "interrupts": ["guest"],
    }
    assert json.loads(json.dumps(shown)) == shown


def test_a_virtual_cpus_time_is_its_threads(bench):
    bench.run("i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done")
    before = bench.view()
    [cpu] = before["vcpus"]
    assert cpu["thread_id"] != bench.machine.pid
    assert cpu["cpu_s"] <= thread_s(bench.machine.pid, cpu["thread_id"])
    bench.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    after = bench.view()
    assert after["vcpus"][0]["cpu_s"] > cpu["cpu_s"] + 0.05
    if before["translation"]:
        assert after["translation"]["blocks"] >= before["translation"]["blocks"] > 1000


def test_what_the_guest_writes_becomes_its_own(bench):
    before = bench.part("memory")["ram"]
    bench.run("head -c 8000000 /dev/urandom > /tmp/mine")
    after = bench.part("memory")["ram"]
    assert after["copied_bytes"] - before["copied_bytes"] > 6_000_000
    # Beside smaps itself, read now.
    text = Path(f"/proc/{bench.machine.pid}/smaps").read_text()
    resident = [int(kib) * 1024 for kib in re.findall(r"^Rss: +(\d+) kB$", text, re.MULTILINE)]
    assert any(abs(one - after["resident_bytes"]) < 4 << 20 for one in resident)
    assert after["template_bytes"] + after["copied_bytes"] == after["resident_bytes"]
    bench.run("rm /tmp/mine")


def test_the_guest_finds_the_devices_that_it_was_given(bench):
    found = {one["address"]: one for one in bench.part("devices")["pci"]}
    listed = bench.run("cd /sys/bus/pci/devices && for d in *; do echo $d $(cat $d/vendor $d/device); done")
    seen = {line.split()[0].removeprefix("0000:"): line.split()[1:] for line in listed.splitlines()}
    assert set(found) == set(seen)
    for address, one in found.items():
        assert [f"0x{one['vendor']}", f"0x{one['device']}"] == seen[address]
        assert (one["guest"]["vendor"], one["guest"]["device"]) == (one["vendor"], one["device"])
    drivers = {one["id"]: one["guest"]["driver"] for one in found.values()}
    assert drivers["disk"] == "virtio-pci"


def test_the_guest_counts_an_interrupt_for_what_the_queue_used(bench):
    def disk_queue():
        devices = {one["device"]: one for one in bench.part("queues")["devices"]}
        assert devices["disk"]["driver"][-1] == "DRIVER_OK"
        return devices["disk"]["queues"][0]["used"], bench.view()["blocks"][0]["read_operations"]

    before = disk_queue()
    bench.run("echo 3 > /proc/sys/vm/drop_caches; cat /usr/bin/python3* > /dev/null")
    after = disk_queue()
    used, read = ((later - earlier) % 65536 for earlier, later in zip(before, after, strict=True))
    assert used == read > 3
    lines = {one["what"].rpartition(" ")[2]: one for one in bench.part("interrupts")["guest"]}
    proc = next(line for line in bench.run("cat /proc/interrupts").splitlines() if line.endswith("virtio1-req.0"))
    assert 3 < lines["virtio1-req.0"]["count"] <= int(proc.split()[1])


def test_registers_of_a_guest_that_stands_still_do_not_change(bench):
    bench.wait(bench.session.machines.pause("seen"))
    try:
        first, second = (bench.view("registers")["parts"]["registers"]["vcpus"] for _ in range(2))
        assert first == second
        assert re.fullmatch(r"[0-9a-f]{16}", first[0]["values"]["RIP" if "RIP" in first[0]["values"] else "PC"])
        assert "paused" in bench.wait(ask_inside(bench.guest, "devices")).reason
    finally:
        bench.wait(bench.session.machines.resume("seen"))


def test_its_snapshots_are_told(bench):
    states = bench.session.states
    title, _ = bench.wait(states.snapshot("seen", "looked-at"))
    try:
        shown = bench.wait(inspecting._document(bench.session, "seen", []))
        assert shown["snapshot"] == title
        assert [one["name"] for one in shown["snapshots"]] == ["seen:looked-at"]
        assert shown["snapshots"][0]["size_bytes"] > 0
    finally:
        bench.wait(states.remove(title))


def test_tables(bench):
    for name in inspecting.TABLES:
        document = bench.wait(inspecting._document(bench.session, "seen", [name] if name in PARTS else []))
        assert len(repr(inspecting.TABLES[name](document)).splitlines()) > 3, name


def test_two_who_look_share_one_poller_and_are_told_little(bench):
    async def look():
        async with bench.machine.poller.follow() as one, bench.machine.poller.follow() as two:
            seen, _ = await one.next(), await two.next()
            sizes = []
            for _ in range(6):
                change = await one.next()
                sizes.append(len(json.dumps(change)))
                seen = apply(seen, change)
                await two.next()
                assert one.document == two.document == seen
            return sizes

    assert max(bench.wait(look())) < 2000


def test_who_looks_away_in_the_middle_leaves_no_trace(bench, caplog):
    async def look_away():
        for number in range(8):
            task = asyncio.create_task(bench.machine.observer.view(PARTS))
            await asyncio.sleep(0.003 * number)
            task.cancel()
            await asyncio.wait([task])
        return await bench.machine.observer.view(PARTS)

    assert bench.wait(look_away())["status"] == "running"
    assert "Unknown ID" not in caplog.text


def test_a_machine_that_ends_while_it_is_followed(bench):
    async def look():
        async with bench.machine.poller.follow() as one:
            await one.next()
            await bench.session.machines.remove("seen")
            deadline = now_s() + 10
            with contextlib.suppress(MachineError):
                while one.document["status"] != "gone":
                    assert now_s() < deadline
                    await one.next()
            return one.document, await bench.machine.view()

    document, later = bench.wait(look())
    assert later["status"] == "gone"
    assert later["missing"]["translation"]
    assert document["machine"] == "seen"
