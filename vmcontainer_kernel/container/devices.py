"""Device files: those every program expects, and those the specification lists.

A device is made by mknod(2) where that works: not in a user namespace (user_namespaces(7)), and to no use on a file
system mounted nodev. There the node's own device file is shown instead: a bind mount of one file, checked to have the
right numbers.
"""

# Plain system calls: a path object costs a forked child copied pages, and hides which call it is.

from __future__ import annotations

import errno
import os
import stat

from vmcontainer_kernel.container import inside, linux
from vmcontainer_kernel.container.light import partial
from vmcontainer_kernel.container.spec import Device, Spec
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError

__all__ = ["default_step", "device_steps", "is_device"]

_DEFAULTS = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def default_step() -> Step:
    """Return the step that fills /dev."""
    return Step(
        "devices",
        f"mknod(…) or move_mount(…) for /dev/{' '.join(_DEFAULTS)}; symlink(…) for fd, stdin…, ptmx",
        "the devices every program expects (config-linux.md, Default Devices), and no others",
        "null(4), random(4), tty(4)",
        _fill,
    )


def device_steps(spec: Spec) -> list[Step]:
    """Return a step for each device of the specification."""
    return [_device_step(index, one) for index, one in enumerate(spec.linux.devices)]


def _device_step(index: int, one: Device) -> Step:
    kind = "S_IFIFO" if one.type == "p" else f"{'S_IFBLK' if one.type == 'b' else 'S_IFCHR'}, {one.major}:{one.minor}"
    return Step(
        one.path,
        f'mknod("{one.path}", {kind}), or move_mount() of the node\'s',
        "asked for; the device allow-list says who may open it",
        "config-linux.md, Devices",
        partial(_supply, one, f"linux.devices[{index}]"),
    )


def is_device(fd: int, name: str) -> bool:
    """Tell whether `fd` is the default device `name` itself."""
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(*_DEFAULTS[name])


def _fill(scene: Scene) -> None:
    at = inside.folder("/dev")
    made = not os.fstatvfs(at).f_flag & os.ST_NODEV
    for name, numbers in _DEFAULTS.items():
        made = made and _made(at, name, stat.S_IFCHR | 0o666, os.makedev(*numbers))
        if not made:
            _show(at, name, numbers, scene)
    if (terminal := scene.sources.pop("terminal", None)) is not None:
        _show_terminal(at, terminal)
    for target, name in _LINKS:
        try:
            os.symlink(target, name, dir_fd=at)
        except FileExistsError:  # a /dev of the image's own
            continue
    os.close(at)


def _show_terminal(at: int, terminal: int) -> None:
    """Show the terminal as /dev/console, so that tty(1) and ttyname(3) find it by a name."""
    _touch("console", at, 0o600)
    linux.move_mount(terminal, at, "console")
    os.close(terminal)


def _touch(name: str, at: int, mode: int) -> None:
    # Not blocking: an image may have a pipe there that nobody reads (fifo(7)).
    flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    os.close(os.open(name, flags, mode, dir_fd=at))


def _made(at: int, name: str, mode: int, numbers: int) -> bool:
    """Make a device file; False if this process may not, or its file would not open."""
    try:
        os.mknod(name, mode, numbers, dir_fd=at)
    except PermissionError:
        return False
    except FileExistsError:
        _check_same(at, name, mode, numbers, name)
        return True
    os.chmod(name, stat.S_IMODE(mode), dir_fd=at)  # whatever our umask
    return True


def _check_same(at: int, name: str, mode: int, numbers: int, where: str) -> None:
    found = os.stat(name, dir_fd=at, follow_symlinks=False)
    if stat.S_IFMT(found.st_mode) != stat.S_IFMT(mode) or found.st_rdev != numbers:
        raise ContainerError(f"{where}: there is another file at the device's path", where=where)


def _show(at: int, name: str, numbers: tuple[int, int], scene: Scene) -> None:
    tree = _open_device(scene, f"/dev/{name}", stat.S_IFCHR, os.makedev(*numbers), f"/dev/{name}")
    _touch(name, at, 0o666)
    linux.move_mount(tree, at, name)
    os.close(tree)


def _open_device(scene: Scene, path: str, kind: int, numbers: int, where: str) -> int:
    """Return the node's device file as a detached mount.

    A false /dev/null would later "mask" files by showing another one (CVE-2025-31133).
    """
    try:
        tree = linux.open_tree(scene.old_root_fd, path.lstrip("/"))
    except FileNotFoundError:
        raise ContainerError(f"{where}: this node has no {path} to show", where=where) from None
    found = os.fstat(tree)
    if stat.S_IFMT(found.st_mode) != kind or found.st_rdev != numbers:
        raise ContainerError(
            f"{where}: {path} of this node is not device {os.major(numbers)}:{os.minor(numbers)}", where=where
        )
    return tree


def _supply(one: Device, where: str, scene: Scene) -> None:
    at, name = inside.place(one.path)
    numbers = 0 if one.type == "p" else os.makedev(one.major, one.minor)
    mode = _TYPES[one.type] | (0o666 if one.file_mode is None else stat.S_IMODE(one.file_mode))
    try:
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        _make(one, where, (at, name, mode, numbers), scene)
    else:
        if stat.S_IFMT(found.st_mode) != stat.S_IFMT(mode) or found.st_rdev != numbers:
            raise ContainerError(f"{where}: there is another file at {one.path}", hint="see the image", where=where)
    os.close(at)


def _make(one: Device, where: str, what: tuple[int, str, int, int], scene: Scene) -> None:
    at, name, mode, numbers = what
    useless = one.type != "p" and os.fstatvfs(at).f_flag & os.ST_NODEV
    if not useless and _made(at, name, mode, numbers):
        try:
            os.chown(name, one.uid, one.gid, dir_fd=at, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise ContainerError(f"{where}: no id {one.uid}:{one.gid} in this user namespace", where=where) from None
        return
    tree = _open_device(scene, one.path, stat.S_IFMT(mode), numbers, where)
    found = os.fstat(tree)
    if one.file_mode is not None and stat.S_IMODE(found.st_mode) != stat.S_IMODE(mode):
        scene.warn(f"{where}.fileMode: the node's own file is shown, with mode {stat.S_IMODE(found.st_mode):#o}")
    _touch(name, at, 0o600)
    linux.move_mount(tree, at, name)
    os.close(tree)
