"""The specification's resources as a table: which text goes into which file of which controller, and for which field of
the configuration. Nothing is written here.

Sources: runtime-spec config-linux.md, "Control groups"; the kernel's cgroup-v1/*.rst and cgroup-v2.rst; sched-bwc.rst.
"""

from __future__ import annotations

from vmcontainer_kernel.container.cgroups.devices import check, program_lines, version_1_lines
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import HostError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vmcontainer_kernel.container.spec import BlockDevice, BlockIO, Cpu, Memory, Resources

__all__ = ["ALWAYS", "DEVICE_PROGRAM", "Write", "controllers", "weight_of_shares", "writes"]

ALWAYS = ("memory", "pids", "cpu", "cpuacct", "freezer")
"""What every container has a group in: to count, to kill and to pause."""
DEVICE_PROGRAM = "bpf(BPF_PROG_ATTACH)"
"""Stands for a file where the rule is a program (version 2's devices)."""
_FIELD = "linux.resources"
_PERIOD_US = 100_000
_HIGHEST = 2**64 - 1
_MAY_WRITE_OF_CORE = ("cgroup.max.depth", "cgroup.max.descendants")


class Write(Record):
    """One text for one file of a controller's group, and the field of the configuration that wants it.

    `other` is another (file, text) with the same meaning, for a kernel that has not the first. `needless`: without the
    file there is nothing to limit. `doubtful`: the kernel may take the text and do nothing, so it is to be read back.
    """

    controller: str
    file: str
    text: str
    field: str
    other: tuple[str, str] | None
    needless: bool
    doubtful: bool

    # Written out, as a start of a container makes half a dozen: four times as fast as Record's own.
    def __init__(
        self,
        controller: str,
        file: str,
        text: str,
        field: str,
        other: tuple[str, str] | None = None,
        *,
        needless: bool = False,
        doubtful: bool = False,
    ) -> None:
        self.__dict__.update(
            controller=controller,
            file=file,
            text=text,
            field=field,
            other=other,
            needless=needless,
            doubtful=doubtful,
        )


def writes(resources: Resources, versions: Mapping[str, int]) -> list[Write]:
    """Return what to write, in order; what is None in `resources` is not touched.

    `versions`: controller → version of the tree it is in. Raises `HostError` for what this node cannot keep and
    `SpecError` for what no node can; both name the field.
    """
    rows: list[Write] = []
    for name, name_v2, make in _FAMILIES:
        version = 1 if versions.get(name) == 1 or not name_v2 else 2
        found = make(resources, version)
        if found and versions.get(found[0].controller) != version:
            raise _no_controller(found[0], versions)
        rows += found
    return rows + _unified(resources, versions)


def controllers(rows: Sequence[Write], versions: Mapping[str, int]) -> list[str]:
    """Return the controllers in whose trees a container with these limits has a group."""
    needed = dict.fromkeys((*ALWAYS, *(row.controller for row in rows)))
    return [name for name in needed if name in versions]


def _no_controller(row: Write, versions: Mapping[str, int]) -> HostError:
    if row.controller in ("net_cls", "net_prio") and 1 not in versions.values():
        return _not_in_version_2(row.field)
    return HostError(
        f"this node has no {row.controller} controller, so {row.field} cannot be kept",
        hint="run it in a guest, which has all controllers: --on vm",
        where=row.field,
    )


def _not_in_version_2(field: str) -> HostError:
    return HostError(
        f"version 2 control groups have nothing like {field}",
        hint="leave it out, or use a node with version 1",
        where=field,
    )


def _number(value: int, field: str) -> int:
    if not -1 <= value <= _HIGHEST:
        raise SpecError(f"{field}: {value} is no number that the kernel takes", where=field)
    return value


def _max(value: int) -> str:
    return "max" if value < 0 else str(value)


# -- memory

