"""The container's root: image layers under a writable one, the kernel's file systems, and the way from the old root to
it.

Everything is mounted in the container's own mount namespace, so nothing is ever mounted on the node. The order is the
defence: first the overlay becomes the root, then all else is mounted *below the new root*, where no link in an image
leads back to the node. What must come from the node (device files, bind sources) is taken along as detached mounts,
opened before:

    overlay → open_tree(/dev/null …) → pivot_root(".", ".") → /proc /dev /sys … → masks → groups → detach the old root
"""

# Plain system calls: a path object costs a forked child copied pages, and hides which call it is.
# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH118, PTH211

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from functools import partial

from vmcontainer_kernel.container import linux, overlay
from vmcontainer_kernel.container.spec import Mount, Spec
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError

__all__ = [
    "closing_steps",
    "group_steps",
    "mount_data",
    "mount_steps",
    "protection_steps",
    "root_steps",
]

_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
)
_FLAGS = {
    "ro": linux.MS_RDONLY,
    "nosuid": linux.MS_NOSUID,
    "nodev": linux.MS_NODEV,
    "noexec": linux.MS_NOEXEC,
    "noatime": linux.MS_NOATIME,
    "nodiratime": linux.MS_NODIRATIME,
    "relatime": linux.MS_RELATIME,
    "strictatime": linux.MS_STRICTATIME,
}
_ATTRIBUTES = {
    "ro": linux.MOUNT_ATTR_RDONLY,
    "nosuid": linux.MOUNT_ATTR_NOSUID,
    "nodev": linux.MOUNT_ATTR_NODEV,
    "noexec": linux.MOUNT_ATTR_NOEXEC,
}
_IGNORED = ("rw", "suid", "dev", "exec", "atime", "bind", "rbind", "defaults", "private", "rprivate")


def mount_data(options: tuple[str, ...]) -> tuple[int, str]:
    """Split mount options into MS_* flags and the text for the file system (mount(8), mount(2))."""
    flags = sum({_FLAGS[one] for one in options if one in _FLAGS})
    return flags, ",".join(one for one in options if one not in _FLAGS and one not in _IGNORED)


def root_steps(spec: Spec, bundle: str, layers: tuple[str, ...]) -> list[Step]:
    """Return the steps that make the overlay and step over to it."""
    root = os.path.join(bundle, spec.root.path)
    sources = _sources(spec)
    return [
        _overlay_step(spec, bundle, root, layers) if layers else _bind_root_step(root),
        Step(
            "sources",
            "open_tree(AT_FDCWD, " + ", ".join(sources) + ", OPEN_TREE_CLONE)",
            "device files come from the node one by one; others do not work (nodev), so mknod gives no disk",
            "open_tree(2)",
            partial(_open_sources, sources),
        ),
        Step(
            "pivot_root",
            'pivot_root(".", ".")',
            "the overlay becomes /; the old root lies on top of it until it is detached",
            "pivot_root(2)",
            _pivot,
        ),
    ]


def _overlay_step(spec: Spec, bundle: str, root: str, layers: tuple[str, ...]) -> Step:
    one = overlay.Overlay(bundle, root, layers, user_namespace="user" in spec.linux.kinds)
    return Step(
        "overlay",
        f'mount("overlay", "{root}", "overlay", MS_NODEV, "{one.data(bundle)}")',
        "image layers stay as they are and are shared; what the container writes goes to its own upper folder",
        "overlayfs.rst",
        one.mount,
    )


def _bind_root_step(root: str) -> Step:
    return Step(
        "root",
        f'mount("{root}", "{root}", NULL, MS_BIND|MS_REC)',
        "pivot_root takes a mount point only, and a bundle's root is a folder: bound onto itself it is one",
        "pivot_root(2)",
        partial(_bind_root, root),
    )


def _bind_root(root: str, scene: Scene) -> None:
    linux.mount(root, root, None, linux.MS_BIND | linux.MS_REC)
    scene.root = root


def _sources(spec: Spec) -> dict[str, bool]:
    """Return the paths of the node the container needs, and whether with the mounts below them."""
    has_dev = any(one.destination == "/dev" and one.type == "tmpfs" for one in spec.mounts)
    devices = {f"/dev/{name}": False for name in _DEVICES} if has_dev else {}
    mounts = [_fitting(one, spec) for one in spec.mounts]
    return devices | {one.source: "rbind" in one.options for one in mounts if one.type == "bind"}


def _open_sources(sources: dict[str, bool], scene: Scene) -> None:
    for path, recursive in sources.items():
        flags = linux.OPEN_TREE_CLONE | (linux.AT_RECURSIVE if recursive else 0)
        scene.sources[path] = linux.open_tree(linux.AT_FDCWD, path, flags)
    # By its path: the descriptor itself belongs to the node's mount namespace, of which nothing can be cloned here.
    with contextlib.suppress(OSError):
        scene.sources["terminal"] = linux.open_tree(linux.AT_FDCWD, os.ttyname(0))


