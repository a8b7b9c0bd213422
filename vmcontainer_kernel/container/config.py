"""From what a user asks (`Options`) and an image to the OCI ``config.json`` that says the same to the runtime.

`make_config` is pure: what only the node knows (users of the image, numbers of devices, where volumes lie, which
namespaces are joined) comes in as arguments.
"""

from __future__ import annotations

from vmcontainer_kernel.container import limits
from vmcontainer_kernel.container.ladder import Footing
from vmcontainer_kernel.container.limits import DeviceNumbers
from vmcontainer_kernel.container.linux import CAPABILITIES
from vmcontainer_kernel.container.options import NAMESPACES, Options
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.seccomp.docker_profile import convert
from vmcontainer_kernel.container.seccomp.profile import default_profile
from vmcontainer_kernel.container.spec import SHOWN_DEVICES, IdMapping, User
from vmcontainer_kernel.errors import SpecError, UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmcontainer_kernel.container.requests import Volume

__all__ = ["DEFAULT_CAPABILITIES", "DEFAULT_PATH", "Surroundings", "command_of", "make_config", "program_of"]

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
_SHM_BYTES = 64 << 20
_NAMESPACE_OF = {"proc": "pid", "sysfs": "network", "mqueue": "ipc"}
"""File system → the namespace it is about: whoever shares that has the same file system, not one more."""

_NOTHING: dict[str, str] = {}
_NO_DEVICES: dict[str, DeviceNumbers] = {}


class Surroundings(Record):
    """What of a node a configuration needs to know.

    `joined`: OCI namespace type → path of one that is shared with another container. `devices`: path → numbers, of
    those the options name (of all for a privileged container). `volumes`: place in the container → folder. `mounts`:
    what is to be seen besides, such as /etc/hosts.
    """

    joined: dict[str, str] = _NOTHING
    devices: dict[str, DeviceNumbers] = _NO_DEVICES
    volumes: dict[str, str] = _NOTHING
    mounts: tuple[dict[str, Any], ...] = ()


def make_config(
    options: Options,
    image_config: dict[str, Any],
    *,
    name: str = "",
    user: User | None = None,
    home: str = "/",
    cgroups_path: str = "",
    footing: Footing | None = None,
    around: Surroundings | None = None,
) -> dict[str, Any]:
    """Return the OCI ``config.json`` (runtime-spec) for `options` on an image (image-spec, config.md, "config").

    `user`, `home`: `options.user` as looked up in the image. `footing`: what this user may have; an ordinary one gets
    a user namespace.
    """
    around, defaults = around or Surroundings(), image_config.get("config") or {}
    footing = footing or Footing()
    left_out, ids = _left_out(options), footing.ids
    kinds = [kind for short, kind in NAMESPACES.items() if short not in left_out and (short != "user" or ids)]
    config: dict[str, Any] = {
        "ociVersion": _version(options),
        "process": _process(options, defaults, name, user or User(), home),
        "root": {"path": "/" if "root" in options.without else "rootfs", "readonly": options.read_only},
        "hostname": "" if "uts" in left_out or "uts" in around.joined else (options.hostname or name),
        "mounts": _mounts(options, around, kinds, footing, cgroup=bool(cgroups_path)),
        "linux": _linux(options, around, kinds, cgroups_path, guarded=bool(cgroups_path) and not footing.ids),
        "annotations": _annotations(options),
    }
    if options.domainname:
        config["domainname"] = options.domainname
    if ids:
        config["linux"] |= {"uidMappings": _mappings(ids.uids), "gidMappings": _mappings(ids.gids)}
    return config


def _version(options: Options) -> str:
    """Return the oldest version that has what is asked for: crun 1.8 takes none after 1.0.2."""
    return "1.2.0" if options.domainname or options.time_offsets else "1.0.2"


def _annotations(options: Options) -> dict[str, str]:
    shown = dict([SHOWN_DEVICES] if _no_devices(options) else [])
    return {"org.opencontainers.image.ref.name": options.image, **dict(options.labels), **shown}


