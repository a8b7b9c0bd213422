"""The container's root, and the way from the old root to it.

Everything is mounted in the container's own mount namespace, so nothing is ever mounted on the node. The order is the
defence: first the root changes, then all else is mounted *below the new root*, where no link in an image leads back to
the node (`inside` says how). What must come from the node (bind sources, device files) is taken along as detached
mounts:

    sources → root → pivot_root(".", ".") → /proc /dev /sys … → devices → groups → hooks → detach the old root → masks
"""

# Plain system calls: a path object costs a forked child copied pages, and hides which call it is.
# ruff: noqa: PTH103, PTH118

from __future__ import annotations

import errno
import os

from vmcontainer_kernel.container import devices, inside, linux, mounts, overlay
from vmcontainer_kernel.container.light import partial, suppress
from vmcontainer_kernel.container.spec import Mount, Spec
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError

__all__ = ["closing_steps", "detach_step", "group_steps", "mount_steps", "pivot_step", "return_step", "root_steps"]

_GROUP_TYPES = ("cgroup", "cgroup2")


def root_steps(spec: Spec, bundle: str, layers: tuple[str, ...], *, tty: bool) -> list[Step]:
    """Return the steps that make the root and step over to it; without `layers` the root is the specification's own
    folder.
    """
    root = os.path.join(bundle, spec.root.path)
    sources = mounts.sources(spec, bundle)
    steps = [_source_step(sources, tty=tty)] if sources or tty else []
    if layers:
        steps += [_private_step(), _overlay_step(spec, bundle, root, layers)]
    else:
        steps += [_folder_step(root, spec.linux.rootfs_propagation), _private_step()]
    return [*steps, pivot_step()]


def _source_step(sources: dict[str, tuple[str, bool, int]], *, tty: bool) -> Step:
    paths = [path for path, _, _ in sources.values()] + ["the terminal"] * tty
    return Step(
        "sources",
        f"open_tree(AT_FDCWD, {', '.join(paths)}, OPEN_TREE_CLONE)",
        "what comes from the node is taken along as mounts that are nowhere yet; afterwards no path leads to it",
        "open_tree(2)",
        partial(_open_sources, sources, tty=tty),
    )


def _open_sources(sources: dict[str, tuple[str, bool, int]], scene: Scene, *, tty: bool) -> None:
    for where, (path, recursive, spread) in sources.items():
        scene.sources[where] = mounts.open_source(path, where, spread, recursive=recursive)
    if tty:
        # By its path: the descriptor itself belongs to the node's mount namespace, of which nothing can be cloned here.
        with suppress(OSError):
            scene.sources["terminal"] = linux.open_tree(linux.AT_FDCWD, os.ttyname(0))


def _private_step() -> Step:
    return Step(
        "private",
        'mount(NULL, "/", NULL, MS_REC|MS_PRIVATE)',
        "mounts of the container must not appear on the node, nor the node's new ones in the container",
        "mount_namespaces(7)",
        lambda _: linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE),
    )


def _overlay_step(spec: Spec, bundle: str, root: str, layers: tuple[str, ...]) -> Step:
    one = overlay.Overlay(bundle, root, layers, user_namespace="user" in spec.linux.kinds)
    return Step(
        "overlay",
        f'mount("overlay", "{root}", "overlay", MS_NODEV, "{one.data(bundle)}")',
        "image layers stay as they are and are shared; what the container writes goes to its own upper folder",
        "overlayfs.rst",
        one.mount,
    )


def _folder_step(root: str, propagation: str) -> Step:
    return Step(
        "root",
        f'open_tree(AT_FDCWD, "{root}", OPEN_TREE_CLONE|AT_RECURSIVE)',
        "pivot_root takes a mount point only, and a bundle's root is a folder: a copy of its mount is one",
        "pivot_root(2), open_tree(2)",
        partial(_open_root, root, linux.MS_SLAVE if propagation.endswith("slave") else 0),
    )


def _open_root(root: str, spread: int, scene: Scene) -> None:
    try:
        place = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ContainerError(
            f"root.path: {root} is no folder: {error.strerror}",
            hint="a link is not followed" if error.errno in (errno.ENOTDIR, errno.ELOOP) else "",
            where="root.path",
        ) from None
    tree = linux.open_tree(place, "", linux.OPEN_TREE_CLONE | linux.AT_RECURSIVE | linux.AT_EMPTY_PATH)
    mounts.limit_spread(tree, spread)
    scene.sources["root"] = tree
    scene.sources["place"] = place
    scene.root = root


def pivot_step() -> Step:
    """Return the step that changes the root."""
    return Step(
        "pivot_root",
        'pivot_root(".", ".")',
        "the new root becomes /; the old one lies on top of it until it is detached",
        "pivot_root(2)",
        _pivot,
    )


def _pivot(scene: Scene) -> None:
    scene.old_root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    tree = scene.sources.pop("root", -1)
    if tree < 0:
        os.chdir(scene.root)
    else:
        place = scene.sources.pop("place")
        linux.move_mount(tree, place)
        os.fchdir(tree)
        os.close(place)
        os.close(tree)
    linux.pivot_root(".", ".")
    os.chdir("/")


