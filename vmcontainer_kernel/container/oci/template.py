"""``spec``: a configuration to begin with, which `parsing` takes and which starts a shell."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vmcontainer_kernel.errors import UserError

__all__ = ["template", "write"]

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_MASKED = ("acpi", "asound", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi")
_READONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


def write(bundle: str, *, rootless: bool) -> None:
    """Write config.json into a folder; raise `UserError` if there is one."""
    try:
        with (Path(bundle) / "config.json").open("x", encoding="utf-8") as stream:
            json.dump(template(rootless=rootless), stream, indent=4)
    except FileExistsError as error:
        raise UserError("there is a config.json already", hint="remove it first", where=bundle) from error
    except OSError as error:
        raise UserError(f"no config.json can be written: {error.strerror}", where=bundle) from error


def template(*, rootless: bool = False) -> dict[str, Any]:
    """Return a configuration that starts a shell with few rights; for an ordinary user with a user namespace."""
    kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup", *(["user"] if rootless else [])]
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": [*(f"/proc/{name}" for name in _MASKED), "/sys/firmware"],
        "readonlyPaths": [f"/proc/{name}" for name in _READONLY],
    }
    if rootless:
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return {
        "ociVersion": "1.2.0",
        "process": _process(),
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "vmcontainer",
        "mounts": _mounts(rootless=rootless),
        "linux": linux,
    }


def _process() -> dict[str, Any]:
    return {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {name: _CAPABILITIES for name in ("bounding", "effective", "permitted")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }


def _mounts(*, rootless: bool) -> list[dict[str, Any]]:
    devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    plain = [
        ("/proc", "proc", []),
        ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", devpts if rootless else [*devpts, "gid=5"]),
        ("/dev/shm", "tmpfs", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
        ("/sys/fs/cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
    shown = [one for one in plain if not (rootless and one[1] == "cgroup")]
    return [{"destination": path, "type": kind, "source": kind, "options": options} for path, kind, options in shown]
