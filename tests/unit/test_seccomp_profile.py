"""The default filter: what it decides for every call, and where that differs from what podman installs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit import bpf_machine
from vmcontainer_kernel.container.config import DEFAULT_CAPABILITIES
from vmcontainer_kernel.container.fields import Fields
from vmcontainer_kernel.container.parsing_linux import parse_linux
from vmcontainer_kernel.container.seccomp.compiler import compile_filter
from vmcontainer_kernel.container.seccomp.docker_profile import convert
from vmcontainer_kernel.container.seccomp.profile import CLOSED, default_profile
from vmcontainer_kernel.container.seccomp.syscalls import ABIS, MACHINES, X32_BIT, numbers

PODMAN = Path("/usr/share/containers/seccomp.json")
ALLOW, EPERM, ENOSYS, EINVAL = 0x7FFF0000, 0x50001, 0x50026, 0x50016

# Where we decide otherwise than podman (containers-common 0.50 of Debian 12; Debian 13's is nearer in a few calls):
# its author trusts user namespaces, ours are Docker's.
CLOSER = {
    "mounts, and namespaces to do it in": (
        "mount umount umount2 mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick pivot_root"
        " unshare setns clone clone3"
    ),
    "keys have no namespace": "keyctl",
    "the node's log": "syslog",
    "the node's power switch": "reboot",
    "the node's memory banks": "get_mempolicy set_mempolicy mbind",
    "descriptors of other processes": "pidfd_getfd",
    "of 32-bit programs older than Linux 2.2": "readdir sigaction signal sigpending sigsuspend",
}
WIDER = {
    "newer than that profile": (
        "cachestat fchmodat2 futex_requeue futex_wait futex_waitv futex_wake getxattrat io_pgetevents_time64 listmount"
        " listxattrat map_shadow_stack mseal removexattrat setxattrat statmount uretprobe"
    ),
    "in Docker's since 2023; io_submit has been open in both for long": "io_pgetevents vmsplice",
}
# socket: podman refuses audit's netlink protocol, Docker some families; neither has the other's condition.
OTHERWISE = {"socket"}


def program(document: dict[str, Any], machine: str = "x86_64") -> list[tuple[int, int, int, int]]:
    """Return the filter as it is loaded: parsed and compiled."""
    seccomp = parse_linux(Fields({"seccomp": document})).seccomp
    assert seccomp
    return bpf_machine.disassemble(compile_filter(seccomp, machine))


def verdict(
    of: list[tuple[int, int, int, int]], name: str, *args: int, abi: str = "SCMP_ARCH_X86_64", number: int = -1
) -> int:
    number = numbers(ABIS[abi].name)[name] if number < 0 else number
    bit = X32_BIT if abi == "SCMP_ARCH_X32" else 0
    return bpf_machine.run(of, ABIS[abi].audit, bit | number, args)[0]


OURS = program(default_profile(DEFAULT_CAPABILITIES, machine="x86_64"))


@pytest.mark.parametrize("abi", MACHINES["x86_64"])
def test_the_decisions_are_podmans_but_for_these(abi: str) -> None:
    theirs = program(convert(json.loads(PODMAN.read_text()), DEFAULT_CAPABILITIES, machine="x86_64"))
    table = numbers(ABIS[abi].name)
    new_user_namespace = 0x10000000
    opened = {name: verdict(OURS, name, new_user_namespace, abi=abi) == ALLOW for name in table}
    closer = {
        name for name in table if not opened[name] and verdict(theirs, name, new_user_namespace, abi=abi) == ALLOW
    }
    wider = {name for name in table if opened[name] and verdict(theirs, name, new_user_namespace, abi=abi) != ALLOW}
    listed_closer, listed_wider = (
        {name for names in listed.values() for name in names.split()} & table.keys() for listed in (CLOSER, WIDER)
    )
    assert (closer - OTHERWISE - listed_closer, wider - OTHERWISE - listed_wider) == (set(), set())
    assert not [name for name in listed_closer if opened[name]]
    assert all(opened[name] for name in listed_wider)


@pytest.mark.parametrize(
    ("name", "args", "wanted"),
    [
        ("clone", [0x11], ALLOW),
        ("clone", [0x3D0F00], ALLOW),  # a thread
        ("clone", [0x10000011], EPERM),
        ("clone", [0x20000011], EPERM),
        ("clone", [0x00020011], EPERM),
        ("clone", [0x02000011], EPERM),
        ("clone", [0x1_00000011], ALLOW),
        ("clone3", [0, 0], ENOSYS),
        ("personality", [0], ALLOW),
        ("personality", [0xFFFFFFFF], ALLOW),
        ("personality", [0x0040000], EPERM),  # ADDR_NO_RANDOMIZE
        ("personality", [0xFFFFFFFFFFFFFFFF], EPERM),
        ("socket", [1, 1, 0], ALLOW),
        ("socket", [16, 3, 0], ALLOW),
        ("socket", [40, 1, 0], EPERM),  # AF_VSOCK
        ("socket", [38, 5, 0], EPERM),  # AF_ALG
        ("socket", [12, 1, 0], EPERM),
        ("socket", [45, 1, 0], ALLOW),
        ("socket", [46, 1, 0], EPERM),
        ("ptrace", [0], ALLOW),
        ("io_uring_setup", [1, 0], EPERM),
        ("userfaultfd", [0], EPERM),
        ("chroot", [0], ALLOW),  # SYS_CHROOT is among the default capabilities
    ],
)
def test_conditions(name: str, args: list[int], wanted: int) -> None:
    assert hex(verdict(OURS, name, *args)) == hex(wanted)


def test_a_call_newer_than_the_list_is_not_there() -> None:
    assert verdict(OURS, "", number=600) == ENOSYS
    assert verdict(OURS, "", abi="SCMP_ARCH_X86", number=600) == ENOSYS


def test_another_architecture_ends_the_process() -> None:
    assert bpf_machine.run(OURS, ABIS["SCMP_ARCH_AARCH64"].audit, 0)[0] == 0x80000000


@pytest.mark.parametrize(("why", "openers", "calls"), CLOSED)
def test_what_is_closed_opens_with_its_capability_only(why: str, openers: str, calls: str) -> None:
    everything = default_profile({name for one in CLOSED for name in one[1].split()} - set(openers.split()))
    shut, tracing = program(everything), {"ptrace", "process_vm_readv", "process_vm_writev"}
    table = numbers("x86_64")
    for name in {*calls.split()} & table.keys() - tracing:
        assert verdict(shut, name, 0x7E020000) != ALLOW, name
        for opener in openers.split():
            assert verdict(program(default_profile([f"CAP_{opener}"])), name, 0x7E020000) == ALLOW, (name, opener)


def test_every_name_is_a_call_somewhere() -> None:
    known = {name for abi in ABIS.values() for name in numbers(abi.name)}
    rules = default_profile({name for one in CLOSED for name in one[1].split()})["syscalls"]
    named = {name for rule in rules for name in rule["names"]} | {call for one in CLOSED for call in one[2].split()}
    # riscv_hwprobe is of another machine; stime, ipc and such are of 32-bit programs.
    assert named - known <= {"riscv_hwprobe"}


def test_every_call_is_open_or_closed_for_a_reason() -> None:
    rules = default_profile({name for one in CLOSED for name in one[1].split()})["syscalls"]
    told = {name for rule in rules for name in rule["names"]} | {call for one in CLOSED for call in one[2].split()}
    assert sorted(numbers("x86_64").keys() - told) == []


def test_on_other_machines_the_filter_is_theirs() -> None:
    document = default_profile(DEFAULT_CAPABILITIES, machine="aarch64")
    arm = program(document, "aarch64")
    assert verdict(arm, "read", abi="SCMP_ARCH_AARCH64") == verdict(arm, "set_tls", abi="SCMP_ARCH_ARM") == ALLOW
    assert verdict(arm, "mount", abi="SCMP_ARCH_AARCH64") == EPERM
    assert bpf_machine.run(arm, ABIS["SCMP_ARCH_X86_64"].audit, 0)[0] == 0x80000000


def test_the_filter_is_short() -> None:
    assert len(OURS) < 700
    steps = [bpf_machine.run(OURS, ABIS["SCMP_ARCH_X86_64"].audit, number)[1] for number in range(470)]
    assert max(steps) < 60 and sorted(steps)[len(steps) // 2] < 15


def test_a_profile_is_made_once() -> None:
    assert default_profile(["CAP_CHOWN", "KILL"]) is default_profile(["KILL", "CHOWN"])