_MEMORY = (
    # attribute, field, version 1's file, version 2's
    ("limit_bytes", "limit", "memory.limit_in_bytes", "memory.max"),
    ("swap_bytes", "swap", "memory.memsw.limit_in_bytes", "memory.swap.max"),
    ("reservation_bytes", "reservation", "memory.soft_limit_in_bytes", "memory.low"),
    ("kernel_bytes", "kernel", "memory.kmem.limit_in_bytes", ""),
    ("kernel_tcp_bytes", "kernelTCP", "memory.kmem.tcp.limit_in_bytes", ""),
    ("swappiness", "swappiness", "memory.swappiness", ""),
    ("disable_oom_killer", "disableOOMKiller", "memory.oom_control", ""),
    ("use_hierarchy", "useHierarchy", "memory.use_hierarchy", ""),
)
# What version 2 always does, so that asking for it asks for nothing.
_MEMORY_OF_V2 = {"disable_oom_killer": False, "use_hierarchy": True}


def _memory(resources: Resources, version: int) -> list[Write]:
    memory, rows = resources.memory, []
    for attribute, name, file_v1, file_v2 in _MEMORY:
        value = getattr(memory, attribute)
        if value is None or (version == 2 and _MEMORY_OF_V2.get(attribute) is value):
            continue
        field = f"{_FIELD}.memory.{name}"
        if version == 2 and not file_v2:
            raise _not_in_version_2(field)
        if attribute == "swap_bytes":
            rows.append(_swap(memory, version, field))
        else:
            text = str(_number(int(value), field))
            doubtful = attribute == "kernel_bytes" and value >= 0  # newer kernels take and ignore it
            v1 = version == 1
            rows.append(
                Write("memory", file_v1 if v1 else file_v2, text if v1 else _max(value), field, doubtful=doubtful)
            )
    return rows


def _swap(memory: Memory, version: int, field: str) -> Write:
    """The specification and version 1 count memory and swap together, version 2 counts swap alone."""
    swap, limit = _number(memory.swap_bytes or 0, field), memory.limit_bytes
    if swap > 0 and (limit is None or limit < 0):
        raise SpecError(f"{field}: needs memory.limit too, as it counts memory and swap together", where=field)
    if swap >= 0 and limit is not None and swap < limit:
        raise SpecError(f"{field}: {swap} is less than memory.limit, {limit}, which it includes", where=field)
    none = swap == limit  # no swap at all: where nothing counts it (swapaccount=0), there is most often none either
    if version == 1:
        return Write("memory", "memory.memsw.limit_in_bytes", str(swap), field, needless=none or swap < 0)
    text = _max(-1 if swap < 0 else swap - (limit or 0))
    return Write("memory", "memory.swap.max", text, field, needless=none or swap < 0)


# -- processors


def weight_of_shares(shares: int) -> int:
    """Return version 2's cpu.weight (1 to 10000, usual 100) for version 1's shares (2 to 262144, usual 1024).

    A parabola through the three points on logarithmic scales, as runc and crun have since 2025: the straight line that
    they had before gave the usual container a weight of 39, less than half of what is beside it.
    """
    from math import ceil, log2

    log = log2(min(max(shares, 2), 262_144))
    return 1 if shares <= 2 else min(10_000, ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34)))


def _cpu(resources: Resources, version: int) -> list[Write]:
    return _cpu_v1(resources.cpu) if version == 1 else _cpu_v2(resources.cpu)


_CPU_V1 = (
    ("shares", "shares", "cpu.shares"),
    ("period_us", "period", "cpu.cfs_period_us"),
    ("quota_us", "quota", "cpu.cfs_quota_us"),
    ("burst_us", "burst", "cpu.cfs_burst_us"),
    ("realtime_period_us", "realtimePeriod", "cpu.rt_period_us"),
    ("realtime_runtime_us", "realtimeRuntime", "cpu.rt_runtime_us"),
    ("idle", "idle", "cpu.idle"),
)


def _cpu_v1(cpu: Cpu) -> list[Write]:
    rows = []
    for attribute, name, file in _CPU_V1:
        value = getattr(cpu, attribute)
        if value is not None:
            field = f"{_FIELD}.cpu.{name}"
            rows.append(Write("cpu", file, str(_number(value, field)), field))
    return rows


