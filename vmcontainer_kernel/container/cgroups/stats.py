"""What a group used, by the kernel's own counters, in two forms: the kernel view's, with one name for both versions and
units in the names, and the one that runc's ``events --stats`` made common.

Sources: cgroup-v1/{memory,cpuacct,blkio-controller,pids,hugetlb}.rst; cgroup-v2.rst; accounting/psi.rst.
"""

from __future__ import annotations

import os

from vmcontainer_kernel.container.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["UNITS", "oci_stats", "renewed", "stats"]

_PRESSURE = ("cpu", "memory", "io")
UNITS = {
    "memory.usage_bytes": ("B", "level"),
    "memory.limit_bytes": ("B", "level"),
    "memory.oom_kills": ("kills", "counter"),
    "memory.peak_bytes": ("B", "level"),
    "memory.swap_bytes": ("B", "level"),
    "memory.cache_bytes": ("B", "level"),
    "memory.anonymous_bytes": ("B", "level"),
    "cpu.usage_s": ("s", "counter"),
    "cpu.limit_cpus": ("CPUs", "level"),
    "cpu.throttled_s": ("s", "counter"),
    "cpu.user_s": ("s", "counter"),
    "cpu.system_s": ("s", "counter"),
    "cpu.periods": ("periods", "counter"),
    "cpu.throttled_periods": ("periods", "counter"),
    "pids.current": ("processes", "level"),
    "pids.limit": ("processes", "level"),
    "pids.denied": ("forks", "counter"),
    "io[].read_bytes": ("B", "counter"),
    "io[].written_bytes": ("B", "counter"),
    "io[].read_operations": ("operations", "counter"),
    "io[].write_operations": ("operations", "counter"),
    "io[].read_limit_bytes_per_s": ("B/s", "level"),
    "io[].write_limit_bytes_per_s": ("B/s", "level"),
    "hugepages[].usage_bytes": ("B", "level"),
    "hugepages[].limit_bytes": ("B", "level"),
    **{f"pressure.{kind}.{who}_percent": ("%", "level") for kind in _PRESSURE for who in ("some", "full")},
    **{f"pressure.{kind}.{who}_s": ("s", "counter") for kind in _PRESSURE for who in ("some", "full")},
}
"""Dotted path of a number in `stats` → its unit, and whether it only grows."""


def stats(paths: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, Any]:
    """Return the ``memory``, ``cpu``, ``pids``, ``io``, ``hugepages`` and ``pressure`` of a group (`UNITS`).

    None is "no limit" for a limit, and "this node does not count it" for the rest. `paths`: controller → folder.
    """
    return {
        "memory": _memory(paths.get("memory"), versions.get("memory")),
        "cpu": _cpu(paths, versions),
        "pids": _pids(paths.get("pids")),
        "io": _io(paths),
        "hugepages": _hugepages(paths.get("hugetlb"), versions.get("hugetlb")),
        "pressure": _pressure(_version_2(paths, versions)),
    }


def renewed(before: Mapping[str, Any], paths: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, Any]:
    """Return what `stats` told a moment ago with use, and how often limits struck, read again: a third of the files.

    `before`: also None numbers, as of a group that was not made yet; what a node does not count stays so.
    """
    if before["cpu"]["usage_s"] is None and before["memory"]["usage_bytes"] is None:
        return stats(paths, versions)
    memory, pids = dict(before["memory"]), dict(before["pids"])
    if "memory" in paths:
        usage, events = _memory_files(versions["memory"])
        memory["usage_bytes"] = int(files.read(f"{paths['memory']}/{usage}"))
        memory["oom_kills"] = files.table(f"{paths['memory']}/{events}").get("oom_kill", 0)
    if "pids" in paths:
        pids["current"] = int(files.read(f"{paths['pids']}/pids.current"))
        pids["denied"] = files.table(f"{paths['pids']}/pids.events").get("max", 0)
    return {**before, "memory": memory, "pids": pids, "cpu": {**before["cpu"], **_cpu_use(paths, versions)}}


