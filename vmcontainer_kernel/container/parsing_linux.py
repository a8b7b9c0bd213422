"""Reading the ``linux`` object of a configuration (config-linux.md): namespaces, devices, seccomp, sysctl and paths."""

from __future__ import annotations

from vmcontainer_kernel.container.fields import Fields, brief, check_text
from vmcontainer_kernel.container.parsing_resources import parse_resources
from vmcontainer_kernel.container.spec import (
    Device,
    IdMapping,
    Linux,
    Namespace,
    Personality,
    Seccomp,
    SeccompArg,
    SeccompRule,
    TimeOffset,
)
from vmcontainer_kernel.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "SECCOMP_ACTIONS",
    "SECCOMP_ARCHITECTURES",
    "SECCOMP_FLAGS",
    "SECCOMP_OPERATORS",
    "clean_path",
    "mapping",
    "parse_linux",
    "parse_seccomp",
    "seccomp_rule",
]

_MAX_ID = 2**32 - 1
_NUMBERS = {"major": 2**12 - 1, "minor": 2**20 - 1}  # MINORBITS, linux/kdev_t.h: more would be another device
_MAX_INT64 = 2**63 - 1
_MAX_UINT64 = 2**64 - 1
_NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
_PROPAGATIONS = (
    *("private", "slave", "shared", "unbindable"),
    *("rprivate", "rslave", "rshared", "runbindable"),
)
_CLOCKS = ("boottime", "monotonic")
SECCOMP_ACTIONS = tuple(
    f"SCMP_ACT_{name}"
    for name in ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP")
)
_HIGHEST_ERRNO = {"SCMP_ACT_ERRNO": 4095, "SCMP_ACT_TRACE": 65535}
"""Actions that carry a number; the kernel's MAX_ERRNO, and SECCOMP_RET_DATA (seccomp(2))."""
SECCOMP_OPERATORS = tuple(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
SECCOMP_ARCHITECTURES = tuple(
    f"SCMP_ARCH_{name}"
    for name in (
        *("X86", "X86_64", "X32", "ARM", "AARCH64", "LOONGARCH64", "M68K", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL"),
        *("MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X", "SH", "SHEB", "PARISC", "PARISC64"),
        "RISCV64",
    )
)
SECCOMP_FLAGS = tuple(f"SECCOMP_FILTER_FLAG_{name}" for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"))


def parse_linux(fields: Fields) -> Linux:
    """Read the ``linux`` object; raise `SpecError` naming the field that is wrong."""
    fields.refuse("mountLabel", why="this engine works with no SELinux")
    fields.refuse("intelRdt", why="this engine does not use the kernel's resctrl file system")
    fields.refuse("memoryPolicy", why="this engine sets no NUMA policy; resources.cpu.mems binds to memory nodes")
    fields.refuse("netDevices", why="this engine moves no interfaces between network namespaces")
    linux = Linux(
        namespaces=_namespaces(fields),
        uid_mappings=fields.objects("uidMappings", mapping),
        gid_mappings=fields.objects("gidMappings", mapping),
        time_offsets=_time_offsets(fields),
        devices=fields.objects("devices", _device),
        cgroups_path=_cgroups_path(fields),
        resources=fields.child("resources", parse_resources),
        seccomp=fields.optional("seccomp", parse_seccomp),
        sysctl=tuple((_sysctl_name(fields, key), value) for key, value in fields.text_map("sysctl").items()),
        masked_paths=fields.items("maskedPaths", _inside),
        readonly_paths=fields.items("readonlyPaths", _inside),
        rootfs_propagation=fields.choice("rootfsPropagation", _PROPAGATIONS, ""),
        personality=fields.optional("personality", _personality),
    )
    _check_namespaced(fields, linux)
    return linux


def clean_path(fields: Fields, key: str, path: str) -> str:
    """Return a path of the container without ``//``, ``/./`` or a slash at its end, always from ``/``."""
    parts = path.split("/")
    if ".." in parts or not path:
        raise fields.error(key, f"must be a path without '..', not {brief(path)}")
    return "/" + "/".join(part for part in parts if part not in ("", "."))


def _inside(value: Any, where: str) -> str:
    path = check_text(value, where)
    if not path.startswith("/"):
        raise SpecError(f"{where} must be an absolute path, not {brief(path)}", where=where)
    return path


# -- namespaces and what belongs to them


def _namespaces(fields: Fields) -> tuple[Namespace, ...]:
    found = fields.objects("namespaces", lambda one: Namespace(one.choice("type", _NAMESPACES), one.path("path", "")))
    seen: set[str] = set()
    for index, one in enumerate(found):
        if one.type in seen:
            raise fields.error(f"namespaces[{index}].type", f"must not name {one.type} a second time")
        seen.add(one.type)
    return found


def mapping(fields: Fields) -> IdMapping:
    """Read one entry of ``uidMappings`` or ``gidMappings``, of the container or of a mount."""
    inside, outside = fields.required("containerID", 0, _MAX_ID - 1), fields.required("hostID", 0, _MAX_ID - 1)
    # The last id, 2**32 - 1, is -1: "no id" to every system call (user_namespaces(7)).
    return IdMapping(inside, outside, fields.required("size", 1, _MAX_ID - max(inside, outside)))


def _time_offsets(fields: Fields) -> tuple[TimeOffset, ...]:
    offsets = fields.object_map(
        "timeOffsets",
        lambda one: (one.number("secs", -_MAX_INT64 - 1, _MAX_INT64) or 0, one.number("nanosecs", 0, 999_999_999) or 0),
    )
    for clock in offsets:
        if clock not in _CLOCKS:
            raise fields.error(f"timeOffsets.{clock}", f"must be one of {' '.join(_CLOCKS)} (time_namespaces(7))")
    return tuple(TimeOffset(clock, *parts) for clock, parts in offsets.items())


def _sysctl_name(fields: Fields, key: str) -> str:
    """Return the name with dots between its parts; ``net/ipv4/conf/eth0.1/forwarding`` is the other spelling, in which
    a dot is a dot (sysctl.d(5)).
    """
    slashed = key.find("/") >= 0 and not 0 <= key.find(".") < key.find("/")
    name = key.translate(_SWAP) if slashed else key
    if not {"", ".", ".."}.isdisjoint(name.translate(_SWAP).split("/")):
        raise fields.error(f"sysctl.{key}", "must be a name such as net.ipv4.ip_forward (sysctl(8))")
    return name


_SWAP = {ord("."): "/", ord("/"): "."}


def _check_namespaced(fields: Fields, linux: Linux) -> None:
    """Refuse what would change the node because the namespace it belongs to is not the container's own."""
    joined = {one.type for one in linux.namespaces if one.path}
    maps = bool(linux.uid_mappings), bool(linux.gid_mappings)
    if "user" not in linux.kinds and any(maps):
        raise fields.error("uidMappings" if maps[0] else "gidMappings", "needs a user namespace")
    # A joined namespace has its mappings already: those given describe them and are not written.
    if "user" in linux.new_kinds and not all(maps):
        raise fields.error("gidMappings" if maps[0] else "uidMappings", "is required for a new user namespace")
    if linux.time_offsets and "time" not in linux.new_kinds:
        why = "those of one that exists cannot be changed (time_namespaces(7))" if "time" in joined else "there is none"
        raise fields.error("timeOffsets", f"needs a new time namespace: {why}")
    for name, _ in linux.sysctl:
        _check_sysctl(fields, linux.kinds, name)


def _check_sysctl(fields: Fields, kinds: tuple[str, ...], name: str) -> None:
    if name.startswith("net."):
        needed = "network"
    elif name.startswith(("kernel.shm", "kernel.msg", "fs.mqueue.")) or name == "kernel.sem":
        needed = "ipc"
    elif name == "kernel.domainname":
        needed = "uts"
    elif name == "kernel.hostname":
        raise fields.error(f"sysctl.{name}", "has a field of its own: hostname")
    else:
        raise fields.error(f"sysctl.{name}", "belongs to no namespace: it would change the node")
    if needed not in kinds:
        raise fields.error(f"sysctl.{name}", f"needs a {needed} namespace, else it would change the node")


# -- devices, control groups, personality


def _device(fields: Fields) -> Device:
    kind = fields.choice("type", ("c", "b", "u", "p"))
    numbers = {key: fields.number(key, 0, highest) for key, highest in _NUMBERS.items()}
    for key, number in numbers.items():
        if number is None and kind != "p":
            raise fields.error(key, "is required")
    # Go programs may send the bits of the file's type too (S_IFMT); `type` has said that.
    mode = fields.number("fileMode", 0, 0o177777)
    return Device(
        path=clean_path(fields, "path", fields.path("path")),
        type=kind,
        major=0 if kind == "p" else numbers["major"] or 0,
        minor=0 if kind == "p" else numbers["minor"] or 0,
        file_mode=None if mode is None else mode & 0o7777,
        uid=fields.number("uid", 0, _MAX_ID - 1) or 0,
        gid=fields.number("gid", 0, _MAX_ID - 1) or 0,
    )


def _cgroups_path(fields: Fields) -> str:
    path = fields.text("cgroupsPath", "")
    if ".." in path.split("/"):
        raise fields.error("cgroupsPath", f"must be a path without '..', not {brief(path)}")
    if path.count(":") == 2 and not path.startswith("/"):
        raise fields.error(
            "cgroupsPath",
            f"must be a path in the control group file system, not systemd's slice:prefix:name {brief(path)}",
            hint="Docker: --exec-opt native.cgroupdriver=cgroupfs; Podman: --cgroup-manager cgroupfs",
        )
    return path


def _personality(fields: Fields) -> Personality:
    fields.refuse("flags", why="the specification defines none")
    return Personality(fields.choice("domain", ("LINUX", "LINUX32")))


# -- seccomp


def parse_seccomp(fields: Fields) -> Seccomp:
    """Read ``linux.seccomp``; raise `SpecError` naming the field that is wrong."""
    action = fields.choice("defaultAction", SECCOMP_ACTIONS)
    if action == "SCMP_ACT_NOTIFY":
        raise fields.error("defaultAction", "must not be SCMP_ACT_NOTIFY: the call that asks would itself be asked for")
    seccomp = Seccomp(
        default_action=action,
        default_errno=_errno(fields, "defaultErrnoRet", action),
        architectures=_all_of(fields, "architectures", SECCOMP_ARCHITECTURES),
        flags=_all_of(fields, "flags", SECCOMP_FLAGS),
        listener_path=fields.path("listenerPath", ""),
        listener_metadata=fields.text("listenerMetadata", ""),
        rules=fields.objects("syscalls", seccomp_rule),
    )
    if seccomp.listener_metadata and not seccomp.listener_path:
        raise fields.error("listenerMetadata", "needs listenerPath")
    if any(rule.action == "SCMP_ACT_NOTIFY" for rule in seccomp.rules) and not seccomp.listener_path:
        raise fields.error("listenerPath", "is required by the action SCMP_ACT_NOTIFY")
    return seccomp


def seccomp_rule(fields: Fields) -> SeccompRule:
    """Read one of ``linux.seccomp.syscalls``; raise `SpecError` naming the field that is wrong."""
    names = fields.texts("names")
    if not names or "" in names:
        raise fields.error("names", "must name at least one system call, and each by its name")
    action = fields.choice("action", SECCOMP_ACTIONS)
    return SeccompRule(names, action, _errno(fields, "errnoRet", action), fields.objects("args", _argument))


def _errno(fields: Fields, key: str, action: str) -> int | None:
    number = fields.number(key, 0, _HIGHEST_ERRNO.get(action, 65535))
    if number is not None and action not in _HIGHEST_ERRNO:
        raise fields.error(key, f"is for {' and '.join(_HIGHEST_ERRNO)} only, not for {action}")
    return number


def _argument(fields: Fields) -> SeccompArg:
    return SeccompArg(
        index=fields.required("index", 0, 5),
        value=fields.required("value", 0, _MAX_UINT64),
        op=fields.choice("op", SECCOMP_OPERATORS),
        value_two=fields.number("valueTwo", 0, _MAX_UINT64) or 0,
    )


def _all_of(fields: Fields, key: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    values = fields.texts(key)
    for index, value in enumerate(values):
        if value not in allowed:
            raise fields.error(f"{key}[{index}]", f"must be one of {' '.join(allowed)}, not {brief(value)}")
    return values
