"""The table of limits: which text goes into which file, in versions 1 and 2; and the rules for devices."""

from __future__ import annotations

from typing import Any

import pytest

from vmcontainer_kernel.container.cgroups import writes
from vmcontainer_kernel.container.cgroups.devices import ALWAYS_ALLOWED, program_lines, version_1_lines
from vmcontainer_kernel.container.cgroups.limits import weight_of_shares
from vmcontainer_kernel.container.cgroups.program import assemble
from vmcontainer_kernel.container.spec import (
    BlockDevice,
    BlockIO,
    Cpu,
    DeviceRule,
    HugepageLimit,
    Memory,
    Resources,
)
from vmcontainer_kernel.errors import HostError, SpecError

ONE = dict.fromkeys(
    ("memory", "pids", "cpu", "cpuset", "blkio", "hugetlb", "net_cls", "net_prio", "rdma", "devices", "freezer"), 1
)
TWO = dict.fromkeys(("memory", "pids", "cpu", "cpuset", "io", "hugetlb", "rdma", "devices", "freezer"), 2)
DISK = BlockDevice(8, 0, 1000)


def table(resources: Resources, versions: dict[str, int]) -> list[str]:
    return [f"{row.file}={row.text}" for row in writes(resources, versions)]


@pytest.mark.parametrize(
    ("resources", "version_1", "version_2"),
    [
        (Resources(), [], []),
        (
            Resources(Memory(100, 50, 150)),
            ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=150", "memory.soft_limit_in_bytes=50"],
            ["memory.max=100", "memory.swap.max=50", "memory.low=50"],
        ),
        (
            Resources(Memory(-1, swap_bytes=-1)),
            ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"],
            ["memory.max=max", "memory.swap.max=max"],
        ),
        (Resources(Memory(disable_oom_killer=False, use_hierarchy=True)),
         ["memory.oom_control=0", "memory.use_hierarchy=1"], []),
        (
            Resources(cpu=Cpu(shares=1024, quota_us=-1, period_us=5000, burst_us=7, idle=1)),
            ["cpu.shares=1024", "cpu.cfs_period_us=5000", "cpu.cfs_quota_us=-1", "cpu.cfs_burst_us=7", "cpu.idle=1"],
            ["cpu.weight=100", "cpu.max=max 5000", "cpu.max.burst=7", "cpu.idle=1"],
        ),
        (Resources(cpu=Cpu(quota_us=5)), ["cpu.cfs_quota_us=5"], ["cpu.max=5 100000"]),
        (Resources(cpu=Cpu(cpus="0-1", mems="0")), *[["cpuset.cpus=0-1", "cpuset.mems=0"]] * 2),
        (Resources(pids_limit=-1), *[["pids.max=max"]] * 2),
        (Resources(pids_limit=7), *[["pids.max=7"]] * 2),
        (
            Resources(block_io=BlockIO(weight=500, weight_devices=(BlockDevice(8, 0, 10),))),
            ["blkio.bfq.weight=500", "blkio.bfq.weight_device=8:0 10"],
            ["io.bfq.weight=500", "io.bfq.weight=8:0 10"],
        ),
        (
            Resources(block_io=BlockIO(read_bps=(DISK,), write_iops=(DISK, BlockDevice(8, 1, 0)))),
            ["blkio.throttle.read_bps_device=8:0 1000", "blkio.throttle.write_iops_device=8:0 1000",
             "blkio.throttle.write_iops_device=8:1 0"],
            ["io.max=8:0 rbps=1000", "io.max=8:0 wiops=1000", "io.max=8:1 wiops=max"],
        ),
        (
            Resources(hugepage_limits=(HugepageLimit("2MB", 4096),)),
            ["hugetlb.2MB.limit_in_bytes=4096", "hugetlb.2MB.rsvd.limit_in_bytes=4096"],
            ["hugetlb.2MB.max=4096", "hugetlb.2MB.rsvd.max=4096"],
        ),
        (Resources(rdma=(("mlx5_1", 3, None), ("hfi1", None, 4))),
         *[["rdma.max=mlx5_1 hca_handle=3", "rdma.max=hfi1 hca_object=4"]] * 2),
    ],
)  # fmt: skip
def test_each_limit_in_both_versions(resources: Resources, version_1: list[str], version_2: list[str]) -> None:
    assert table(resources, ONE) == version_1
    assert table(resources, TWO) == version_2