def _memory_files(version: int | None) -> tuple[str, str]:
    """Return the files of what is used, and of how often the limit struck."""
    return ("memory.current", "memory.events") if version == 2 else ("memory.usage_in_bytes", "memory.oom_control")


def _version_2(paths: Mapping[str, str], versions: Mapping[str, int]) -> str | None:
    return next((path for name, path in paths.items() if versions[name] == 2), None)


def _memory(path: str | None, version: int | None) -> dict[str, int | None]:
    names = ("usage_bytes", "limit_bytes", "oom_kills", "peak_bytes", "swap_bytes", "cache_bytes", "anonymous_bytes")
    if path is None:
        return dict.fromkeys(names)
    counted = files.table(f"{path}/memory.stat")
    usage, events = _memory_files(version)
    if version == 2:
        limit, peak = "memory.max", "memory.peak"
        details = [files.number(f"{path}/memory.swap.current"), counted.get("file"), counted.get("anon")]
    else:
        limit, peak = "memory.limit_in_bytes", "memory.max_usage_in_bytes"
        details = [counted.get(f"total_{key}") for key in ("swap", "cache", "rss")]
    # A group that is gone is FileNotFoundError here, not a row of None.
    used, kills = int(files.read(f"{path}/{usage}")), files.table(f"{path}/{events}").get("oom_kill", 0)
    numbers = [used, files.limit(f"{path}/{limit}"), kills, files.number(f"{path}/{peak}"), *details]
    return dict(zip(names, numbers, strict=True))


def _cpu(paths: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, float | None]:
    path = paths.get("cpu")
    limit_cpus = _cpu_limit(path, version_2=versions.get("cpu") == 2) if path else None
    return _cpu_use(paths, versions) | {"limit_cpus": limit_cpus} | _cpu_shares(paths, versions)


def _cpu_use(paths: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, float | None]:
    """Return what one file tells of version 2, two of version 1."""
    path = paths.get("cpu")
    table = files.table(f"{path}/cpu.stat") if path else {}
    if versions.get("cpu") == 2:
        used: dict[str, float | None] = {name: table.get(key, 0) / 1e6 for name, key in _V2_TIMES.items()}
        throttled = table.get("throttled_usec", 0) / 1e6
    else:
        used = {"usage_s": _v1_time(paths.get("cpuacct"), "cpuacct.usage")}
        throttled = table.get("throttled_time", 0) / 1e9
    counted = {"periods": table.get("nr_periods"), "throttled_periods": table.get("nr_throttled")}
    return used | {"throttled_s": throttled if path else None} | counted


_V2_TIMES = {"usage_s": "usage_usec", "user_s": "user_usec", "system_s": "system_usec"}


def _cpu_shares(paths: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, float | None]:
    """Return how the time was spent, which version 1 has in files of its own."""
    if versions.get("cpu") == 2:
        return {}
    path = paths.get("cpuacct")
    return {"user_s": _v1_time(path, "cpuacct.usage_user"), "system_s": _v1_time(path, "cpuacct.usage_sys")}


def _v1_time(path: str | None, name: str) -> float | None:
    number = files.number(f"{path}/{name}") if path else None
    return None if number is None else number / 1e9


def _cpu_limit(path: str, *, version_2: bool) -> float | None:
    if version_2:
        quota, _, period = files.read(f"{path}/cpu.max").strip().partition(" ")
        return None if quota == "max" else int(quota) / int(period)
    quota_us = int(files.read(f"{path}/cpu.cfs_quota_us"))
    return None if quota_us < 0 else quota_us / int(files.read(f"{path}/cpu.cfs_period_us"))


def _pids(path: str | None) -> dict[str, int | None]:
    if path is None:
        return {"current": None, "limit": None, "denied": None}
    current = int(files.read(f"{path}/pids.current"))
    denied = files.table(f"{path}/pids.events").get("max", 0)
    return {"current": current, "limit": files.limit(f"{path}/pids.max"), "denied": denied}