def _cpu_v2(cpu: Cpu) -> list[Write]:
    field = f"{_FIELD}.cpu"
    for name, value in (("realtimeRuntime", cpu.realtime_runtime_us), ("realtimePeriod", cpu.realtime_period_us)):
        if value is not None:
            raise _not_in_version_2(f"{field}.{name}")
    rows = []
    if cpu.shares:
        rows.append(Write("cpu", "cpu.weight", str(weight_of_shares(cpu.shares)), f"{field}.shares"))
    if cpu.quota_us is not None or cpu.period_us is not None:
        quota = _max(_number(-1 if cpu.quota_us is None else cpu.quota_us, f"{field}.quota"))
        name = "period" if cpu.quota_us is None else "quota"
        rows.append(Write("cpu", "cpu.max", f"{quota} {cpu.period_us or _PERIOD_US}", f"{field}.{name}"))
    if cpu.burst_us is not None:
        rows.append(Write("cpu", "cpu.max.burst", str(_number(cpu.burst_us, f"{field}.burst")), f"{field}.burst"))
    if cpu.idle is not None:
        rows.append(Write("cpu", "cpu.idle", str(cpu.idle), f"{field}.idle"))
    return rows


def _cpuset(resources: Resources, version: int) -> list[Write]:
    texts = {"cpus": resources.cpu.cpus, "mems": resources.cpu.mems}
    return [Write("cpuset", f"cpuset.{name}", text, f"{_FIELD}.cpu.{name}") for name, text in texts.items() if text]


def _pids(resources: Resources, version: int) -> list[Write]:
    if resources.pids_limit is None:
        return []
    field = f"{_FIELD}.pids.limit"
    return [Write("pids", "pids.max", _max(_number(resources.pids_limit, field)), field)]


# -- block devices