def test_limits_of_version_1_alone() -> None:
    resources = Resources(
        Memory(kernel_bytes=1, kernel_tcp_bytes=2, swappiness=3, disable_oom_killer=True, use_hierarchy=False),
        Cpu(realtime_runtime_us=4, realtime_period_us=5),
        class_id=6,
        priorities=(("eth0", 7),),
        block_io=BlockIO(leaf_weight=10),
    )
    rows = ["memory.kmem.limit_in_bytes=1", "memory.kmem.tcp.limit_in_bytes=2", "memory.swappiness=3",
            "memory.oom_control=1", "memory.use_hierarchy=0", "cpu.rt_period_us=5", "cpu.rt_runtime_us=4",
            "blkio.leaf_weight=10", "net_cls.classid=6", "net_prio.ifpriomap=eth0 7"]  # fmt: skip
    assert table(resources, ONE) == rows


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        (Resources(Memory(kernel_bytes=1)), "memory.kernel"),
        (Resources(Memory(kernel_tcp_bytes=1)), "memory.kernelTCP"),
        (Resources(Memory(swappiness=0)), "memory.swappiness"),
        (Resources(Memory(disable_oom_killer=True)), "memory.disableOOMKiller"),
        (Resources(Memory(use_hierarchy=False)), "memory.useHierarchy"),
        (Resources(cpu=Cpu(realtime_runtime_us=1)), "cpu.realtimeRuntime"),
        (Resources(cpu=Cpu(realtime_period_us=1)), "cpu.realtimePeriod"),
        (Resources(class_id=1), "network.classID"),
        (Resources(priorities=(("lo", 1),)), "network.priorities"),
        (Resources(block_io=BlockIO(leaf_weight=10)), "blockIO.leafWeight"),
    ],
)
def test_what_version_2_lacks_is_an_error_that_names_the_field(resources: Resources, field: str) -> None:
    with pytest.raises(HostError, match="version 2") as caught:
        writes(resources, TWO)
    assert caught.value.where == f"linux.resources.{field}"


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        (Resources(Memory(swap_bytes=5)), "memory.swap"),
        (Resources(Memory(10, swap_bytes=5)), "memory.swap"),
        (Resources(Memory(-1, swap_bytes=5)), "memory.swap"),
        (Resources(Memory(2**70)), "memory.limit"),
        (Resources(Memory(-7)), "memory.limit"),
        (Resources(pids_limit=2**64), "pids.limit"),
        (Resources(block_io=BlockIO(weight=5)), "blockIO.weight"),
        (Resources(hugepage_limits=(HugepageLimit("../x", 1),)), "hugepageLimits[0].pageSize"),
        (Resources(hugepage_limits=(HugepageLimit("MB", 1),)), "hugepageLimits[0].pageSize"),
        (Resources(rdma=(("a b", 1, 1),)), "rdma"),
        (Resources(unified=(("../memory.max", "1"),)), "unified[../memory.max]"),
        (Resources(unified=(("memory/max", "1"),)), "unified[memory/max]"),
        (Resources(unified=(("..", "1"),)), "unified[..]"),
        (Resources(unified=(("", "1"),)), "unified[]"),
        (Resources(unified=(("cgroup.procs", "1"),)), "unified[cgroup.procs]"),
        (Resources(unified=(("cgroup.kill", "1"),)), "unified[cgroup.kill]"),
        (Resources(unified=(("memory.max\n", "1"),)), "unified[memory.max\n]"),
        (Resources(devices=(DeviceRule(True, "x"),)), "devices[0]"),
        (Resources(devices=(DeviceRule(True, "c", 2**32),)), "devices[0]"),
        (Resources(devices=(DeviceRule(True, "c", access="rx"),)), "devices[0]"),
        (Resources(devices=(DeviceRule(True, "c", access=""),)), "devices[0]"),
    ],
)
def test_what_makes_no_sense_is_an_error_that_names_the_field(resources: Resources, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        writes(resources, TWO)
    assert caught.value.where == f"linux.resources.{field}"


@pytest.mark.parametrize("field", ["blockIO", "hugepageLimits", "rdma", "devices", "unified", "pids"])
def test_a_controller_that_is_not_there_is_named(field: str) -> None:
    wanted: dict[str, Any] = {
        "blockIO": {"block_io": BlockIO(weight=10)},
        "hugepageLimits": {"hugepage_limits": (HugepageLimit("2MB", 1),)},
        "rdma": {"rdma": (("x", 1, 1),)},
        "devices": {"devices": (DeviceRule(False),)},
        "unified": {"unified": (("memory.high", "1"),)},
        "pids": {"pids_limit": 1},
    }
    for versions in ({"freezer": 1}, {"freezer": 2}):
        with pytest.raises(HostError) as caught:
            writes(Resources(**wanted[field]), versions)
        assert caught.value.where.startswith(f"linux.resources.{field}")


def test_unified_comes_last_and_line_by_line() -> None:
    resources = Resources(Memory(5), unified=(("memory.max", "7"), ("io.max", "8:0 rbps=1\n8:1 rbps=2")))
    assert table(resources, TWO) == ["memory.max=5", "memory.max=7", "io.max=8:0 rbps=1", "io.max=8:1 rbps=2"]


def test_a_weight_has_another_file_where_bfq_is_missing() -> None:
    [row] = writes(Resources(block_io=BlockIO(weight=1000)), TWO)
    assert row.other == ("io.weight", "default 10000")
    [row] = writes(Resources(block_io=BlockIO(weight_devices=(BlockDevice(8, 0, 10),))), TWO)
    assert row.other == ("io.weight", "8:0 1")


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (256, 35), (1024, 100), (262_144, 10_000), (10**9, 10_000)])
def test_shares_become_a_weight(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


def test_more_shares_are_never_less_weight() -> None:
    weights = [weight_of_shares(2**bits) for bits in range(1, 19)]
    assert weights == sorted(weights) and len(set(weights)) == len(weights)


# -- devices

DENY_ALL = DeviceRule(False)
ALWAYS = [f"devices.allow={line}" for line in (
    "c *:* m", "b *:* m", "c 1:3 mrw", "c 1:5 mrw", "c 1:7 mrw", "c 1:8 mrw", "c 1:9 mrw", "c 5:0 mrw", "c 5:1 mrw",
    "c 5:2 mrw", "c 136:* mrw")]  # fmt: skip


def lines(*rules: DeviceRule) -> list[str]:
    return [f"{file}={text}" for file, text in version_1_lines(rules, "devices")]


def test_lists_of_version_1() -> None:
    fuse = DeviceRule(True, "c", 10, 229, "rw")
    assert lines(DENY_ALL, fuse) == ["devices.deny=a", "devices.allow=c 10:229 rw", *ALWAYS]
    assert lines(DENY_ALL, DeviceRule(True, "a", 7)) == [
        "devices.deny=a", "devices.allow=b 7:* mrw", "devices.allow=c 7:* mrw", *ALWAYS]  # fmt: skip
    assert lines(DeviceRule(True)) == ["devices.allow=a"], "all is allowed: no exception needed"
    assert lines(DeviceRule(True), DeviceRule(False, "b", 8))[:2] == ["devices.allow=a", "devices.deny=b 8:* rw"]
    assert lines(fuse, DeviceRule(False, "c", 10, 229, "w"), DENY_ALL) == ["devices.deny=a", *ALWAYS]
    assert lines(fuse, DeviceRule(False, "c", 10, None, "w"))[:2] == ["devices.deny=a", "devices.allow=c 10:229 r"]


def test_version_1_cannot_take_a_part_of_a_rule_back() -> None:
    with pytest.raises(SpecError) as caught:
        lines(DeviceRule(True, "b", 8), DeviceRule(False, "b", 8, 3))
    assert caught.value.where == "devices[1]"


def run(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """Execute the instructions as the kernel would, on the question about one device."""
    asked = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    memory = {0: asked << 16 | {"b": 1, "c": 2}[kind], 4: major, 8: minor}
    registers, position = [0] * 11, 0
    for _ in range(10_000):
        code, pair = program[position * 8 : position * 8 + 2]
        offset = int.from_bytes(program[position * 8 + 2 : position * 8 + 4], "little", signed=True)
        value = int.from_bytes(program[position * 8 + 4 : position * 8 + 8], "little", signed=True)
        target, source = pair & 15, pair >> 4
        position += 1
        match code:
            case 0x61:
                registers[target] = memory[offset]
            case 0xB7:
                registers[target] = value
            case 0xBF:
                registers[target] = registers[source]
            case 0x57:
                registers[target] &= value
            case 0x77:
                registers[target] >>= value
            case 0x15:
                position += offset if registers[target] == value else 0
            case 0x55:
                position += offset if registers[target] != value else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(hex(code))
    raise AssertionError("it does not end")


def last_rule_decides(rules: list[DeviceRule], kind: str, major: int, minor: int, access: str) -> bool:
    """Say the same without a program: each letter is decided by the last rule that speaks of it."""

    def one(letter: str) -> bool:
        for rule in reversed([*rules, *ALWAYS_ALLOWED]):
            speaks = rule.type in ("a", kind) and rule.major in (None, major) and rule.minor in (None, minor)
            if speaks and letter in rule.access:
                return rule.allow
        return False

    return all(one(letter) for letter in access)


RULES = [
    [],
    [DENY_ALL],
    [DeviceRule(True)],
    [DENY_ALL, DeviceRule(True, "c", 10, 229, "rw")],
    [DeviceRule(True), DeviceRule(False, "b", 8), DeviceRule(True, "b", 8, 1, "r")],
    [DeviceRule(True, "b", 8, None, "r"), DeviceRule(False, "a", None, 1, "rw")],
]


@pytest.mark.parametrize("rules", RULES)
def test_the_program_of_version_2_says_what_the_rules_say(rules: list[DeviceRule]) -> None:
    program = assemble(rules)
    for kind in "bc":
        for major, minor in ((1, 3), (8, 0), (8, 1), (10, 229), (136, 7), (10, 1)):
            for access in ("r", "w", "m", "rw", "rwm"):
                expected = last_rule_decides(rules, kind, major, minor, access)
                assert run(program, kind, major, minor, access) == expected, (kind, major, minor, access)


def test_the_program_is_shown_in_the_order_of_its_questions() -> None:
    assert program_lines([DENY_ALL, DeviceRule(True, "c", 10, 229, "rw")])[-3:] == [
        "allow c 10:229 rw", "deny a *:* rwm", "deny a *:* rwm"]  # fmt: skip
