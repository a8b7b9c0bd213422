"""Xen in a guest: a real hypervisor with two domains, awake in a moment, looked at from all three sides."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator

import pytest

from tests.guest_engine import Result
from vmcontainer_kernel.machines import Guest, Wish
from vmcontainer_kernel.run import STDERR, STDOUT
from vmcontainer_kernel.session import Session
from vmcontainer_kernel.vm.packages import Origin

pytestmark = pytest.mark.needs("qemu")

XEN = Wish(origin=Origin(hypervisor="xen"))
# Packages, image and template are made by the first of all runs.
FIRST_LIMIT_S = 600.0
LIMIT_S = 180.0
CLOCK_LIMIT_S = 60.0


class Dom0:
    """A session with one machine, whose agent is in Xen's first domain."""

    def __init__(self) -> None:
        self.session = Session()
        self.session.wait(self.session.machines.ensure("xen", XEN), FIRST_LIMIT_S)

    @property
    def guest(self) -> Guest:
        return self.session.machines.guest("xen")

    def run(self, script: str) -> Result:
        return self.session.wait(self._run(script), LIMIT_S)

    async def _run(self, script: str) -> Result:
        streams: dict[int, bytes] = {}

        def keep(stream: int, data: bytes) -> None:
            streams[stream] = streams.get(stream, b"") + data
            request.consumed(stream, len(data))

        request = self.guest.node.start("exec", {"argv": ["/bin/sh", "-c", script]}, on_data=keep)
        answer = await request.done
        out, err = (streams.get(kind, b"").decode(errors="replace") for kind in (STDOUT, STDERR))
        return Result(answer["status"], out, err)

    def out(self, script: str) -> str:
        result = self.run(script)
        assert result.status == 0, result
        return result.out

    def domains(self) -> dict[str, str]:
        """Return name and state of each domain: blocked, running or, between the two, neither."""
        rows = [line.split() for line in self.out("xl list").splitlines()[1:]]
        return {row[0]: row[4] for row in rows}


@pytest.fixture(scope="module")
def dom0() -> Iterator[Dom0]:
    dom0 = Dom0()
    yield dom0
    dom0.session.close()


def test_a_clone_has_both_domains_at_once(dom0: Dom0) -> None:
    assert set(dom0.domains()) == {"Domain-0", "pv1"}
    awake_s = dict(dom0.guest.machine.phases)["agent"]
    assert awake_s < 10, "it is to be woken, not booted"


def test_xen_runs_on_the_machine_itself_and_linux_on_xen(dom0: Dom0) -> None:
    assert dom0.out("cat /sys/hypervisor/type") == "xen\n"
    assert "Hypervisor detected: Xen PV" in dom0.out("dmesg")
    # The hypervisor's own log begins with the machine's memory, and it was QEMU that started it.
    log = dom0.out("xl dmesg")
    assert log.startswith("(XEN) Xen version 4.")
    assert "Bootloader: qemu" in log
    assert "Dom0 kernel: 64-bit" in log
    total = re.search(r"^total_memory\s*: (\d+)$", dom0.out("xl info"), re.MULTILINE)
    given = dom0.guest.machine.config.memory_bytes >> 20
    assert total and given - 4 <= int(total[1]) <= given
    # Linux sees no hardware virtualization, and does not need it.
    assert not re.search(r"\b(vmx|svm)\b", dom0.out("grep -m1 ^flags /proc/cpuinfo"))


def test_the_second_domain_has_a_kernel_memory_and_processes_of_its_own(dom0: Dom0) -> None:
    script = "cat /proc/sys/kernel/random/boot_id; grep -c processor /proc/cpuinfo; hostname; cat /proc/1/comm"
    here, there = dom0.out(script).split(), dom0.out(f"xl-exec pv1 '{script}'").split()
    assert here[0] != there[0]
    assert there[1:] == ["1", "pv1", "init"]
    memory_kib = int(dom0.out("xl-exec pv1 cat /proc/meminfo").split()[1])
    assert memory_kib < 112 << 10
    boot = dom0.out("cat /var/log/xen/console/guest-pv1.log")
    assert "Linux version" in boot
    assert "domain=pv1" in boot


def test_a_command_in_a_domain_tells_its_status(dom0: Dom0) -> None:
    assert dom0.run("xl-exec pv1 'test -e /nothing'").status == 1
    missing = dom0.run("xl-exec nobody true")
    assert missing.status == 1
    assert "nobody" in missing.err
    assert "usage" in dom0.run("xl-exec").err


def test_another_domain_can_be_started_paused_and_ended(dom0: Dom0) -> None:
    dom0.out("xl create -q /etc/xen/pv2.cfg")
    assert set(dom0.domains()) == {"Domain-0", "pv1", "pv2"}
    dom0.out("xl pause pv2")
    assert dom0.domains()["pv2"] == "--p---"
    dom0.out("xl destroy pv2")
    assert "pv2" not in dom0.domains()


def test_a_clone_is_somebody_of_its_own(dom0: Dom0) -> None:
    now, name, mac = dom0.out("date +%s; hostname; cat /sys/class/net/eth0/address").split()
    assert abs(int(now) - time.time()) < CLOCK_LIMIT_S
    assert name == "xen"
    assert mac == dom0.guest.machine.config.mac


def test_the_hypervisor_below_sees_one_process_whatever_runs_in_it(dom0: Dom0) -> None:
    view = dom0.session.wait(dom0.guest.machine.view(), LIMIT_S)
    assert len(view["vcpus"]) == 1
    assert "xen" in view["qemu"]["command"]
    assert view["memory"]["given_bytes"] == dom0.guest.machine.config.memory_bytes


def test_it_moves_to_another_qemu_with_its_domains(dom0: Dom0) -> None:
    boot_id = "xl-exec pv1 cat /proc/sys/kernel/random/boot_id"
    before, pid = dom0.out(boot_id), dom0.guest.machine.pid
    dom0.session.wait(dom0.session.states.migrate("xen"), LIMIT_S)
    assert dom0.guest.machine.pid != pid
    assert set(dom0.domains()) == {"Domain-0", "pv1"}
    assert dom0.out(boot_id) == before


def test_it_powers_off_as_a_whole(dom0: Dom0) -> None:
    machine = dom0.guest.machine
    dom0.session.wait(dom0.session.machines.remove("xen"), LIMIT_S)
    dom0.session.wait(asyncio.wait_for(machine.gone.wait(), 1.0), LIMIT_S)
    assert "powered off" in machine.reason
