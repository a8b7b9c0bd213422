"""What a request names on the node, looked up: numbers of devices, folders of volumes, other containers' namespaces.

The answers go into `config.make_config`, which looks at nothing itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.config import Surroundings
from vmcontainer_kernel.container.container import Container
from vmcontainer_kernel.container.limits import DeviceNumbers
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.volumes import Volumes
from vmcontainer_kernel.errors import HostError, NotFound, UserError

__all__ = ["look_up"]

_PROC_NAMES = {"network": "net"}


def look_up(
    options: Options,
    bundle: Path,
    volumes: Volumes | None,
    find: Callable[[str], Container],
    name_mounts: Sequence[dict[str, Any]],
    *,
    rootless: bool,
) -> Surroundings | None:
    """Return what `options` need to know of the node, None if that is nothing.

    `find`: a container by its name; `name_mounts`: of the files that say which names there are; `rootless`: each
    container has a user namespace, to which its others belong.
    """
    wants_devices = options.devices or options.privileged or _throttled(options)
    if not (options.volumes or wants_devices or name_mounts or _joined_words(options)):
        return None
    return Surroundings(
        joined=_joined(options, find, rootless=rootless),
        devices=_devices(options) if wants_devices else {},
        volumes=_folders(options, bundle, volumes),
        mounts=tuple(name_mounts),
    )


# -- namespaces of other containers


def _joined_words(options: Options) -> dict[str, str]:
    words = {"network": options.network, "pid": options.pid, "ipc": options.ipc, "uts": options.uts}
    words |= {"cgroup": options.cgroupns, "user": options.userns}
    return {kind: text.partition(":")[2] for kind, text in words.items() if text.startswith("container:")}


def _joined(options: Options, find: Callable[[str], Container], *, rootless: bool) -> dict[str, str]:
    joined, wanted = {}, _joined_words(options)
    if "user" in wanted and not rootless:
        raise UserError(
            f"container {wanted['user']} has no user namespace: root's containers have none", where="userns"
        )
    if rootless and len({*wanted.values()}) > 1:
        raise HostError(
            f"of {' and '.join(sorted({*wanted.values()}))} only one can be joined: each has a user namespace of its"
            " own, to which its other ones belong",
            hint="run it in a guest, where you are root: --on vm",
            where="user_namespaces(7)",
        )
    if rootless and wanted:
        wanted["user"] = next(iter(wanted.values()))
    for kind, name in wanted.items():
        other = find(name)
        if other.status != "running":
            raise UserError(
                f"container {name} is {other.status}: it has no {kind} namespace to join", hint="start it first"
            )
        joined[kind] = f"/proc/{other.pid}/ns/{_PROC_NAMES.get(kind, kind)}"
    return joined


# -- devices


def _throttled(options: Options) -> list[str]:
    rates = (options.device_read_bps, options.device_write_bps, options.device_read_iops, options.device_write_iops)
    return [one.path for some in rates for one in some]


def _devices(options: Options) -> dict[str, DeviceNumbers]:
    named = {path: _numbers(path) for path in (*(one.path for one in options.devices), *_throttled(options))}
    return {**(_all_devices() if options.privileged else {}), **named}


def _numbers(path: str) -> DeviceNumbers:
    try:
        found = os.stat(path)  # noqa: PTH116 - a link to a device is one, as with docker
    except OSError as error:
        raise NotFound(
            f"there is no device {path} on this node", hint=f"{error.strerror}; ls /dev shows them"
        ) from None
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise UserError(f"{path} is no device", hint="a file or folder of the node is given with --volume")
    return _described(found)


def _described(found: os.stat_result) -> DeviceNumbers:
    return DeviceNumbers(
        "c" if stat.S_ISCHR(found.st_mode) else "b",
        os.major(found.st_rdev),
        os.minor(found.st_rdev),
        found.st_mode & 0o777,
        found.st_uid,
        found.st_gid,
    )


def _all_devices() -> dict[str, DeviceNumbers]:
    """Return the device files directly below the node's /dev, terminals apart: the container has its own."""
    found = {}
    with os.scandir("/dev") as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            is_device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
            if is_device and entry.name not in ("console", "ptmx", "tty"):
                found[entry.path] = _described(status)
    return found


# -- volumes


def _folders(options: Options, bundle: Path, volumes: Volumes | None) -> dict[str, str]:
    folders = {}
    for number, one in enumerate(options.volumes):
        if one.kind == "bind":
            if not os.path.lexists(one.source):
                raise NotFound(f"there is nothing at {one.source} on this node", hint="make it first", where="volume")
        elif not one.source:
            folders[one.target] = str(bundle / "volumes" / str(number))
        elif volumes is None:
            raise HostError("this node keeps no volumes", hint="give a folder: --volume /FOLDER:TARGET")
        else:
            folders[one.target] = volumes.path(one.source)
    return folders
