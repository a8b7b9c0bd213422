"""KVM in a guest: where its processor has virtualization, and QEMU's emulated one has, there is a whole /dev/kvm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.sessions import Lab
from vmcontainer_kernel.vm import accelerator

pytestmark = pytest.mark.needs("qemu")

# linux/kvm.h: KVM_GET_API_VERSION, and a machine with one virtual CPU.
ASK = """
import fcntl, os
kvm = os.open("/dev/kvm", os.O_RDWR)
machine = fcntl.ioctl(kvm, 0xAE01, 0)
print(fcntl.ioctl(kvm, 0xAE00, 0), fcntl.ioctl(machine, 0xAE41, 0) > machine)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


def test_a_processor_that_can_nest_gives_a_kvm(lab: Lab) -> None:
    nests = lab.sh("nested", "grep -ow -m1 -E 'svm|vmx' /proc/cpuinfo || true").split()
    assert nests == ["svm"] or accelerator.choose().name == "kvm"
    module = {"svm": "kvm_amd", "vmx": "kvm_intel"}
    for one in nests:
        found = lab.sh("nested", f"modprobe {module[one]} && python3 -c '{ASK}'")
        assert found.split() == ["12", "True"]


def test_each_exit_can_be_traced(lab: Lab) -> None:
    where = "/sys/kernel/tracing"
    text = f"mount -t tracefs none {where}; modprobe -a kvm_amd; ls {where}/events/kvm | grep -x kvm_exit"
    assert lab.sh("nested", text) == "kvm_exit"