def program_of(options: Options, defaults: dict[str, Any], name: str, home: str) -> dict[str, Any]:
    """Return of ``process`` what runs; `defaults`: the "config" of the image's configuration."""
    return {
        "args": command_of(options, defaults),
        "env": _environment(options, defaults, name, home),
        "cwd": options.workdir or defaults.get("WorkingDir") or "/",
    }


def _mappings(maps: tuple[IdMapping, ...]) -> list[dict[str, int]]:
    return [{"containerID": one.container_id, "hostID": one.host_id, "size": one.size} for one in maps]


def _left_out(options: Options) -> set[str]:
    """Return the namespaces shared with the node: ``--pid host`` says the same as ``--without pid``."""
    shared = {"net": options.network, "pid": options.pid, "ipc": options.ipc, "uts": options.uts}
    shared["cgroup"] = options.cgroupns
    return {*options.without, *(short for short, whose in shared.items() if whose == "host")}


def command_of(options: Options, defaults: dict[str, Any]) -> list[str]:
    """Return what runs: the user's words replace the image's command, behind the entry point (docker-run(1))."""
    if options.entrypoint is not None:
        return [*options.entrypoint, *options.argv]
    if options.argv and not options.runs_entrypoint:
        return list(options.argv)
    return [*(defaults.get("Entrypoint") or []), *(options.argv or defaults.get("Cmd") or [])]


def _process(options: Options, defaults: dict[str, Any], name: str, user: User, home: str) -> dict[str, Any]:
    process: dict[str, Any] = {
        "terminal": options.tty,
        "user": {
            "uid": user.uid,
            "gid": user.gid,
            "umask": 0o022 if user.umask is None else user.umask,
            "additionalGids": list(user.additional_gids),
        },
        **program_of(options, defaults, name, home),
        "noNewPrivileges": _no_new_privileges(options),
    }
    if not process["args"]:
        raise UserError(f"image {options.image} has no command of its own", hint="write a command into the cell")
    if "caps" not in options.without:
        process["capabilities"] = _capabilities(options, user)
    if options.ulimits:
        process["rlimits"] = limits.rlimits(options)
    if options.oom_score_adj is not None:
        process["oomScoreAdj"] = options.oom_score_adj
    return process


def _no_new_privileges(options: Options) -> bool:
    if options.security.no_new_privileges is not None:
        return options.security.no_new_privileges
    return "no-new-privs" not in options.without and not options.privileged


def _linux(
    options: Options, around: Surroundings, kinds: list[str], cgroups_path: str, *, guarded: bool
) -> dict[str, Any]:
    """Return ``linux``; `guarded`: devices can be guarded, and must be, as this is no user namespace, where the kernel
    opens none that was made inside.
    """
    unmasked = "mask" in options.without or options.security.unmasked or options.privileged
    left_open = {"masked-paths", "readonly-paths"} if unmasked else {*options.without}
    linux: dict[str, Any] = {
        "namespaces": [
            {"type": kind, "path": around.joined[kind]} if kind in around.joined else {"type": kind}
            for kind in (*kinds, "mount", *(["time"] if options.time_offsets else []))
        ],
        "resources": limits.resources(options, around.devices),
        "cgroupsPath": cgroups_path,
        "maskedPaths": [] if "masked-paths" in left_open else list(MASKED_PATHS),
        "readonlyPaths": [] if "readonly-paths" in left_open else list(READONLY_PATHS),
    }
    if guarded and not options.privileged and "devices" not in options.without:
        linux["resources"]["devices"] = limits.device_rules(options, around.devices)
    if options.devices or options.privileged:
        linux["devices"] = limits.devices(options, around.devices)
    if options.time_offsets:
        linux["timeOffsets"] = {clock: {"secs": seconds} for clock, seconds in options.time_offsets}
    if options.sysctls:
        linux["sysctl"] = dict(options.sysctls)
    if not ("seccomp" in options.without or options.security.seccomp == "unconfined"):
        linux["seccomp"] = _seccomp(options)
    return linux


