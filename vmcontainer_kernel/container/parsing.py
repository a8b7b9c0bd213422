"""Reading a ``config.json`` (OCI runtime specification 1.2) into the records of `spec`: the part of config.md.

    parsing            process, root, mounts, hooks, and what one part asks of another
    parsing_linux      namespaces, devices, seccomp, sysctl (config-linux.md)
    parsing_resources  limits (config-linux.md, "Control groups")

What this engine cannot honour is refused by name; docs/oci.md says what happens to each field. A member the
specification does not define, and a capability this engine does not know, may be no error (config.md,
"Extensibility"), so a caller that hands over a list for warnings finds them there. Without one they are errors: in
what we write ourselves they are mistakes.
"""

from __future__ import annotations

from vmcontainer_kernel.container.fields import Fields, brief, check_text
from vmcontainer_kernel.container.linux import CAPABILITIES
from vmcontainer_kernel.container.parsing_linux import clean_path, mapping, parse_linux
from vmcontainer_kernel.container.parsing_resources import cpu_list
from vmcontainer_kernel.container.spec import (
    Capabilities,
    Hook,
    Hooks,
    IoPriority,
    Linux,
    Mount,
    Process,
    Rlimit,
    Root,
    Scheduler,
    Spec,
    User,
)
from vmcontainer_kernel.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["HOOKS", "parse", "parse_process"]

