"""The numbers among a container's options, as the OCI configuration has them: control groups, rlimits, devices."""

from __future__ import annotations

from vmcontainer_kernel.container.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmcontainer_kernel.container.options import Options
    from vmcontainer_kernel.container.requests import Throttle

__all__ = ["DeviceNumbers", "device_rules", "devices", "resources", "rlimits"]

_PERIOD_US = 100_000


class DeviceNumbers(Record):
    """A device file of the node: `type` is c or b."""

    type: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


def resources(options: Options, numbers: dict[str, DeviceNumbers]) -> dict[str, Any]:
    """Return ``linux.resources`` but the rules for devices; only what was asked for. `numbers`: of the devices the
    options name.
    """
    found: dict[str, Any] = {
        "memory": _memory(options),
        "cpu": _cpu(options),
        "pids": {} if options.pids_limit is None else {"limit": options.pids_limit},
        "blockIO": _block_io(options, numbers),
    }
    return {key: value for key, value in found.items() if value}


def _memory(options: Options) -> dict[str, int]:
    # A limit that swap softens is no limit, so none is given unless it is asked for.
    swap = options.memory_bytes if options.memory_swap_bytes is None else options.memory_swap_bytes
    return _said(limit=options.memory_bytes, swap=swap, reservation=options.memory_reservation_bytes)


def _said(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "", [])}


def _cpu(options: Options) -> dict[str, Any]:
    limit = {}
    if options.cpus is not None:
        limit = {"quota": max(1000, round(options.cpus * _PERIOD_US)), "period": _PERIOD_US}
    return limit | _said(shares=options.cpu_shares, cpus=options.cpuset_cpus, mems=options.cpuset_mems)


def _block_io(options: Options, numbers: dict[str, DeviceNumbers]) -> dict[str, Any]:
    def rates(throttles: tuple[Throttle, ...]) -> list[dict[str, int]]:
        return [
            {"major": numbers[one.path].major, "minor": numbers[one.path].minor, "rate": one.rate} for one in throttles
        ]

    return _said(
        weight=options.blkio_weight,
        throttleReadBpsDevice=rates(options.device_read_bps),
        throttleWriteBpsDevice=rates(options.device_write_bps),
        throttleReadIOPSDevice=rates(options.device_read_iops),
        throttleWriteIOPSDevice=rates(options.device_write_iops),
    )


def device_rules(options: Options, numbers: dict[str, DeviceNumbers]) -> list[dict[str, Any]]:
    """Return ``linux.resources.devices``: deny all, then allow what was asked for.

    What every container has is allowed besides (`cgroups.devices`). The capability MKNOD makes a file of any device;
    this is what keeps it from being opened.
    """
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for one in options.devices:
        found = numbers[one.path]
        rules.append(
            {"allow": True, "type": found.type, "major": found.major, "minor": found.minor, "access": one.access}
        )
    return rules


def devices(options: Options, numbers: dict[str, DeviceNumbers]) -> list[dict[str, Any]]:
    """Return ``linux.devices``: those asked for under their own name; of a privileged container, all the node has."""
    own = [one.path for one in options.devices if one.target == one.path]
    return [
        {
            "path": path,
            "type": numbers[path].type,
            "major": numbers[path].major,
            "minor": numbers[path].minor,
            "fileMode": numbers[path].mode,
            "uid": numbers[path].uid,
            "gid": numbers[path].gid,
        }
        for path in (numbers if options.privileged else own)
    ]


def rlimits(options: Options) -> list[dict[str, Any]]:
    """Return ``process.rlimits`` (getrlimit(2))."""
    return [{"type": f"RLIMIT_{one.name.upper()}", "soft": one.soft, "hard": one.hard} for one in options.ulimits]
