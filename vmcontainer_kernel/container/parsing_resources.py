"""Reading ``linux.resources`` of a configuration (config-linux.md, "Control groups"): limits and device rules.

A number 0 where 0 makes no limit counts as absent: the tools that write these files are Go programs, whose "not set"
is 0, and runc reads it so.
"""

from __future__ import annotations

from vmcontainer_kernel.container.fields import Fields, brief
from vmcontainer_kernel.container.spec import (
    BlockDevice,
    BlockIO,
    Cpu,
    DeviceRule,
    HugepageLimit,
    Memory,
    Resources,
)

__all__ = ["cpu_list", "parse_resources"]

_MAX_UINT32 = 2**32 - 1
_MAX_INT64 = 2**63 - 1
_MAX_UINT64 = 2**64 - 1
_PAGE = 4096
_WEIGHTS = (10, 1000)  # cgroup-v1/blkio-controller.rst


def parse_resources(fields: Fields) -> Resources:
    """Read the ``resources`` object; raise `SpecError` naming the field that is wrong."""
    class_id, priorities = fields.child("network", _network)
    return Resources(
        memory=fields.child("memory", _memory),
        cpu=fields.child("cpu", _cpu),
        pids_limit=fields.child("pids", _pids),
        block_io=fields.child("blockIO", _block_io),
        hugepage_limits=fields.objects("hugepageLimits", _hugepages),
        class_id=class_id,
        priorities=priorities,
        rdma=tuple((device, *limits) for device, limits in fields.object_map("rdma", _rdma).items()),
        devices=fields.objects("devices", _device_rule),
        unified=_unified(fields),
    )


def cpu_list(fields: Fields, key: str) -> str:
    """Read a list of CPUs or memory nodes such as ``0-3,7`` (cpuset(7), "List format"); an empty one says nothing."""
    text = fields.text(key, "")
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        ends = (first, last) if dash else (first,)
        if not all(end.isascii() and end.isdecimal() and len(end) <= 5 for end in ends) or int(ends[0]) > int(ends[-1]):
            raise fields.error(key, f"must be a list such as 0-3,7, not {brief(text)}")
    return text


def _limit(fields: Fields, key: str, low: int, high: int = _MAX_INT64) -> int | None:
    """Return a limit from `low` to `high`; anything below zero is -1, "no limit", and zero is absent."""
    value = fields.number(key, -_MAX_INT64 - 1, high)
    if value is not None and 0 < value < low:
        raise fields.error(key, f"must be at least {low}, or -1 for no limit, not {value}")
    return None if not value else max(value, -1)


def _share(fields: Fields, key: str, low: int, high: int) -> int | None:
    """Return a number from `low` to `high`; zero is absent."""
    value = fields.number(key, 0, high)
    if value is not None and 0 < value < low:
        raise fields.error(key, f"must be from {low} to {high}, not {value}")
    return value or None


def _memory(fields: Fields) -> Memory:
    memory = Memory(
        limit_bytes=_limit(fields, "limit", _PAGE),
        reservation_bytes=_limit(fields, "reservation", _PAGE),
        swap_bytes=_limit(fields, "swap", _PAGE),
        kernel_bytes=_limit(fields, "kernel", _PAGE),
        kernel_tcp_bytes=_limit(fields, "kernelTCP", _PAGE),
        swappiness=fields.number("swappiness", 0, 100),
        disable_oom_killer=fields.optional_flag("disableOOMKiller"),
        use_hierarchy=fields.optional_flag("useHierarchy"),
        check_before_update=fields.flag("checkBeforeUpdate", default=False),
    )
    if 0 < (memory.swap_bytes or 0) < (memory.limit_bytes or 0):
        raise fields.error("swap", "must be at least limit: it counts memory and swap together")
    return memory


