"""What a user asks of a container (`Options`), and the OCI ``config.json`` that says the same to the runtime
(`make_config`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vmcontainer_kernel.container.fields import Fields
from vmcontainer_kernel.container.linux import CAPABILITIES
from vmcontainer_kernel.container.spec import User
from vmcontainer_kernel.errors import SpecError, UserError

__all__ = ["DEFAULT_CAPABILITIES", "ExecOptions", "Options", "make_config"]

DEFAULT_CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP"),
)
"""The fourteen that Docker leaves a container with; the other 27 would reach the node."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MASKED_PATHS = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"),
    *("/sys/devices/virtual/powercap",),
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_NAMESPACES = {"pid": "pid", "uts": "uts", "ipc": "ipc", "net": "network", "cgroup": "cgroup", "user": "user"}
_PROTECTIONS = ("caps", "no-new-privs", "mask")
_HIGHEST_BYTES = 2**50


@dataclass(frozen=True)
class Options:
    """One container as the user describes it; names follow ``docker run``.

    `argv`: empty means the image's own command. `user`: ``uid[:gid]`` or a name of the image. `without`: namespaces
    (pid uts ipc net cgroup user) and protections (caps no-new-privs mask) to leave out. None is "no limit".
    """

    image: str = "busybox"
    argv: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = ""
    user: str = ""
    hostname: str = ""
    memory_bytes: int | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    read_only: bool = False
    network: str = "none"
    without: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    tty: bool = False

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Options:
        """Read the options of a request; raise `SpecError` naming the one that is wrong."""
        fields = Fields(document)
        options = cls(
            image=fields.text("image", "busybox"),
            argv=fields.texts("argv"),
            env=fields.text_map("env"),
            workdir=fields.text("workdir", ""),
            user=fields.text("user", ""),
            hostname=fields.text("hostname", ""),
            memory_bytes=fields.number("memory_bytes", 1 << 20, _HIGHEST_BYTES),
            cpus=fields.real("cpus", 0.01, 4096),
            pids_limit=fields.number("pids_limit", 1, 2**22),
            read_only=fields.flag("read_only", default=False),
            network=_one_of(fields.text("network", "none"), "network", ("none", "host")),
            without=tuple(_one_of(name, "without", _WITHOUT) for name in fields.texts("without")),
            cap_add=tuple(_capability(name, "cap_add") for name in fields.texts("cap_add")),
            cap_drop=tuple(_capability(name, "cap_drop") for name in fields.texts("cap_drop")),
            tty=fields.flag("tty", default=False),
        )
        fields.done()
        return options


_WITHOUT = (*_NAMESPACES, *_PROTECTIONS)


@dataclass(frozen=True)
class ExecOptions:
    """One more process in a running container, as ``docker exec``."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = ""
    user: str = ""
    tty: bool = False

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ExecOptions:
        """Read the options of a request; raise `SpecError` naming the one that is wrong."""
        fields = Fields(document)
        options = cls(
            argv=fields.texts("argv"),
            env=fields.text_map("env"),
            workdir=fields.text("workdir", ""),
            user=fields.text("user", ""),
            tty=fields.flag("tty", default=False),
        )
        fields.done()
        if not options.argv:
            raise SpecError("argv must name a program", where="argv")
        return options


def _one_of(value: str, where: str, allowed: tuple[str, ...]) -> str:
    if where == "without" and value in ("mnt", "mount"):
        raise SpecError(
            "without mnt is not possible: the mount namespace holds the container's root",
            hint="every mount of the container would appear on the node, and stay there",
            where=where,
        )
    if value not in allowed:
        raise SpecError(f"{where} must be one of {' '.join(allowed)}, not {value!r}", where=where)
    return value


def _capability(name: str, where: str) -> str:
    plain = name.upper().removeprefix("CAP_")
    if plain not in (*CAPABILITIES, "ALL"):
        raise SpecError(f"{where}: there is no capability {name!r}", where=where, hint="see capabilities(7)")
    return plain


def make_config(
    options: Options,
    image_config: dict[str, Any],
    *,
    name: str = "",
    user: User | None = None,
    home: str = "/",
    cgroups_path: str = "",
    owner: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Return the OCI ``config.json`` (runtime-spec 1.2) for `options` on an image (image-spec, config.md, "config").

    `user`, `home`: `options.user` as looked up in the image. `owner`: the (uid, gid) of an ordinary user, who gets a
    user namespace.
    """
    defaults = image_config.get("config") or {}
    without = set(options.without) | ({"net"} if options.network == "host" else set())
    kinds = [kind for short, kind in _NAMESPACES.items() if short not in without and (short != "user" or owner)]
    who = user or User()
    process: dict[str, Any] = {
        "terminal": options.tty,
        "user": {
            "uid": who.uid,
            "gid": who.gid,
            "umask": 0o022 if who.umask is None else who.umask,
            "additionalGids": list(who.additional_gids),
        },
        "args": list(options.argv or [*(defaults.get("Entrypoint") or []), *(defaults.get("Cmd") or [])]),
        "env": _environment(options, defaults, name, home),
        "cwd": options.workdir or defaults.get("WorkingDir") or "/",
        "noNewPrivileges": "no-new-privs" not in without,
    }
    if not process["args"]:
        raise UserError(f"image {options.image} has no command of its own", hint="write a command into the cell")
    if "caps" not in without:
        process["capabilities"] = _capabilities(options, who)
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in (*kinds, "mount")],
        "resources": _resources(options),
        "cgroupsPath": cgroups_path,
        "maskedPaths": [] if "mask" in without else list(MASKED_PATHS),
        "readonlyPaths": [] if "mask" in without else list(READONLY_PATHS),
    }
    if owner:
        linux["uidMappings"] = [{"containerID": 0, "hostID": owner[0], "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": owner[1], "size": 1}]
    return {
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": "rootfs", "readonly": options.read_only},
        "hostname": "" if "uts" in without else (options.hostname or name),
        "mounts": _mounts(cgroup=bool(cgroups_path), queues=owner is None or "ipc" in kinds, tty_group=owner is None),
        "linux": linux,
        "annotations": {"org.opencontainers.image.ref.name": options.image},
    }


