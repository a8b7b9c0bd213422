"""Reading a ``config.json`` (OCI runtime specification 1.2) into the records of `spec`.

What this runtime cannot honour is refused by name. So is what the specification does not define: there it allows a
runtime to ignore (spec.md, "Extensibility"), but a misspelt limit must not vanish.
"""

from __future__ import annotations

from typing import Any

from vmcontainer_kernel.container.fields import Fields, check_text
from vmcontainer_kernel.container.linux import CAPABILITIES, NAMESPACE_FLAGS
from vmcontainer_kernel.container.spec import (
    Capabilities,
    Cpu,
    IdMapping,
    Linux,
    Memory,
    Mount,
    Namespace,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
    User,
)
from vmcontainer_kernel.errors import SpecError

__all__ = ["parse"]

_MAX_ID = 2**32 - 2
_MAX_BYTES = 2**62
_RLIMITS = ("CORE", "CPU", "DATA", "FSIZE", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS", "RTPRIO", "STACK")
_RLIMIT_TYPES = tuple(f"RLIMIT_{name}" for name in (*_RLIMITS, "AS", "LOCKS", "RTTIME", "SIGPENDING"))
_MOUNT_TYPES = ("proc", "tmpfs", "devpts", "mqueue", "sysfs", "cgroup", "bind")


def parse(document: Any) -> Spec:
    """Read a ``config.json`` document (runtime-spec 1.2, config.md); raise `SpecError` naming the field that is
    wrong.
    """
    fields = Fields(document)
    version = fields.text("ociVersion")
    if not version.startswith("1."):
        raise fields.error("ociVersion", f"must be 1.x, not {version!r}")
    fields.refuse("hooks", "domainname", why="this runtime has no such step")
    fields.refuse("solaris", "windows", "vm", "zos", why="this is a Linux runtime")
    root = fields.child("root")
    spec = Spec(
        process=_process(fields.child("process")),
        root=Root(_relative(root, "path"), root.flag("readonly", default=False)),
        hostname=fields.text("hostname", ""),
        mounts=fields.items("mounts", _mount),
        linux=_linux(fields.child("linux")),
        annotations=tuple(fields.text_map("annotations").items()),
    )
    root.done()
    fields.done()
    return _checked(spec)


def _checked(spec: Spec) -> Spec:
    """Refuse combinations that cannot work (config-linux.md: mappings only with a user namespace; a host name needs its
    own).
    """
    kinds = spec.linux.kinds
    if "mount" not in kinds:
        raise SpecError("linux.namespaces must hold mount: nothing is mounted outside", where="linux.namespaces")
    if spec.hostname and "uts" not in kinds:
        raise SpecError("hostname needs a uts namespace, else it would rename the node", where="hostname")
    wanted = "user" in kinds
    if (bool(spec.linux.uid_mappings), bool(spec.linux.gid_mappings)) != (wanted, wanted):
        raise SpecError(
            "linux.uidMappings, linux.gidMappings and a user namespace go together", where="linux.uidMappings"
        )
    if len(spec.hostname.encode("utf-8", "surrogateescape")) > 64:
        raise SpecError("hostname must be at most 64 bytes", where="hostname")
    return spec


def _process(fields: Fields) -> Process:
    fields.refuse(
        "apparmorProfile", "selinuxLabel", "oomScoreAdj", "ioPriority", "scheduler", why="not in this runtime"
    )
    fields.refuse("execCPUAffinity", "consoleSize", "commandLine", why="not in this runtime")
    capabilities = _capabilities(fields.child("capabilities")) if fields.has("capabilities") else None
    user = fields.child("user")
    process = Process(
        args=fields.texts("args"),
        env=fields.items("env", _variable),
        cwd=_absolute(fields, "cwd"),
        user=_user(user),
        terminal=fields.flag("terminal", default=False),
        capabilities=capabilities,
        rlimits=fields.items("rlimits", _rlimit),
        no_new_privileges=fields.flag("noNewPrivileges", default=False),
    )
    if not process.args or not process.args[0]:
        raise fields.error("args[0]" if process.args else "args", "must name a program")
    fields.done()
    return process


def _user(fields: Fields) -> User:
    user = User(
        uid=fields.number("uid", 0, _MAX_ID) or 0,
        gid=fields.number("gid", 0, _MAX_ID) or 0,
        umask=fields.number("umask", 0, 0o777),
        additional_gids=fields.items("additionalGids", _id),
    )
    fields.done()
    return user


def _id(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_ID:
        raise SpecError(f"{where} must be an integer from 0 to {_MAX_ID}", where=where)
    return value


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _variable(value: Any, where: str) -> str:
    text = check_text(value, where)
    if "=" not in text[1:]:
        raise SpecError(f"{where} must be NAME=value, not {text!r}", where=where)
    return text


def _absolute(fields: Fields, key: str) -> str:
    path = fields.text(key)
    if not path.startswith("/"):
        raise fields.error(key, f"must be an absolute path, not {path!r}")
    return path


def _relative(fields: Fields, key: str) -> str:
    path = fields.text(key)
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise fields.error(key, f"must be a path inside the bundle, not {path!r}")
    return path


def _capabilities(fields: Fields) -> Capabilities:
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    masks = Capabilities(*(sum(set(fields.items(name, _capability))) for name in sets))
    fields.done()
    if masks.effective & ~masks.permitted:
        raise fields.error("effective", "must be within permitted (capabilities(7))")
    if masks.ambient & ~(masks.permitted & masks.inheritable):
        raise fields.error("ambient", "must be within permitted and inheritable (capabilities(7))")
    return masks


def _capability(value: Any, where: str) -> int:
    name = check_text(value, where)
    if not name.startswith("CAP_") or name[4:] not in CAPABILITIES:
        raise SpecError(f"{where} must be a capability such as CAP_CHOWN, not {name!r}", where=where)
    return 1 << CAPABILITIES.index(name[4:])


def _rlimit(value: Any, where: str) -> Rlimit:
    fields = Fields(value, where)
    kind = fields.text("type")
    if kind not in _RLIMIT_TYPES:
        raise fields.error("type", f"must be one of getrlimit(2), not {kind!r}")
    highest = 2**64 - 1
    soft, hard = fields.number("soft", 0, highest), fields.number("hard", 0, highest)
    fields.done()
    if soft is None or hard is None or soft > hard:
        raise SpecError(f"{where} must have soft and hard, soft at most hard", where=where)
    return Rlimit(kind, soft, hard)


def _mount(value: Any, where: str) -> Mount:
    fields = Fields(value, where)
    fields.refuse("uidMappings", "gidMappings", why="this runtime makes no id-mapped mounts")
    options = fields.texts("options")
    kind = fields.text("type", "bind" if {"bind", "rbind"} & set(options) else "")
    kind = "bind" if kind == "none" and {"bind", "rbind"} & set(options) else kind
    if kind not in _MOUNT_TYPES:
        raise fields.error("type", f"must be one of {' '.join(_MOUNT_TYPES)}, not {kind!r}")
    mount = Mount(_absolute(fields, "destination"), kind, fields.text("source", ""), options)
    if kind == "bind" and not mount.source.startswith("/"):
        raise fields.error("source", "must be an absolute path of the node")
    if ".." in mount.destination.split("/"):
        raise fields.error("destination", "must not hold '..'")
    fields.done()
    return mount


def _linux(fields: Fields) -> Linux:
    fields.refuse("devices", "seccomp", "sysctl", "intelRdt", "personality", "mountLabel", why="not in this runtime")
    fields.refuse("timeOffsets", "netDevices", "memoryPolicy", why="not in this runtime")
    propagation = fields.text("rootfsPropagation", "rprivate")
    if propagation not in ("private", "rprivate"):
        raise fields.error("rootfsPropagation", "must be private: nothing is mounted outside")
    linux = Linux(
        namespaces=fields.items("namespaces", _namespace),
        uid_mappings=fields.items("uidMappings", _mapping),
        gid_mappings=fields.items("gidMappings", _mapping),
        resources=_resources(fields.child("resources")),
        cgroups_path=fields.text("cgroupsPath", ""),
        masked_paths=fields.items("maskedPaths", _inside),
        readonly_paths=fields.items("readonlyPaths", _inside),
    )
    if len(set(linux.kinds)) != len(linux.kinds):
        raise fields.error("namespaces", "must not name a type twice")
    if ".." in linux.cgroups_path.split("/"):
        raise fields.error("cgroupsPath", "must not hold '..'")
    fields.done()
    return linux


def _inside(value: Any, where: str) -> str:
    path = check_text(value, where)
    if not path.startswith("/"):
        raise SpecError(f"{where} must be an absolute path, not {path!r}", where=where)
    return path


def _namespace(value: Any, where: str) -> Namespace:
    fields = Fields(value, where)
    kind = fields.text("type")
    if kind not in NAMESPACE_FLAGS:
        raise fields.error("type", f"must be one of {' '.join(NAMESPACE_FLAGS)}, not {kind!r}")
    fields.refuse("path", why="joining a namespace that exists already")
    fields.done()
    return Namespace(kind)


def _mapping(value: Any, where: str) -> IdMapping:
    fields = Fields(value, where)
    numbers = [fields.number(key, 0, _MAX_ID) for key in ("containerID", "hostID", "size")]
    fields.done()
    inside, outside, size = (_or(number, -1) for number in numbers)
    if min(inside, outside) < 0 or size < 1:
        raise SpecError(f"{where} must have containerID, hostID and a size of at least 1", where=where)
    return IdMapping(inside, outside, size)


def _resources(fields: Fields) -> Resources:
    fields.refuse("devices", "blockIO", "network", "hugepageLimits", "rdma", "unified", why="no such limit here")
    memory, cpu, pids = fields.child("memory"), fields.child("cpu"), fields.child("pids")
    resources = Resources(
        memory=Memory(limit_bytes=memory.number("limit", 4096, _MAX_BYTES)),
        cpu=Cpu(quota_us=cpu.number("quota", 1000, 2**40), period_us=cpu.number("period", 1000, 1_000_000)),
        pids_limit=pids.number("limit", 1, 2**22),
    )
    for part in (memory, cpu, pids, fields):
        part.done()
    return resources
