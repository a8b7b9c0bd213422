"""Mounts of the specification: what each option means to the kernel, and a step for each mount.

The words of mount(8) become three things (config.md, "Linux mount options"): flags of mount(2) for a new file system,
attributes of mount_setattr(2) for one mount or, with an r in front, for a tree of them, and how mounts spread
(propagation). What is left over is for the file system itself.
"""

from __future__ import annotations

import errno
import os
import stat

from vmcontainer_kernel.container import copying, inside, linux
from vmcontainer_kernel.container.light import partial
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.spec import SHOWN_DEVICES, Mount, Spec
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError, SpecError

__all__ = [
    "Options",
    "fitting",
    "is_bind",
    "is_id_mapped",
    "limit_spread",
    "mount_step",
    "named",
    "open_source",
    "option_names",
    "read_options",
    "source",
    "sources",
]

_FLAGS = {
    "ro": linux.MS_RDONLY,
    "nosuid": linux.MS_NOSUID,
    "nodev": linux.MS_NODEV,
    "noexec": linux.MS_NOEXEC,
    "sync": linux.MS_SYNCHRONOUS,
    "remount": linux.MS_REMOUNT,
    "mand": linux.MS_MANDLOCK,
    "dirsync": linux.MS_DIRSYNC,
    "nosymfollow": linux.MS_NOSYMFOLLOW,
    "noatime": linux.MS_NOATIME,
    "nodiratime": linux.MS_NODIRATIME,
    "silent": linux.MS_SILENT,
    "relatime": linux.MS_RELATIME,
    "iversion": linux.MS_I_VERSION,
    "strictatime": linux.MS_STRICTATIME,
    "lazytime": linux.MS_LAZYTIME,
}
_UNFLAGS = {
    **{"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync", "nomand": "mand"},
    **{"symfollow": "nosymfollow", "atime": "noatime", "diratime": "nodiratime", "loud": "silent"},
    **{"norelatime": "relatime", "noiversion": "iversion", "nostrictatime": "strictatime", "nolazytime": "lazytime"},
}
_ATTRIBUTES = {
    "ro": (linux.MOUNT_ATTR_RDONLY, 0),
    "nosuid": (linux.MOUNT_ATTR_NOSUID, 0),
    "nodev": (linux.MOUNT_ATTR_NODEV, 0),
    "noexec": (linux.MOUNT_ATTR_NOEXEC, 0),
    "nosymfollow": (linux.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "nodiratime": (linux.MOUNT_ATTR_NODIRATIME, 0),
    "noatime": (linux.MOUNT_ATTR_NOATIME, linux.MOUNT_ATTR__ATIME),
    "strictatime": (linux.MOUNT_ATTR_STRICTATIME, linux.MOUNT_ATTR__ATIME),
    "relatime": (0, linux.MOUNT_ATTR__ATIME),
    "rw": (0, linux.MOUNT_ATTR_RDONLY),
    "suid": (0, linux.MOUNT_ATTR_NOSUID),
    "dev": (0, linux.MOUNT_ATTR_NODEV),
    "exec": (0, linux.MOUNT_ATTR_NOEXEC),
    "symfollow": (0, linux.MOUNT_ATTR_NOSYMFOLLOW),
    "diratime": (0, linux.MOUNT_ATTR_NODIRATIME),
    "atime": (0, linux.MOUNT_ATTR__ATIME),
    "norelatime": (0, linux.MOUNT_ATTR__ATIME),
    "nostrictatime": (0, linux.MOUNT_ATTR__ATIME),
}
"""Option → (attributes to add, attributes to take away); an access time attribute replaces whichever was there."""
_PROPAGATION = {
    "private": linux.MS_PRIVATE,
    "slave": linux.MS_SLAVE,
    "shared": linux.MS_SHARED,
    "unbindable": linux.MS_UNBINDABLE,
}
_OURS = ("bind", "rbind", "defaults", "idmap", "ridmap", "tmpcopyup", "copyup")
"""`copyup`, of a bind mount, is no other runtime's: an empty folder gets what it covers, as docker fills a volume."""


class Options(Record):
    """The options of one mount, understood.

    `flags`: MS_*; `added` and `removed`: MOUNT_ATTR_* of the mount itself, `all_added` and `all_removed` of the whole
    tree; `spread` and `all_spread`: MS_PRIVATE and so on, or 0; `data`: the file system's own.
    """

    flags: int = 0
    added: int = 0
    removed: int = 0
    all_added: int = 0
    all_removed: int = 0
    spread: int = 0
    all_spread: int = 0
    data: str = ""
    copies_up: bool = False


def option_names() -> list[str]:
    """Return the options that are not left to the file system (features.md, "Mount Options")."""
    whole = (f"r{name}" for name in (*_ATTRIBUTES, *_PROPAGATION))
    return sorted({*_FLAGS, *_UNFLAGS, *_PROPAGATION, *_OURS, *whole})


def read_options(options: tuple[str, ...]) -> Options:
    """Sort mount options; a later one wins over an earlier one that says the opposite."""
    flags, own, whole, spread, data = 0, [0, 0], [0, 0], [0, 0], []
    for one in options:
        short = one[1:]
        if one in _FLAGS:
            flags |= _FLAGS[one]
        elif one in _UNFLAGS:
            flags &= ~_FLAGS[_UNFLAGS[one]]
        elif one in _PROPAGATION:
            spread[0] = _PROPAGATION[one]
        elif one[:1] == "r" and short in _PROPAGATION:
            spread[1] = _PROPAGATION[short]
        elif one[:1] == "r" and short in _ATTRIBUTES:
            _merge(whole, _ATTRIBUTES[short])
        elif one not in _OURS:
            data.append(one)
        if one in _ATTRIBUTES:
            _merge(own, _ATTRIBUTES[one])
    return Options(
        *(flags, own[0], own[1], whole[0], whole[1], spread[0], spread[1]),
        data=",".join(data),
        copies_up="tmpcopyup" in options,
    )


def _merge(sets: list[int], change: tuple[int, int]) -> None:
    added, removed = change
    sets[0] = sets[0] & ~removed | added
    sets[1] = sets[1] & ~added | removed


def is_bind(mount: Mount) -> bool:
    """Tell whether a mount shows a part of the node; then its type says nothing (config.md, "Mounts")."""
    return mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options


def fitting(mount: Mount, spec: Spec) -> Mount:
    """Replace what a user namespace may not mount by the node's own (user_namespaces(7): it must own the pid or network
    namespace too); and mount /dev so that no device opens that was made there, where the node's are to be shown.
    """
    if mount.destination == "/dev" and SHOWN_DEVICES in spec.annotations and not is_bind(mount):
        return mount.replace(options=(*mount.options[:2], "nodev", *mount.options[2:]))
    kinds = spec.linux.kinds
    needed = {"proc": "pid", "sysfs": "network"}.get(mount.type)
    if "user" not in kinds or needed is None or needed in kinds:
        return mount
    return Mount(mount.destination, "bind", mount.destination, ("rbind", *mount.options))


def mount_step(one: Mount, where: str) -> Step:
    """Return the step for one mount; `where` is its name in the specification."""
    options = read_options(one.options)
    if not is_bind(one):
        return _plain_step(one, options, where)
    if options.data or options.flags & ~_BIND_FLAGS:
        wrong = options.data or ", ".join(name for name in one.options if _FLAGS.get(name, 0) & ~_BIND_FLAGS)
        raise SpecError(
            f"{where}.options: {wrong} cannot be set for a bind mount, only where the file system is mounted itself",
            where=f"{where}.options",
        )
    return _bind_step(one, options, where)


_BIND_FLAGS = sum(flag for name, flag in _FLAGS.items() if name in (*_ATTRIBUTES, "silent", "remount"))


def _plain_step(one: Mount, options: Options, where: str) -> Step:
    return Step(
        one.destination,
        f'mount("{one.type}", "{one.destination}", "{one.type}", {",".join(one.options)})',
        _WHY.get(one.type, "asked for"),
        _SOURCE.get(one.type, "mount(2)"),
        partial(_mount, one, options, where),
    )


_WHY = {
    "proc": "shows the processes of this pid namespace, not the node's",
    "tmpfs": "a file system in memory that vanishes with the container",
    "devpts": "terminals of its own, which the node's cannot be reached through",
    "mqueue": "message queues of this IPC namespace",
    "sysfs": "shows the devices of this network namespace; read-only, as it also changes the node's",
}
_SOURCE = {"proc": "proc(5)", "tmpfs": "tmpfs(5)", "devpts": "pts(4)", "mqueue": "mq_overview(7)", "sysfs": "sysfs(5)"}


def _mount(one: Mount, options: Options, where: str, _: Scene) -> None:
    place = _kernel_place(one.destination) if one.type in ("proc", "sysfs") else inside.folder(one.destination)
    os.fchdir(place)  # mount(2) takes a path only: that of the folder we stand in cannot be swapped
    try:
        linux.mount(one.source or one.type, ".", one.type, options.flags, options.data or None)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{where}: {one.destination}") from None
    if options.copies_up or options.all_added or options.all_removed or options.spread or options.all_spread:
        mounted = inside.find(one.destination)
        if options.copies_up:
            copying.copy_up(place, mounted)
        _change(mounted, options)
        os.close(mounted)
    os.close(place)


def _kernel_place(path: str) -> int:
    """Return the folder for procfs or sysfs, which no link may lead to: what is masked and written later is found by
    that path (CVE-2019-16884, CVE-2021-30465).
    """
    try:
        return inside.folder(path, links=False)
    except NotADirectoryError:
        raise ContainerError(
            f"{path} of the image is a link or a file: the kernel's files must not appear anywhere else",
            hint="use an image in which it is a folder",
            where=path,
        ) from None


def _change(fd: int, options: Options) -> None:
    """Set what mount(2) cannot: attributes of a tree, then how mounts spread."""
    if options.all_added or options.all_removed:
        linux.mount_setattr(fd, "", options.all_added, clear=options.all_removed, recursive=True)
    if options.spread:
        linux.mount_setattr(fd, "", 0, propagation=options.spread)
    if options.all_spread:
        linux.mount_setattr(fd, "", 0, propagation=options.all_spread, recursive=True)


def _bind_step(one: Mount, options: Options, where: str) -> Step:
    return Step(
        one.destination,
        f'move_mount(open_tree("{one.source}"), "{one.destination}"){_told(one.options)}',
        "shows a part of the node in the container",
        "move_mount(2), mount_setattr(2)" if one.options else "move_mount(2)",
        partial(_bind, one, options, where),
    )


def _told(options: tuple[str, ...]) -> str:
    others = [one for one in options if one not in ("bind", "rbind")]
    return f"; mount_setattr({', '.join(others)})" if others else ""


def _bind(one: Mount, options: Options, where: str, scene: Scene) -> None:
    if options.flags & linux.MS_REMOUNT:
        tree = inside.find(one.destination)
    else:
        tree = scene.handed[where] if where in scene.handed else scene.sources[where]
    place = -1
    if not options.flags & linux.MS_REMOUNT:
        is_folder = stat.S_ISDIR(os.fstat(tree).st_mode)
        place = inside.folder(one.destination) if is_folder else inside.file(one.destination)
        if not is_folder and stat.S_ISDIR(os.fstat(place).st_mode):
            raise ContainerError(
                f"{where}: {one.source} is not a directory, and {one.destination} in the container is one",
                hint="a file can be shown in the place of a file, a folder in that of a folder",
                where=where,
            )
        if "copyup" in one.options and is_folder:
            copying.copy_up(place, tree)  # as long as it can be written
    if options.added or options.removed:
        linux.mount_setattr(tree, "", options.added, clear=options.removed)
    _change(tree, options)
    if place >= 0:
        linux.move_mount(tree, place)
        os.close(place)
    os.close(tree)


def source(one: Mount, bundle: str) -> tuple[str, bool, int]:
    """Return what a bind mount shows: path, whether with the mounts below it, and the propagation it keeps."""
    path = one.source if one.source.startswith("/") else f"{bundle}/{one.source}"
    options = read_options(one.options)
    return path, "rbind" in one.options, options.all_spread or options.spread


def sources(spec: Spec, bundle: str) -> dict[str, tuple[str, bool, int]]:
    """Return what has to be opened of the node before the root changes, by name of the mount."""
    found = {}
    for where, original in named(spec):
        one = fitting(original, spec)
        if is_bind(one) and "remount" not in one.options and not is_id_mapped(one):
            found[where] = source(one, bundle)
    return found


def named(spec: Spec) -> list[tuple[str, Mount]]:
    """Return each mount with its name in the specification."""
    return [(f"mounts[{index}]", one) for index, one in enumerate(spec.mounts)]


def is_id_mapped(mount: Mount) -> bool:
    """Tell whether a mount shows its files with other owners (config.md, "Mounts": uidMappings, idmap)."""
    return bool(mount.uid_mappings or mount.gid_mappings or "idmap" in mount.options or "ridmap" in mount.options)


def open_source(path: str, where: str, spread: int, *, recursive: bool) -> int:
    """Return a detached copy of a mount of the node that spreads nothing, unless `spread` says otherwise.

    It is opened before this mount namespace is made private, so that "slave" and "shared" still have a peer.
    """
    flags = linux.OPEN_TREE_CLONE | (linux.AT_RECURSIVE if recursive else 0)
    try:
        tree = linux.open_tree(linux.AT_FDCWD, path, flags)
    except OSError as error:
        raise ContainerError(
            f"{where}.source: {path} cannot be shown in the container: {error.strerror}",
            hint="does it exist on this node?" if error.errno == errno.ENOENT else "",
            where=f"{where}.source",
        ) from None
    limit_spread(tree, spread)
    return tree


def limit_spread(tree: int, spread: int) -> None:
    """Take a copied mount out of the node's peer group, or leave it as its slave (MS_SLAVE) or member (MS_SHARED)."""
    if spread != linux.MS_SHARED:
        kept = linux.MS_SLAVE if spread == linux.MS_SLAVE else linux.MS_PRIVATE
        linux.mount_setattr(tree, "", 0, propagation=kept, recursive=True)