def _environment(options: Options, defaults: dict[str, Any], name: str, home: str) -> list[str]:
    """Return PATH, HOSTNAME, HOME, then the image's variables, then the user's; a later one wins."""
    variables = {"PATH": DEFAULT_PATH, "HOSTNAME": options.hostname or name, "HOME": home}
    if options.tty:
        variables["TERM"] = "xterm"
    for item in defaults.get("Env") or []:
        key, _, value = str(item).partition("=")
        variables[key] = value
    variables |= options.env
    return [f"{key}={value}" for key, value in variables.items()]


def _capabilities(options: Options, user: User) -> dict[str, list[str]]:
    """Bound by Docker's fourteen, plus and minus what was asked; a user who is not root starts with none
    (capabilities(7)).
    """
    added = CAPABILITIES if "ALL" in options.cap_add else options.cap_add
    dropped = CAPABILITIES if "ALL" in options.cap_drop else options.cap_drop
    base = () if "ALL" in options.cap_drop else DEFAULT_CAPABILITIES
    wanted = [name for name in CAPABILITIES if name in added or (name in base and name not in dropped)]
    names = [f"CAP_{name}" for name in wanted if "ALL" in options.cap_drop or name not in options.cap_drop]
    held = names if user.uid == 0 else []
    return {"bounding": names, "effective": held, "permitted": held, "inheritable": [], "ambient": []}


def _resources(options: Options) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    if options.memory_bytes is not None:
        resources["memory"] = {"limit": options.memory_bytes}
    if options.cpus is not None:
        resources["cpu"] = {"quota": max(1000, round(options.cpus * 100_000)), "period": 100_000}
    if options.pids_limit is not None:
        resources["pids"] = {"limit": options.pids_limit}
    return resources


def _mounts(*, cgroup: bool, queues: bool, tty_group: bool) -> list[dict[str, Any]]:
    """The file systems the specification promises (config-linux.md, "Default Filesystems")."""

    def mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": kind, "options": list(options)}

    plain = ("nosuid", "noexec", "nodev")
    group = ("gid=5",) if tty_group else ()  # group tty, an id that a user namespace of one user has not
    mounts = [
        mount("/proc", "proc", *plain),
        mount("/dev", "tmpfs", *plain, "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *group),
        mount("/dev/shm", "tmpfs", *plain, "mode=1777", "size=65536k"),
        mount("/sys", "sysfs", *plain, "ro"),
    ]
    # Queues belong to the IPC namespace: an ordinary user may mount those of one he made, not the node's.
    mounts += [mount("/dev/mqueue", "mqueue", *plain)] if queues else []
    return mounts + ([mount("/sys/fs/cgroup", "cgroup", *plain, "relatime", "ro")] if cgroup else [])