def _cpu(fields: Fields) -> Cpu:
    cpu = Cpu(
        shares=_share(fields, "shares", 1, _MAX_UINT64),
        quota_us=_limit(fields, "quota", 1000, 2**44),  # sched-bwc.rst: at least 1 ms
        burst_us=fields.number("burst", 0, 2**44),
        period_us=_share(fields, "period", 1000, 1_000_000),  # 1 ms to 1 s
        realtime_runtime_us=_limit(fields, "realtimeRuntime", 1, 2**44),
        realtime_period_us=_share(fields, "realtimePeriod", 1, 2**44),
        cpus=cpu_list(fields, "cpus"),
        mems=cpu_list(fields, "mems"),
        idle=fields.number("idle", 0, 1),
    )
    if 0 < (cpu.quota_us or 0) < (cpu.burst_us or 0):
        raise fields.error("burst", "must be at most quota")
    return cpu


def _pids(fields: Fields) -> int | None:
    return _limit(fields, "limit", 1)


def _block_io(fields: Fields) -> BlockIO:
    return BlockIO(
        weight=_share(fields, "weight", *_WEIGHTS),
        leaf_weight=_share(fields, "leafWeight", *_WEIGHTS),
        weight_devices=fields.objects("weightDevice", _weight),
        read_bps=fields.objects("throttleReadBpsDevice", _rate),
        write_bps=fields.objects("throttleWriteBpsDevice", _rate),
        read_iops=fields.objects("throttleReadIOPSDevice", _rate),
        write_iops=fields.objects("throttleWriteIOPSDevice", _rate),
    )


def _numbers(fields: Fields) -> tuple[int, int]:
    return fields.required("major", 0, _MAX_UINT32), fields.required("minor", 0, _MAX_UINT32)


def _weight(fields: Fields) -> BlockDevice:
    weight, leaf = _share(fields, "weight", *_WEIGHTS), _share(fields, "leafWeight", *_WEIGHTS)
    if weight is None and leaf is None:
        raise fields.error("weight", "is required, or leafWeight is")
    return BlockDevice(*_numbers(fields), weight, leaf)


def _rate(fields: Fields) -> BlockDevice:
    return BlockDevice(*_numbers(fields), fields.required("rate", 0, _MAX_UINT64))


def _hugepages(fields: Fields) -> HugepageLimit:
    size = fields.text("pageSize")
    number, unit = size[:-2], size[-2:]
    if unit not in ("KB", "MB", "GB") or not (number.isascii() and number.isdecimal() and number[0] != "0"):
        raise fields.error("pageSize", f"must be a size such as 2MB, not {brief(size)}")
    return HugepageLimit(size, fields.required("limit", 0, _MAX_UINT64))


def _network(fields: Fields) -> tuple[int | None, tuple[tuple[str, int], ...]]:
    priorities = fields.objects("priorities", lambda one: (_name(one), one.required("priority", 0, _MAX_UINT32)))
    return fields.number("classID", 0, _MAX_UINT32), priorities


def _name(fields: Fields) -> str:
    name = fields.text("name")
    if not name or len(name) > 15 or "/" in name or name.split() != [name]:  # IFNAMSIZ, dev_valid_name()
        raise fields.error("name", f"must be the name of an interface, not {brief(name)}")
    return name


def _rdma(fields: Fields) -> tuple[int | None, int | None]:
    handles, objects = fields.number("hcaHandles", 0, _MAX_UINT32), fields.number("hcaObjects", 0, _MAX_UINT32)
    if handles is None and objects is None:
        raise fields.error("hcaHandles", "is required, or hcaObjects is")
    return handles, objects


def _device_rule(fields: Fields) -> DeviceRule:
    allow = fields.optional_flag("allow")
    if allow is None:
        raise fields.error("allow", "is required")
    access = fields.text("access", "") or "rwm"
    if not set(access) <= set("rwm"):
        raise fields.error("access", f"must be made of r, w and m, not {brief(access)}")
    # -1 is what runc and its callers write for "any".
    major, minor = fields.number("major", -1, _MAX_UINT32), fields.number("minor", -1, _MAX_UINT32)
    return DeviceRule(
        allow=allow,
        type=fields.choice("type", ("a", "c", "b"), "") or "a",
        major=None if major == -1 else major,
        minor=None if minor == -1 else minor,
        access=access,
    )


def _unified(fields: Fields) -> tuple[tuple[str, str], ...]:
    files = fields.text_map("unified")
    for name in files:
        if "/" in name or "." not in name.strip("."):
            raise fields.error(f"unified.{name}", "must be a file of a version 2 group, such as memory.high")
    return tuple(files.items())