_MAX_ID = 2**32 - 2
_MAX_INT32 = 2**31 - 1
_MAX_INT64 = 2**63 - 1
_MAX_UINT64 = 2**64 - 1
_HOST_NAME_BYTES = 64  # __NEW_UTS_LEN, linux/utsname.h
_RLIMITS = ("CORE", "CPU", "DATA", "FSIZE", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS", "RTPRIO", "STACK")
_RLIMIT_TYPES = tuple(f"RLIMIT_{name}" for name in (*_RLIMITS, "AS", "LOCKS", "RTTIME", "SIGPENDING"))
_POLICIES = ("SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_IDLE", "SCHED_DEADLINE")
_REAL_TIME = ("SCHED_FIFO", "SCHED_RR")
_SCHEDULER_FLAGS = tuple(
    f"SCHED_FLAG_{name}" for name in ("RESET_ON_FORK", "RECLAIM", "DL_OVERRUN", "KEEP_POLICY", "KEEP_PARAMS")
)
_IO_CLASSES = ("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")
_NO_MODULE = "this engine works with no Linux security module but seccomp and capabilities"


def parse(document: Any, warnings: list[str] | None = None) -> Spec:
    """Read a ``config.json`` document (config.md); raise `SpecError` naming the field that is wrong.

    `warnings`: takes what the specification lets a runtime only warn of; None makes these errors too.
    """
    fields = Fields(document, warnings=warnings)
    _version(fields)
    fields.refuse("solaris", "windows", "vm", "zos", "freebsd", why="this is a Linux runtime")
    process = fields.optional("process", _process)
    if process is None:
        # The specification wants it for `start` only; what is created here is already the process that will run it.
        raise fields.error("process", "is required")
    root = fields.optional("root", _root)
    if root is None:
        raise fields.error("root", "is required")
    spec = Spec(
        process=process,
        root=root,
        hostname=_host_name(fields, "hostname"),
        domainname=_host_name(fields, "domainname"),
        mounts=fields.objects("mounts", _mount),
        hooks=fields.child("hooks", _hooks),
        linux=fields.child("linux", parse_linux),
        annotations=_annotations(fields),
    )
    fields.done()
    _check_together(spec)
    return spec


def parse_process(document: Any, warnings: list[str] | None = None) -> Process:
    """Read the ``process`` object of a configuration alone, as the command line's ``exec --process FILE`` gets it."""
    fields = Fields(document, "process", warnings)
    process = _process(fields)
    fields.done()
    return process


def _version(fields: Fields) -> None:
    version = fields.text("ociVersion")
    numbers = version.partition("+")[0].partition("-")[0].split(".")
    if len(numbers) != 3 or not all(part.isascii() and part.isdecimal() for part in numbers):
        raise fields.error("ociVersion", f"must be a version such as 1.2.0 (semver.org), not {brief(version)}")
    if numbers[0] != "1":
        raise fields.error("ociVersion", f"must be 1.x: versions differ in meaning across major ones, not {version!r}")


def _host_name(fields: Fields, key: str) -> str:
    name = fields.text(key, "")
    if len(name.encode("utf-8", "surrogateescape")) > _HOST_NAME_BYTES:
        raise fields.error(key, f"must be at most {_HOST_NAME_BYTES} bytes (sethostname(2))")
    return name


def _annotations(fields: Fields) -> tuple[tuple[str, str], ...]:
    annotations = fields.text_map("annotations")
    if "" in annotations:
        raise fields.error("annotations", "must not have an empty key")
    return tuple(annotations.items())


def _root(fields: Fields) -> Root:
    path = fields.text("path")
    if not path:
        raise fields.error("path", "must name a folder: an absolute path, or one below the bundle")
    return Root(path, fields.flag("readonly", default=False))


# -- what one part asks of another


def _check_together(spec: Spec) -> None:
    kinds = spec.linux.kinds
    if "mount" not in spec.linux.new_kinds:
        raise SpecError(
            "linux.namespaces must hold a new mount namespace: in another's, or the node's, every mount would stay",
            hint='add {"type": "mount"}, without a path',
            where="linux.namespaces",
        )
    for key, name in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if name and "uts" not in kinds:
            raise SpecError(f"{key} needs a uts namespace, else it would rename the node", where=key)
    for index, one in enumerate(spec.mounts):
        _check_id_mapped(one, spec.linux, f"mounts[{index}]")


def _check_id_mapped(one: Mount, linux: Linux, where: str) -> None:
    wanted = bool(one.uid_mappings) or not {"idmap", "ridmap"}.isdisjoint(one.options)
    if wanted and one.type != "bind":
        raise SpecError(f"{where}.type must be bind for an id-mapped mount (mount_setattr(2))", where=f"{where}.type")
    if wanted and not one.uid_mappings and not linux.uid_mappings:
        raise SpecError(
            f"{where}.options asks for an id-mapped mount, and there are no mappings", where=f"{where}.options"
        )


# -- process


def _process(fields: Fields) -> Process:
    fields.refuse("apparmorProfile", "selinuxLabel", why=_NO_MODULE)
    fields.refuse("commandLine", why="it is how Windows starts programs; args is the command here")
    terminal = fields.flag("terminal", default=False)
    console_size = fields.optional("consoleSize", _console_size)
    affinity = fields.child("execCPUAffinity", lambda one: (cpu_list(one, "initial"), cpu_list(one, "final")))
    args = fields.texts("args")
    if not args or not args[0]:
        raise fields.error("args[0]" if args else "args", "must name a program")
    return Process(
        args=args,
        env=fields.items("env", _variable),
        cwd=fields.path("cwd"),
        user=fields.child("user", _user),
        terminal=terminal,
        console_size=console_size if terminal else None,  # to be ignored without one
        capabilities=fields.optional("capabilities", _capabilities),
        rlimits=_rlimits(fields),
        no_new_privileges=fields.flag("noNewPrivileges", default=False),
        oom_score_adj=fields.number("oomScoreAdj", -1000, 1000),
        scheduler=fields.optional("scheduler", _scheduler),
        io_priority=fields.optional("ioPriority", _io_priority),
        initial_cpus=affinity[0],
        final_cpus=affinity[1],
    )


def _console_size(fields: Fields) -> tuple[int, int]:
    return fields.required("height", 0, 65535), fields.required("width", 0, 65535)  # struct winsize, ioctl_tty(2)


def _user(fields: Fields) -> User:
    return User(
        uid=fields.number("uid", 0, _MAX_ID) or 0,
        gid=fields.number("gid", 0, _MAX_ID) or 0,
        umask=fields.number("umask", 0, 0o777),
        additional_gids=fields.items("additionalGids", _id),
    )


def _id(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_ID:
        raise SpecError(f"{where} must be an integer from 0 to {_MAX_ID}, not {brief(value)}", where=where)
    return value


def _variable(value: Any, where: str) -> str:
    text = check_text(value, where)
    if "=" not in text[1:]:
        raise SpecError(f"{where} must be NAME=value, not {brief(text)}", where=where)
    return text


def _capabilities(fields: Fields) -> Capabilities:
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    bounding, effective, permitted, inheritable, ambient = (_capability_set(fields, name) for name in sets)
    if effective & ~permitted:
        fields.warn("effective", "must be within permitted (capabilities(7))")
    if ambient & ~(permitted & inheritable):
        fields.warn("ambient", "must be within permitted and inheritable (capabilities(7))")
    return Capabilities(bounding, effective & permitted, permitted, inheritable, ambient & permitted & inheritable)


def _capability_set(fields: Fields, key: str) -> int:
    mask = 0
    for index, name in enumerate(fields.texts(key)):
        if name.startswith("CAP_") and name[4:] in CAPABILITIES:
            mask |= 1 << CAPABILITIES.index(name[4:])
        else:
            fields.warn(f"{key}[{index}]", f"must be a capability such as CAP_CHOWN, not {brief(name)}")
    return mask


def _rlimits(fields: Fields) -> tuple[Rlimit, ...]:
    limits = fields.objects("rlimits", _rlimit)
    seen: set[str] = set()
    for index, one in enumerate(limits):
        if one.type in seen:
            raise fields.error(f"rlimits[{index}].type", f"must not name {one.type} a second time")
        seen.add(one.type)
    return limits


def _rlimit(fields: Fields) -> Rlimit:
    kind = fields.choice("type", _RLIMIT_TYPES)
    soft, hard = fields.required("soft", 0, _MAX_UINT64), fields.required("hard", 0, _MAX_UINT64)
    if soft > hard:
        raise fields.error("soft", "must be at most hard (getrlimit(2))")
    return Rlimit(kind, soft, hard)


def _scheduler(fields: Fields) -> Scheduler:
    policy = fields.choice("policy", _POLICIES)  # SCHED_ISO is reserved: no kernel has it (sched(7))
    scheduler = Scheduler(
        policy=policy,
        nice=fields.number("nice", -20, 19) or 0,
        priority=fields.number("priority", 0, 99) or 0,
        flags=_scheduler_flags(fields),
        runtime=fields.number("runtime", 0, _MAX_INT64) or 0,
        deadline=fields.number("deadline", 0, _MAX_INT64) or 0,
        period=fields.number("period", 0, _MAX_INT64) or 0,
    )
    if (scheduler.priority > 0) != (policy in _REAL_TIME):
        raise fields.error("priority", f"must be 1 to 99 for {' and '.join(_REAL_TIME)}, and 0 for all else (sched(7))")
    times = scheduler.runtime, scheduler.deadline, scheduler.period or scheduler.deadline
    if policy == "SCHED_DEADLINE" and not 1024 <= times[0] <= times[1] <= times[2]:
        raise fields.error("runtime", "must be at least 1024 ns, at most deadline, and that at most period (sched(7))")
    if policy != "SCHED_DEADLINE" and any(times):
        raise fields.error("policy", "must be SCHED_DEADLINE where runtime, deadline or period are set")
    return scheduler


def _scheduler_flags(fields: Fields) -> tuple[str, ...]:
    flags = fields.texts("flags")
    for index, flag in enumerate(flags):
        if flag not in _SCHEDULER_FLAGS:  # UTIL_CLAMP_* too: the specification has no field for the clamp itself
            raise fields.error(f"flags[{index}]", f"must be one of {' '.join(_SCHEDULER_FLAGS)}, not {brief(flag)}")
    return flags


def _io_priority(fields: Fields) -> IoPriority:
    return IoPriority(fields.choice("class", _IO_CLASSES), fields.required("priority", 0, 7))


# -- mounts


def _mount(fields: Fields) -> Mount:
    options = fields.texts("options")
    kind = fields.text("type", "")
    # "A mount is a bind mount if it has either bind or rbind in the options"; its type is a dummy then.
    kind = "bind" if "bind" in options or "rbind" in options else kind
    source = fields.text("source", "")
    if not kind and "remount" not in options:
        raise fields.error("type", "is required for a mount that is no bind mount")
    if kind == "bind" and not source:
        raise fields.error("source", "is required for a bind mount")
    uid_mappings, gid_mappings = fields.objects("uidMappings", mapping), fields.objects("gidMappings", mapping)
    if bool(uid_mappings) != bool(gid_mappings):
        raise fields.error("gidMappings" if uid_mappings else "uidMappings", "is required: the two go together")
    # A relative destination is deprecated, and means one from / (config.md, "Mounts").
    destination = clean_path(fields, "destination", fields.text("destination"))
    return Mount(destination, kind, source, options, uid_mappings, gid_mappings)


# -- hooks


HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def _hooks(fields: Fields) -> Hooks:
    return Hooks(*(fields.objects(kind, _hook) for kind in HOOKS))


def _hook(fields: Fields) -> Hook:
    return Hook(
        path=fields.path("path"),
        args=fields.texts("args"),
        env=fields.items("env", _variable),
        timeout_s=fields.number("timeout", 1, _MAX_INT32),
    )