def _io(paths: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row for each block device; from version 1 only where the container has a limit there."""
    if "io" in paths:
        rows, bounds = files.fields(f"{paths['io']}/io.stat"), files.fields(f"{paths['io']}/io.max")
        keys = ("rbytes", "wbytes", "rios", "wios")
        return [
            _io_row(device, [int(row.get(key, 0)) for key in keys], [bounds.get(device, {}).get(key) for key in _BPS])
            for device, row in rows.items()
        ]
    if "blkio" not in paths:
        return []
    throttle = f"{paths['blkio']}/blkio.throttle"
    moved, served = (_v1_io(f"{throttle}.{name}_recursive") for name in ("io_service_bytes", "io_serviced"))
    limits = [files.fields_of_two(f"{throttle}.{name}_bps_device") for name in ("read", "write")]
    return [
        _io_row(
            device,
            [*(row.get(one, 0) for one in _OPERATIONS), *(served[device].get(one, 0) for one in _OPERATIONS)],
            [limit.get(device) for limit in limits],
        )
        for device, row in moved.items()
        if device in served
    ]


_OPERATIONS = ("Read", "Write")
_BPS = ("rbps", "wbps")


def _io_row(device: str, counted: list[int], limits: list[str | None]) -> dict[str, Any]:
    names = ("read_bytes", "written_bytes", "read_operations", "write_operations")
    bounds = [int(one) if one and one.isdecimal() else None for one in limits]
    allowed = dict(zip(("read_limit_bytes_per_s", "write_limit_bytes_per_s"), bounds, strict=True))
    return {"device": device} | dict(zip(names, counted, strict=True)) | allowed


def _v1_io(path: str) -> dict[str, dict[str, int]]:
    """Read ``MAJOR:MINOR Operation number`` lines; the last line, a total, has no device."""
    found: dict[str, dict[str, int]] = {}
    try:
        lines = files.read(path).splitlines()
    except FileNotFoundError:
        return {}
    for device, operation, value in (words for words in map(str.split, lines) if len(words) == 3):
        found.setdefault(device, {})[operation] = int(value)
    return found


def _hugepages(path: str | None, version: int | None) -> list[dict[str, Any]]:
    if path is None:
        return []
    usage, limit = ("current", "max") if version == 2 else ("usage_in_bytes", "limit_in_bytes")
    return [
        {
            "page_size": size,
            "usage_bytes": files.number(f"{path}/hugetlb.{size}.{usage}"),
            "limit_bytes": files.limit(f"{path}/hugetlb.{size}.{limit}"),
        }
        for size in _page_sizes(path, limit)
    ]


def _page_sizes(path: str, limit: str) -> list[str]:
    parts = (name.split(".") for name in os.listdir(path))  # noqa: PTH208
    return sorted(part[1] for part in parts if len(part) == 3 and part[0] == "hugetlb" and part[2] == limit)


def _pressure(path: str | None) -> dict[str, dict[str, float]] | None:
    """Return how long processes waited: ``some`` of them, or all that had something to do (``full``).

    The share of the last 10 s, and seconds since the group was made.
    """
    if path is None:
        return None
    found: dict[str, dict[str, float]] = {}
    for what in _PRESSURE:
        for who, row in files.fields(f"{path}/{what}.pressure").items():
            one = found.setdefault(what, {})
            one[f"{who}_percent"], one[f"{who}_s"] = float(row["avg10"]), int(row["total"]) / 1e6
    return found or None


# -- the form of runc


def oci_stats(paths: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, Any]:
    """Return the ``data`` of an event ``stats`` as runc prints it: nanoseconds, bytes, counts; no limit is 2**64 - 1
    (0 for pids).
    """
    own = stats(paths, versions)
    pressure = _raw_pressure(_version_2(paths, versions))
    memory = own["memory"]
    return {
        "cpu": _oci_cpu(own["cpu"], paths) | pressure.get("cpu", {}),
        "cpuset": {},
        "memory": {
            "cache": memory["cache_bytes"] or 0,
            "usage": _oci_memory(memory["usage_bytes"], memory["limit_bytes"], memory["peak_bytes"]),
            "swap": _oci_swap(paths.get("memory"), versions.get("memory")),
            "kernel": _oci_kernel(paths.get("memory"), "kmem"),
            "kernelTCP": _oci_kernel(paths.get("memory"), "kmem.tcp"),
            "raw": files.table(f"{paths['memory']}/memory.stat") if "memory" in paths else {},
        }
        | pressure.get("memory", {}),
        "pids": {"current": own["pids"]["current"] or 0, "limit": own["pids"]["limit"] or 0},
        "blkio": _oci_io(own["io"]) | pressure.get("io", {}),
        "hugetlb": {
            one["page_size"]: {"usage": one["usage_bytes"] or 0, "max": 0, "failcnt": 0} for one in own["hugepages"]
        },
        "intel_rdt": {},
        "network_interfaces": None,
    }


_NO_LIMIT = 2**64 - 1


def _oci_memory(usage: int | None, limit: int | None, peak: int | None) -> dict[str, int]:
    return {"limit": _NO_LIMIT if limit is None else limit, "usage": usage or 0, "max": peak or 0, "failcnt": 0}


def _oci_swap(path: str | None, version: int | None) -> dict[str, int]:
    """Count memory and swap together, as runc does for both versions."""
    if path is None:
        return _oci_memory(None, None, None)
    if version == 1:
        return _oci_kernel(path, "memsw")
    usage = (files.number(f"{path}/memory.current") or 0) + (files.number(f"{path}/memory.swap.current") or 0)
    limits = (files.limit(f"{path}/memory.max"), files.limit(f"{path}/memory.swap.max"))
    return _oci_memory(usage, None if None in limits else sum(one or 0 for one in limits), None)


def _oci_kernel(path: str | None, name: str) -> dict[str, int]:
    """Read the three counters that version 1 has of each kind of memory."""
    if path is None:
        return _oci_memory(None, None, None)
    folder = f"{path}/memory.{name}"
    usage, peak = (files.number(f"{folder}.{last}") for last in ("usage_in_bytes", "max_usage_in_bytes"))
    return _oci_memory(usage, files.limit(f"{folder}.limit_in_bytes"), peak)


def _oci_cpu(cpu: dict[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    total, user, kernel = (round((cpu[name] or 0) * 1e9) for name in ("usage_s", "user_s", "system_s"))
    percpu = f"{paths.get('cpuacct')}/cpuacct.usage_percpu"
    each = [int(word) for word in files.read(percpu).split()] if os.path.exists(percpu) else None  # noqa: PTH110
    return {
        "usage": {"total": total, "kernel": kernel, "user": user, **({"percpu": each} if each else {})},
        "throttling": {
            "periods": cpu["periods"] or 0,
            "throttledPeriods": cpu["throttled_periods"] or 0,
            "throttledTime": round((cpu["throttled_s"] or 0) * 1e9),
        },
    }


def _oci_io(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def entries(read: str, written: str) -> list[dict[str, Any]]:
        return [
            {"major": int(major), "minor": int(minor), "op": operation, "value": row[key]}
            for row in rows
            for major, _, minor in [row["device"].partition(":")]
            for operation, key in (("Read", read), ("Write", written))
        ]

    return {
        "ioServiceBytesRecursive": entries("read_bytes", "written_bytes"),
        "ioServicedRecursive": entries("read_operations", "write_operations"),
    }


def _raw_pressure(path: str | None) -> dict[str, dict[str, Any]]:
    if path is None:
        return {}
    found = {}
    for what in _PRESSURE:
        rows = files.fields(f"{path}/{what}.pressure")
        psi = {who: {key: float(value) for key, value in row.items()} for who, row in rows.items()}
        for row in psi.values():
            row["total"] = int(row["total"])
        if psi:
            found[what] = {"psi": psi}
    return found