def _pivot(scene: Scene) -> None:
    scene.old_root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(scene.root)
    linux.pivot_root(".", ".")
    os.chdir("/")


def _fitting(mount: Mount, spec: Spec) -> Mount:
    """Replace what a user namespace may not mount by the node's own (user_namespaces(7): it must own the pid or network
    namespace too).
    """
    kinds = spec.linux.kinds
    needed = {"proc": "pid", "sysfs": "network"}.get(mount.type)
    if "user" not in kinds or needed is None or needed in kinds:
        return mount
    return Mount(mount.destination, "bind", mount.destination, ("rbind", *mount.options))


def mount_steps(spec: Spec) -> list[Step]:
    """Return a step for each mount of the specification but the control groups, and the devices once /dev is there."""
    steps = []
    for original in spec.mounts:
        one = _fitting(original, spec)
        if one.type == "cgroup":
            continue
        steps.append(_bind_step(one) if one.type == "bind" else _plain_step(one))
        if one.destination == "/dev" and one.type == "tmpfs":
            steps.append(_device_step())
    return steps


def group_steps(spec: Spec, groups: dict[str, str]) -> list[Step]:
    """Return the steps that show the control groups; `groups`: folder below /sys/fs/cgroup → folder of the node to show
    there.
    """
    return [_cgroup_step(groups, one) for one in spec.mounts if one.type == "cgroup"]


def _plain_step(one: Mount) -> Step:
    flags, data = mount_data(one.options)
    action = partial(linux.mount, one.source or one.type, one.destination, one.type, flags, data or None)
    attach = _attach_new if one.destination.startswith("/dev/") else _attach
    return Step(
        one.destination,
        f'mount("{one.type}", "{one.destination}", "{one.type}", {",".join(one.options)})',
        _WHY.get(one.type, "asked for"),
        _SOURCE.get(one.type, "mount(2)"),
        lambda _: attach(one.destination, action),
    )


_WHY = {
    "proc": "shows the processes of this pid namespace, not the node's",
    "tmpfs": "a file system in memory that vanishes with the container",
    "devpts": "terminals of its own, which the node's cannot be reached through",
    "mqueue": "message queues of this IPC namespace",
    "sysfs": "shows the devices of this network namespace; read-only, as it also changes the node's",
}
_SOURCE = {"proc": "proc(5)", "tmpfs": "tmpfs(5)", "devpts": "pts(4)", "mqueue": "mq_overview(7)", "sysfs": "sysfs(5)"}


def _attach_new(path: str, action: Callable[[], None]) -> None:
    """Make the folder, then mount: in a /dev that was empty a moment ago it cannot be there (unless two mounts have one
    place).
    """
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(path, 0o755)
    action()


def _attach(path: str, action: Callable[[], None]) -> None:
    """Mount; make the folder first if the image lacks it."""
    try:
        action()
    except FileNotFoundError:
        os.makedirs(path, 0o755, exist_ok=True)
        action()


def _bind_step(one: Mount) -> Step:
    return Step(
        one.destination,
        f'move_mount(open_tree("{one.source}"), "{one.destination}")',
        "shows a part of the node in the container",
        "move_mount(2)",
        partial(_bind, one),
    )


def _bind(one: Mount, scene: Scene) -> None:
    tree = scene.sources[one.source]
    attributes = sum({_ATTRIBUTES[option] for option in one.options if option in _ATTRIBUTES})
    if attributes:
        linux.mount_setattr(tree, "", attributes, recursive="rbind" in one.options)
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        _attach(one.destination, partial(linux.move_mount, tree, one.destination))
    else:
        os.close(os.open(one.destination, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o644))
        linux.move_mount(tree, one.destination)


def _device_step() -> Step:
    return Step(
        "devices",
        f"move_mount(…) for /dev/{' '.join(_DEVICES)}; symlink(…) for fd, stdin…, ptmx; /dev/console for a terminal",
        "the devices every program expects (config-linux.md, Default Devices), and no others",
        "null(4), random(4), tty(4)",
        _devices,
    )


def _devices(scene: Scene) -> None:
    for name, numbers in _DEVICES.items():
        tree, path = scene.sources[f"/dev/{name}"], f"/dev/{name}"
        found = os.fstat(tree).st_rdev
        # A false /dev/null would later "mask" files by showing another one (CVE-2025-31133).
        if (os.major(found), os.minor(found)) != numbers:
            raise ContainerError(f"{path} of this node is not device {numbers[0]}:{numbers[1]}", where="devices")
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        linux.move_mount(tree, path)
        os.close(tree)
    if (terminal := scene.sources.get("terminal")) is not None:  # so that tty(1) and ttyname(3) find it by a name
        os.close(os.open("/dev/console", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY, 0o600))
        linux.move_mount(terminal, "/dev/console")
        os.close(terminal)
    for target, path in _LINKS:
        os.symlink(target, path)