def return_step() -> Step:
    """Return the step that makes the node's root / again, with the container's at its place: what hooks before
    pivot_root are promised to see.
    """
    return Step(
        "pivot back",
        "pivot_root(the node's root, the container's at its place in it)",
        "hooks run in the container's namespaces before its root changes, and may mount below the bundle's root",
        "config.md, createContainer Hooks",
        _pivot_back,
    )


def _pivot_back(scene: Scene) -> None:
    os.fchdir(scene.old_root_fd)
    os.close(scene.old_root_fd)
    linux.pivot_root(".", scene.root.lstrip("/"))
    os.chdir("/")


def mount_steps(spec: Spec) -> list[Step]:
    """Return a step for each mount of the specification but the control groups, and the devices once /dev is there."""
    steps, dev = [], False
    for where, original in mounts.named(spec):
        one = mounts.fitting(original, spec)
        if one.type in _GROUP_TYPES and not mounts.is_bind(one):
            continue
        steps.append(mounts.mount_step(one, where))
        if one.destination == "/dev":
            dev = True
            steps += [] if mounts.is_bind(one) else [devices.default_step()]
    if not dev:
        steps.append(devices.default_step())
    return [*steps, *devices.device_steps(spec)]


def group_steps(spec: Spec, groups: dict[str, str]) -> list[Step]:
    """Return the steps that show the control groups; `groups`: folder below /sys/fs/cgroup → folder of the node to show
    there, none: all of the node's.
    """
    found = [one for one in spec.mounts if one.type in _GROUP_TYPES and not mounts.is_bind(one)]
    return [_group_step(groups, one) for one in found]


def _group_step(groups: dict[str, str], one: Mount) -> Step:
    readonly = "ro" in one.options
    why = "shows its own limits and counters" if groups else "no group of its own: shows the node's"
    return Step(
        one.destination,
        f'move_mount(open_tree("{next(iter(groups.values()), "/sys/fs/cgroup")}"), "{one.destination}")'
        + (", read-only" if readonly else ""),
        f"{why}; writable it would be a way out (CVE-2022-0492)" if readonly else f"{why}, writable as asked",
        "cgroups(7)",
        partial(_show_groups, groups, one.destination, mounts.read_options(one.options)),
    )


def _show_groups(groups: dict[str, str], destination: str, options: mounts.Options, scene: Scene) -> None:
    place = inside.folder(destination)
    if not groups:
        _show(scene, "/sys/fs/cgroup", (place, ""), options.added, recursive=True)
    elif "" in groups:
        _show(scene, groups[""], (place, ""), options.added)
    else:  # version 1: a folder for each controller, which sysfs does not let us make
        os.fchdir(place)
        flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
        linux.mount("tmpfs", ".", "tmpfs", flags, "mode=755,size=64k")
        above = inside.find(destination)
        for name, path in groups.items():
            os.mkdir(name, 0o755, dir_fd=above)
            _show(scene, path, (above, name), options.added)
        if options.added & linux.MOUNT_ATTR_RDONLY:
            linux.mount_setattr(above, "", linux.MOUNT_ATTR_RDONLY)
        os.close(above)
    os.close(place)


def _show(scene: Scene, path: str, place: tuple[int, str], attributes: int, *, recursive: bool = False) -> None:
    flags = linux.OPEN_TREE_CLONE | (linux.AT_RECURSIVE if recursive else 0)
    tree = linux.open_tree(scene.old_root_fd, path.lstrip("/"), flags)
    if attributes:
        linux.mount_setattr(tree, "", attributes, recursive=recursive)
    linux.move_mount(tree, *place)
    os.close(tree)


def detach_step() -> Step:
    """Return the step after which the old root is gone."""
    return Step(
        "detach",
        'umount2(".", MNT_DETACH)',
        "from here on no path leads to the node's files",
        "pivot_root(2)",
        _detach,
    )


def closing_steps(spec: Spec) -> list[Step]:
    """Return the steps after the last mount: the program's folder, and what the new root is like."""
    steps = []
    if spec.process.cwd != "/":
        steps.append(_workdir_step(spec.process.cwd))
    if spec.root.readonly:
        steps.append(_readonly_step())
    if spec.linux.rootfs_propagation not in ("", "private", "rprivate"):
        steps.append(_spread_step(spec.linux.rootfs_propagation))
    return steps


def _readonly_step() -> Step:
    return Step(
        "read-only root",
        'mount_setattr(AT_FDCWD, "/", 0, MOUNT_ATTR_RDONLY)',
        "asked for: only /dev/shm and what is mounted can be written",
        "mount_setattr(2)",
        lambda _: linux.mount_setattr(linux.AT_FDCWD, "/", linux.MOUNT_ATTR_RDONLY),
    )


def _spread_step(propagation: str) -> Step:
    options = mounts.read_options((propagation,))
    flags = options.spread or options.all_spread | linux.MS_REC
    return Step(
        "propagation",
        f'mount(NULL, "/", NULL, {propagation})',
        "how mounts made later spread between this root and copies of it; never to the node",
        "mount_namespaces(7); config-linux.md, Rootfs Mount Propagation",
        lambda _: linux.mount(None, "/", None, flags),
    )


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