_RATES = (
    # attribute, field, version 1's file, version 2's key in io.max
    ("read_bps", "throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("write_bps", "throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("read_iops", "throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("write_iops", "throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)


def _block_io(resources: Resources, version: int) -> list[Write]:
    block, field = resources.block_io, f"{_FIELD}.blockIO"
    name = "blkio" if version == 1 else "io"
    rows = []
    if block.weight:
        rows.append(_weight(name, "", block.weight, f"{field}.weight"))
    rows += [
        _weight(name, f"{one.major}:{one.minor}", one.value, f"{field}.weightDevice")
        for one in block.weight_devices
        if one.value is not None
    ]
    rows += _leaf_weights(block, version, field)
    for attribute, last, file, key in _RATES:
        rows += [_rate(version, one, f"{field}.{last}", file, key) for one in getattr(block, attribute)]
    return rows


def _weight(controller: str, device: str, weight: int, field: str) -> Write:
    """Two schedulers know weights: BFQ (1 to 1000, as the specification) and on version 2 iocost (1 to 10000)."""
    if not 10 <= weight <= 1000:
        raise SpecError(f"{field}: {weight} is not from 10 to 1000", where=field)
    text = f"{device} {weight}".strip()
    if controller == "blkio":
        last = "weight_device" if device else "weight"
        return Write("blkio", f"blkio.bfq.{last}", text, field, other=(f"blkio.{last}", text))
    other = f"{device or 'default'} {1 + (weight - 10) * 9999 // 990}"
    return Write("io", "io.bfq.weight", text, field, other=("io.weight", other))


def _leaf_weights(block: BlockIO, version: int, field: str) -> list[Write]:
    found = [("leafWeight", "blkio.leaf_weight", str(block.leaf_weight))] if block.leaf_weight else []
    found += [
        ("weightDevice", "blkio.leaf_weight_device", f"{one.major}:{one.minor} {one.leaf_value}")
        for one in block.weight_devices
        if one.leaf_value
    ]
    if found and version == 2:
        raise _not_in_version_2(f"{field}.leafWeight")
    return [Write("blkio", file, text, f"{field}.{last}") for last, file, text in found]


def _rate(version: int, one: BlockDevice, field: str, file: str, key: str) -> Write:
    rate = _number(one.value or 0, field)
    if version == 1:  # 0 is "no limit"
        return Write("blkio", file, f"{one.major}:{one.minor} {rate}", field)
    return Write("io", "io.max", f"{one.major}:{one.minor} {key}={rate or 'max'}", field)


# -- the rest


def _hugetlb(resources: Resources, version: int) -> list[Write]:
    rows = []
    for index, one in enumerate(resources.hugepage_limits):
        field, size = f"{_FIELD}.hugepageLimits[{index}]", one.page_size
        if not size.rstrip("KMGB").isdecimal():
            raise SpecError(f"{field}.pageSize: {size!r} is no size such as 2MB", where=f"{field}.pageSize")
        text = str(_number(one.limit_bytes, field))
        last = "limit_in_bytes" if version == 1 else "max"
        rows.append(Write("hugetlb", f"hugetlb.{size}.{last}", text, field))
        # Pages reserved by mmap and not touched yet: else a process is killed by SIGBUS instead of mmap failing.
        rows.append(Write("hugetlb", f"hugetlb.{size}.rsvd.{last}", text, field, needless=True))
    return rows


def _class_id(resources: Resources, version: int) -> list[Write]:
    if resources.class_id is None:
        return []
    field = f"{_FIELD}.network.classID"
    return [Write("net_cls", "net_cls.classid", str(_number(resources.class_id, field)), field)]


def _priorities(resources: Resources, version: int) -> list[Write]:
    field = f"{_FIELD}.network.priorities"
    rows = ((_word(name, field), _number(priority, field)) for name, priority in resources.priorities)
    return [Write("net_prio", "net_prio.ifpriomap", f"{name} {priority}", field) for name, priority in rows]


def _rdma(resources: Resources, version: int) -> list[Write]:
    field, rows = f"{_FIELD}.rdma", []
    for device, handles, objects in resources.rdma:
        parts = [("hca_handle", handles), ("hca_object", objects)]
        text = " ".join(f"{key}={_number(value, field)}" for key, value in parts if value is not None)
        if text:
            rows.append(Write("rdma", "rdma.max", f"{_word(device, field)} {text}", f"{field}.{device}"))
    return rows


def _word(name: str, field: str) -> str:
    if not name or name.split() != [name]:
        raise SpecError(f"{field}: {name!r} is no device's name", where=field)
    return name


def _devices(resources: Resources, version: int) -> list[Write]:
    field = f"{_FIELD}.devices"
    if not resources.devices:
        return []
    check(resources.devices, field)
    if version == 2:
        return [Write("devices", DEVICE_PROGRAM, "; ".join(program_lines(resources.devices)), field)]
    return [Write("devices", file, text, field) for file, text in version_1_lines(resources.devices, field)]


def _unified(resources: Resources, versions: Mapping[str, int]) -> list[Write]:
    rows = []
    for name, text in resources.unified:
        field = f"{_FIELD}.unified[{name}]"
        if 2 not in versions.values():
            why = "this node's controllers are all in version 1 trees, so unified cannot be kept"
            raise HostError(why, hint="run it in a guest, which has version 2: --on vm", where=field)
        controller = name.partition(".")[0]
        if "/" in name or "." not in name.strip(".") or not name.isprintable():
            raise SpecError(f"{field}: {name!r} is no name of a control group's file", where=field)
        if controller == "cgroup" and name not in _MAY_WRITE_OF_CORE:
            raise SpecError(f"{field}: {name} moves or kills processes; it limits nothing", where=field)
        if controller != "cgroup" and versions.get(controller) != 2:
            raise HostError(f"this node has no version 2 controller {controller}", where=field)
        rows += [Write(controller, name, line, field) for line in text.splitlines() or [""]]
    return rows


_FAMILIES: tuple[tuple[str, str, Callable[[Resources, int], list[Write]]], ...] = (
    ("memory", "memory", _memory),
    ("cpu", "cpu", _cpu),
    ("cpuset", "cpuset", _cpuset),
    ("pids", "pids", _pids),
    ("blkio", "io", _block_io),
    ("hugetlb", "hugetlb", _hugetlb),
    ("net_cls", "", _class_id),
    ("net_prio", "", _priorities),
    ("rdma", "rdma", _rdma),
    ("devices", "devices", _devices),
)