def _cgroup_step(groups: dict[str, str], one: Mount) -> Step:
    return Step(
        one.destination,
        f'move_mount(open_tree("{next(iter(groups.values()), "")}"), "{one.destination}"), read-only',
        "shows its own limits and counters; writable it would be a way out (CVE-2022-0492)",
        "cgroups(7)",
        partial(_show_groups, groups, one.destination),
    )


def _show_groups(groups: dict[str, str], destination: str, scene: Scene) -> None:
    if "" not in groups:  # version 1: a folder for each controller, which sysfs does not let us make
        linux.mount(
            "tmpfs", destination, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, "mode=755,size=64k"
        )
    for name, path in groups.items():
        tree = linux.open_tree(scene.old_root_fd, path.lstrip("/"))
        locked = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC
        linux.mount_setattr(tree, "", locked)
        target = f"{destination}/{name}" if name else destination
        if name:
            os.mkdir(target, 0o755)
        linux.move_mount(tree, target)
        os.close(tree)
    if "" not in groups:
        linux.mount_setattr(linux.AT_FDCWD, destination, linux.MOUNT_ATTR_RDONLY)


def protection_steps(spec: Spec) -> list[Step]:
    """Return the steps that close what the kernel's file systems leave open."""
    steps = []
    if spec.linux.masked_paths:
        steps.append(
            Step(
                "mask",
                f"mount /dev/null or an empty tmpfs over {' '.join(spec.linux.masked_paths)}",
                "these show or change the whole node; no namespace divides them",
                "config-linux.md, Masked Paths",
                partial(_mask, spec.linux.masked_paths),
            )
        )
    if spec.linux.readonly_paths:
        steps.append(
            Step(
                "read-only paths",
                f"mount_setattr(…, MOUNT_ATTR_RDONLY) on {' '.join(spec.linux.readonly_paths)}",
                "root may write here, and these settings are the node's",
                "config-linux.md, Readonly Paths",
                partial(_protect, spec.linux.readonly_paths),
            )
        )
    return steps


def closing_steps(spec: Spec) -> list[Step]:
    """Return the steps after the last mount: the old root goes, and the new one may become read-only."""
    steps = [
        Step(
            "detach",
            'umount2(".", MNT_DETACH)',
            "from here on no path leads to the node's files",
            "pivot_root(2)",
            _detach,
        )
    ]
    if spec.process.cwd != "/":
        steps.append(_workdir_step(spec.process.cwd))
    if spec.root.readonly:
        steps.append(
            Step(
                "read-only root",
                'mount_setattr(AT_FDCWD, "/", 0, MOUNT_ATTR_RDONLY)',
                "asked for: only /dev/shm and what is mounted can be written",
                "mount_setattr(2)",
                lambda _: linux.mount_setattr(linux.AT_FDCWD, "/", linux.MOUNT_ATTR_RDONLY),
            )
        )
    return steps


def _workdir_step(path: str) -> Step:
    return Step(
        "workdir",
        f'mkdir("{path}")',
        "made if the image lacks it, as docker does",
        "config.md, Process: cwd",
        lambda _: os.makedirs(path, 0o755, exist_ok=True),
    )


def _detach(scene: Scene) -> None:
    os.fchdir(scene.old_root_fd)
    linux.umount(".", linux.MNT_DETACH)
    os.chdir("/")
    os.close(scene.old_root_fd)


def _mask(paths: tuple[str, ...], _: Scene) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if os.path.isdir(path):
                linux.mount(
                    "tmpfs",
                    path,
                    "tmpfs",
                    linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC,
                    "size=0,mode=555",
                )
            elif os.path.exists(path):
                _mask_file(path)


def _mask_file(path: str) -> None:
    null = linux.open_tree(linux.AT_FDCWD, "/dev/null")
    try:
        if os.fstat(null).st_rdev != os.makedev(*_DEVICES["null"]):
            raise ContainerError("/dev/null in the container is not the null device", where="mask")
        linux.move_mount(null, path)
    finally:
        os.close(null)


def _protect(paths: tuple[str, ...], _: Scene) -> None:
    for path in paths:
        try:
            tree = linux.open_tree(linux.AT_FDCWD, path, linux.OPEN_TREE_CLONE | linux.AT_RECURSIVE)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            raise
        linux.mount_setattr(tree, "", linux.MOUNT_ATTR_RDONLY, recursive=True)
        linux.move_mount(tree, path)
        os.close(tree)