def _seccomp(options: Options) -> dict[str, Any] | None:
    """Return the default filter, or that of the user's own file, which a privileged container has too, as docker's."""
    if options.privileged and not options.security.seccomp:
        return None
    held = CAPABILITIES if "caps" in options.without else _capabilities(options, User())["bounding"]
    if not options.security.seccomp.startswith("{"):
        return default_profile(held)
    import json

    try:
        profile = json.loads(options.security.seccomp)
    except ValueError as error:
        raise SpecError(f"security: the seccomp profile is no JSON: {error}", where="security") from None
    return convert(profile, held, where="security.seccomp")


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
    everything = options.privileged or "ALL" in options.cap_add
    added = CAPABILITIES if everything else options.cap_add
    base = () if "ALL" in options.cap_drop else DEFAULT_CAPABILITIES
    dropped = CAPABILITIES if "ALL" in options.cap_drop else options.cap_drop
    wanted = [name for name in CAPABILITIES if name in added or (name in base and name not in dropped)]
    names = [f"CAP_{name}" for name in wanted if "ALL" in options.cap_drop or name not in options.cap_drop]
    held = names if user.uid == 0 else []
    return {"bounding": names, "effective": held, "permitted": held, "inheritable": [], "ambient": []}


# -- mounts


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def _bind(destination: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": source, "options": ["rbind", *options]}


def _mounts(
    options: Options, around: Surroundings, kinds: list[str], footing: Footing, *, cgroup: bool
) -> list[dict[str, Any]]:
    """Return the file systems the specification promises (config-linux.md, "Default Filesystems"), then the user's."""
    plain = ("nosuid", "noexec", "nodev")
    # Group tty, an id that a user namespace of one user has not.
    group = ("gid=5",) if footing.ids is None or footing.ids.several else ()
    access = "rw" if options.privileged else "ro"
    mounts = [
        # The node's own can be written through the outside's processes: oom_score_adj of this user's other programs.
        _bind("/proc", "/proc", *plain, "rro") if "/proc" in footing.bound else _mount("/proc", "proc", *plain),
        _mount("/dev", "tmpfs", "nosuid", "noexec", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *group),
        _shm(options),
        _bind("/sys", "/sys", *plain, "rro") if "/sys" in footing.bound else _mount("/sys", "sysfs", *plain, access),
    ]
    # Queues belong to the IPC namespace: an ordinary user may mount those of one he made, not the node's.
    mounts += [_mount("/dev/mqueue", "mqueue", *plain)] if not footing.ids or "ipc" in kinds else []
    mounts += [_mount("/sys/fs/cgroup", "cgroup", *plain, "relatime", access)] if cgroup else []
    if "root" in options.without:  # the node's are seen there; the kernel refuses the same one once more (EBUSY)
        mounts = [one for one in mounts if _NAMESPACE_OF.get(one["type"], "") in ("", *kinds)]
    # Under another name a device can only be shown, as nothing below /dev is opened that was made there (nodev).
    mounts += [_bind(one.target, one.path) for one in options.devices if one.target != one.path]
    return [*mounts, *around.mounts] + [_volume(one, options, around) for one in (*options.volumes, *options.tmpfs)]


def _no_devices(options: Options) -> tuple[str, ...]:
    """Return what keeps a device file that the container makes from opening; those it is to have are bound in."""
    return () if options.privileged or "devices" in options.without else ("nodev",)


def _shm(options: Options) -> dict[str, Any]:
    if options.ipc == "host":
        return _bind("/dev/shm", "/dev/shm", "nosuid", "nodev", "noexec")
    size_bytes = _SHM_BYTES if options.shm_size_bytes is None else options.shm_size_bytes
    return _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", f"size={(size_bytes + 1023) >> 10}k")


def _volume(one: Volume, options: Options, around: Surroundings) -> dict[str, Any]:
    if one.kind != "tmpfs":
        # As docker's: nothing below a read-only volume can be written either.
        given = ["rro" if option == "ro" else option for option in one.options if option != "nocopy"]
        given += ["copyup"] if one.kind == "volume" and "nocopy" not in one.options else []
        return _bind(one.target, around.volumes.get(one.target, one.source), *_no_devices(options), *given)
    # As docker's --tmpfs: nothing on it is run unless asked for.
    given = [option for option in one.options if option not in ("exec", "suid", "dev")]
    locked = [f"no{word}" for word in ("suid", "exec", "dev") if word not in one.options]
    return _mount(one.target, "tmpfs", *locked, *given)
